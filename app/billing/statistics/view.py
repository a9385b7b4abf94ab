"""The statistics of a month or a year: one total, its parts and its course."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from aiodataloader import DataLoader
from sqlalchemy import ColumnElement, Select, String, cast, func, literal, select, union_all

from app.billing.enums import PeriodType
from app.billing.money import ZERO
from app.billing.periods import Granularity, period_range
from app.billing.statistics.source import (
    UsageBucket,
    UsageDimension,
    UsageFilter,
    UsageRows,
    UsageSource,
    find_source,
)
from app.billing.types import exact_sum
from app.billing.viewer import Viewer
from app.database import Database, Reader
from app.statements import Statement


@dataclass(frozen=True, slots=True)
class CostSlice:
    """The part of a total that belongs to one key; None for usage that named none."""

    key: str | None
    cost: Decimal
    transaction_count: int


_BUCKET = "bucket"


class StatisticsView:
    """The statistics of one range. Whatever is asked for at once is read by one SELECT, once."""

    def __init__(self, reader: Reader, source: UsageSource, period: PeriodType) -> None:
        self.period = period
        self.from_ = source.edges[0]
        self.to = source.edges[-1]
        self.time_zone = source.time_zone
        self.currency = source.currency
        self._reader = reader
        self._source = source
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
        found = {
            int(part.key or 0): (part.cost, part.transaction_count)
            for part in await self._parts.load(_BUCKET)
        }
        return self._source.without_gaps(found)

    async def _read(self, parts: list[str]) -> list[list[CostSlice]]:
        found: dict[str, list[CostSlice]] = {part: [] for part in parts}
        statement = _costs(self._source.rows, *parts)
        rows = await statement.rows(self._reader, **self._source.values)
        for part, key, cost, count in rows:
            found[part].append(CostSlice(key or None, cost, int(count)))
        return list(found.values())


@lru_cache(256)
def _costs(rows: UsageRows, *parts: str) -> Statement:
    """Selects the costs of each part by its key."""
    # The totals of all users and those by user are different rows: each are read once.
    of_users = [part for part in parts if part == UsageDimension.USER]
    of_all = [part for part in parts if part != UsageDimension.USER]
    return Statement(
        union_all(*_sums(rows, of_all, "usage"), *_sums(rows, of_users, "usage_of_users"))
    )


def _sums(usage: UsageRows, parts: Sequence[str], name: str) -> list[Select[Any]]:
    dimensions = [UsageDimension(part) for part in parts if part != _BUCKET]
    rows = usage.select(*dimensions).cte(name)
    queries: list[Select[Any]] = []
    for part in parts:
        key = usage.bucket(rows) if part == _BUCKET else rows.c[part]
        columns: list[ColumnElement[Any]] = [
            literal(part).label("part"),
            cast(key, String).label("key"),
            exact_sum(rows.c.cost).label("cost"),
            func.sum(rows.c.count).label("count"),
        ]
        queries.append(select(*columns).group_by("key"))
    return queries


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
    """The statistics of a mandate's usage that the viewer may see; `period` is what a bucket is.

    None where the mandate is not the viewer's; BadInput as from `find_source`.
    """
    from_, to = period_range(period, year, month)
    source = await find_source(
        database,
        viewer,
        mandate_id,
        from_=from_,
        to=to,
        granularity=Granularity(period),
        dimensions=(),
        time_zone=time_zone,
        usage_filter=usage_filter,
    )
    return None if source is None else StatisticsView(database.reader, source, period)
