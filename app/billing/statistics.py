"""What AI calls cost, by period, provider, model, feature and user.

By the mandate's own days the daily roll-up answers and the transactions are never read. Another
time zone, or a workflow, is read from the transactions by index. What a view shows together is
read by one statement: sums agree with each other while others write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from aiodataloader import DataLoader
from sqlalchemy import ColumnElement, Select, Table, case, func, literal, select, union_all

from app.billing.costs import COST, COUNTED, IS_COST
from app.billing.directory import find_mandate, time_zones
from app.billing.errors import BadInput
from app.billing.models import PeriodType, daily_usage, transactions
from app.billing.money import ZERO
from app.billing.paging import check_wanted
from app.billing.periods import bucket_days, day_start
from app.billing.types import exact_sum
from app.billing.viewer import Viewer
from app.database import Database

MAX_DAYS = 93
"""The longest range that is read from the transactions of a whole mandate."""


class UsageDimension(StrEnum):
    """What usage is grouped by; each value is a column of the roll-up and of the transactions."""

    PROVIDER = "aicore_provider"
    MODEL = "aicore_model"
    FEATURE = "feature_code"
    USER = "user_id"


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """What must hold for usage to count, all of it; None asks for nothing."""

    user_id: str | None = None
    aicore_provider: str | None = None
    aicore_model: str | None = None
    feature_code: str | None = None
    workflow_id: str | None = None


@dataclass(frozen=True, slots=True)
class CostSlice:
    """The part of a total that belongs to one key; None for usage that named none."""

    key: str | None
    cost: Decimal
    transaction_count: int


@dataclass(frozen=True, slots=True)
class UsageBucket:
    """The part of a total that falls into [start, end)."""

    start: datetime
    end: datetime
    cost: Decimal
    transaction_count: int


@dataclass(frozen=True, slots=True)
class _Usage:
    """Where usage is read from: which rows, and what each adds to which key."""

    rows: Sequence[ColumnElement[bool]]
    keys: Mapping[str, ColumnElement[Any]]
    """By dimension, "" or NULL for none, and `_BUCKET` for the place of the bucket."""
    cost: ColumnElement[Decimal]
    count: ColumnElement[int]

    def grouped_by(self, part: str) -> Select[Any]:
        key = self.keys[part].label("key")
        return (
            select(literal(str(part)), key, exact_sum(self.cost), func.sum(self.count))
            .where(*self.rows)
            .group_by(key)
        )


_BUCKET = "bucket"


class StatisticsView:
    """The statistics of one range. Whatever is asked for at once is read by one SELECT, once."""

    def __init__(
        self,
        database: Database,
        usage: _Usage,
        edges: Sequence[datetime],
        *,
        period: PeriodType,
        time_zone: str,
        currency: str,
    ) -> None:
        self.period = period
        self.from_ = edges[0]
        self.to = edges[-1]
        self.time_zone = time_zone
        self.currency = currency
        self._database = database
        self._usage = usage
        self._edges = edges
        self._parts: DataLoader[str, list[CostSlice]] = DataLoader(self._read)

    async def total_cost(self) -> Decimal:
        return sum((part.cost for part in await self._parts.load(_BUCKET)), ZERO)

    async def transaction_count(self) -> int:
        return sum(part.transaction_count for part in await self._parts.load(_BUCKET))

    async def cost_by(self, dimension: UsageDimension) -> Sequence[CostSlice]:
        """The total by provider, model, feature or user, dearest first; ties by key, none last."""
        return sorted(
            await self._parts.load(dimension),
            key=lambda part: (-part.cost, part.key is None, part.key or ""),
        )

    async def buckets(self) -> Sequence[UsageBucket]:
        """The total by time, in order and without gaps."""
        found = {int(part.key or 0): part for part in await self._parts.load(_BUCKET)}
        none = CostSlice(None, ZERO, 0)
        return [
            UsageBucket(start, end, part.cost, part.transaction_count)
            for place, (start, end) in enumerate(zip(self._edges, self._edges[1:], strict=False))
            for part in (found.get(place, none),)
        ]

    async def _read(self, parts: list[str]) -> list[list[CostSlice]]:
        found: dict[str, list[CostSlice]] = {part: [] for part in parts}
        async with self._database.read() as connection:
            rows = await connection.execute(union_all(*map(self._usage.grouped_by, parts)))
            for part, key, cost, count in rows:
                found[part].append(CostSlice(key or None, cost, int(count)))
        return list(found.values())


async def find_statistics(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    *,
    period: PeriodType,
    year: int,
    month: int | None,
    time_zone: str | None,
    usage_filter: UsageFilter,
) -> StatisticsView | None:
    """The statistics of a mandate's usage that the viewer may see; `period` is what a bucket is."""
    days = bucket_days(period, year, month)
    if time_zone is not None and time_zone not in time_zones():
        raise BadInput("timeZone must be an IANA name, such as Europe/Zurich.")
    _check_filter(usage_filter)
    mandate = await find_mandate(database, viewer, mandate_id)
    if mandate is None:
        return None
    time_zone = time_zone or mandate.time_zone
    edges = [day_start(day, ZoneInfo(time_zone)) for day in days]
    only_user = viewer.only_user(mandate_id)
    if usage_filter.workflow_id is None and time_zone == mandate.time_zone:
        usage = _rolled_up(mandate_id, only_user, usage_filter, days)
    elif usage_filter.workflow_id is None and (days[-1] - days[0]).days > MAX_DAYS:
        raise BadInput(
            f"timeZone: in another time zone than the mandate's own ({mandate.time_zone}) a range"
            f" has at most {MAX_DAYS} days. Leave timeZone out, ask for period DAY, or filter by"
            " workflowId."
        )
    else:
        usage = _posted(mandate_id, only_user, usage_filter, edges)
    return StatisticsView(
        database, usage, edges, period=period, time_zone=time_zone, currency=mandate.currency
    )


def _check_filter(usage_filter: UsageFilter) -> None:
    check_wanted(usage_filter.aicore_provider, "aicoreProvider")
    check_wanted(usage_filter.aicore_model, "aicoreModel")
    check_wanted(usage_filter.feature_code, "featureCode")
    check_wanted(usage_filter.workflow_id, "workflowId")


def _rolled_up(
    mandate_id: str, only_user: str | None, usage_filter: UsageFilter, days: Sequence[date]
) -> _Usage:
    """Usage by the mandate's own days."""
    columns = daily_usage.c
    return _Usage(
        rows=[
            columns.mandate_id == mandate_id,
            columns.local_date >= days[0],
            columns.local_date < days[-1],
            *_matching(daily_usage, only_user, usage_filter),
        ],
        keys=_keys(daily_usage, columns.local_date, days),
        cost=columns.cost,
        count=columns.transaction_count,
    )


def _posted(
    mandate_id: str, only_user: str | None, usage_filter: UsageFilter, edges: Sequence[datetime]
) -> _Usage:
    """Usage by any instants, from the ledger."""
    columns = transactions.c
    rows = [
        columns.mandate_id == mandate_id,
        columns.occurred_at >= edges[0],
        columns.occurred_at < edges[-1],
        IS_COST,
        *_matching(transactions, only_user, usage_filter),
    ]
    if usage_filter.workflow_id is not None:
        rows.append(columns.workflow_id == usage_filter.workflow_id)
    return _Usage(
        rows=rows,
        keys=_keys(transactions, columns.occurred_at, edges),
        cost=COST,
        count=COUNTED,
    )


def _matching(
    table: Table, only_user: str | None, usage_filter: UsageFilter
) -> list[ColumnElement[bool]]:
    wanted = [(dimension, getattr(usage_filter, dimension)) for dimension in UsageDimension]
    wanted.append((UsageDimension.USER, only_user))
    return [table.c[dimension] == value for dimension, value in wanted if value is not None]


def _keys(
    table: Table, moment: ColumnElement[Any], edges: Sequence[date]
) -> dict[str, ColumnElement[Any]]:
    """The dimensions, and the place from 0 of the bucket that a moment in the range falls into."""
    later = [(moment < edge, str(place)) for place, edge in enumerate(edges[1:-1])]
    bucket = case(*later, else_=str(len(later))) if later else literal("0")
    return {**{dimension: table.c[dimension] for dimension in UsageDimension}, _BUCKET: bucket}
