"""Where statistics are read: the roll-up of the mandate's own days, or the transactions by index.

Days that are over are read from the totals where these can tell, which are far fewer rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Date,
    FromClause,
    Integer,
    Select,
    Table,
    bindparam,
    func,
    select,
    union_all,
)

from app.billing.costs import COST, COUNTED, IS_COST
from app.billing.directory import find_visible_mandate, time_zones
from app.billing.errors import BadInput
from app.billing.models import TOTALS, daily_usage, settings, transactions
from app.billing.money import ZERO
from app.billing.paging import check_wanted
from app.billing.periods import Granularity, day_start, split, split_hours
from app.billing.types import Identifier, Instant, Thresholds
from app.billing.viewer import Viewer
from app.statements import Source

MAX_DAYS = 93
"""The longest range that is read from the transactions of a whole mandate."""


class UsageDimension(StrEnum):
    """What usage is grouped by; each value is a column of the transactions."""

    PROVIDER = "aicore_provider"
    MODEL = "aicore_model"
    FEATURE = "feature_code"
    USER = "user_id"
    WORKFLOW = "workflow_id"


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """What must hold for usage to count, all of it; None asks for nothing."""

    user_id: str | None = None
    aicore_provider: str | None = None
    aicore_model: str | None = None
    feature_code: str | None = None
    workflow_id: str | None = None


@dataclass(frozen=True, slots=True)
class UsageBucket:
    """The part of a total that falls into [start, end)."""

    start: datetime
    end: datetime
    cost: Decimal
    transaction_count: int


class UsageRows(NamedTuple):
    """Which rows count, whatever the values are: of this kind each SELECT is built once."""

    are_rolled_up: bool
    """Read from the roll-up of the mandate's own days, else from the transactions."""
    wanted: tuple[UsageDimension, ...]
    """What a row must have a certain value of."""
    are_of_viewer: bool
    """Of the one user whose rows the viewer may see."""

    def select(self, *dimensions: UsageDimension) -> Select[Any] | CompoundSelect[Any]:
        """What counts: the dimensions ("" for none), `moment`, `cost` and `count` of each row."""
        if not self.are_rolled_up:
            return self._posted(dimensions)
        usage = self._rolled_up(daily_usage, dimensions)
        asked = {*dimensions, *self.wanted, *[UsageDimension.USER] * self.are_of_viewer}
        totals = next((table for table in TOTALS if asked <= set(table.c.keys())), None)
        if totals is None:
            return usage
        # A subquery and no join: the planner looks for this one day, and guesses nothing.
        until = select(settings.c.totalled_until).where(settings.c.mandate_id == _MANDATE_ID)
        return union_all(
            self._rolled_up(totals, dimensions),
            usage.where(daily_usage.c.local_date >= until.scalar_subquery()),
        )

    def _posted(self, dimensions: Sequence[UsageDimension]) -> Select[Any]:
        columns = transactions.c
        return select(
            *(func.coalesce(columns[name], "").label(name) for name in dimensions),
            columns.occurred_at.label("moment"),
            COST.label("cost"),
            COUNTED.label("count"),
        ).where(
            columns.mandate_id == _MANDATE_ID,
            columns.occurred_at >= bindparam("start", type_=Instant()),
            columns.occurred_at < bindparam("end", type_=Instant()),
            IS_COST,
            *self._wanted_of(transactions),
        )

    def _rolled_up(self, table: Table, dimensions: Sequence[UsageDimension]) -> Select[Any]:
        return select(
            *(table.c[name] for name in dimensions),
            table.c.local_date.label("moment"),
            table.c.cost,
            table.c.transaction_count.label("count"),
        ).where(
            table.c.mandate_id == _MANDATE_ID,
            table.c.local_date >= bindparam("start", type_=Date()),
            table.c.local_date < bindparam("end", type_=Date()),
            *self._wanted_of(table),
        )

    def _wanted_of(self, table: Table) -> list[ColumnElement[bool]]:
        names = {name.value: name for name in self.wanted}
        if self.are_of_viewer:
            names["only_user"] = UsageDimension.USER
        return [
            table.c[column] == bindparam(name, type_=table.c[column].type)
            for name, column in names.items()
        ]

    def bucket(self, rows: FromClause) -> ColumnElement[int]:
        """The place from 1 of the bucket that a row falls into."""
        kind = Date() if self.are_rolled_up else Instant()
        edges = bindparam("edges", type_=Thresholds(kind))
        return func.width_bucket(rows.c.moment, edges, type_=Integer())


_MANDATE_ID = bindparam("mandate_id", type_=Identifier())


@dataclass(frozen=True, slots=True)
class UsageSource:
    """The usage of a mandate in a range that a viewer may see: where and how to read what it cost."""

    time_zone: str
    """Whose days the buckets are."""
    currency: str
    edges: Sequence[datetime]
    """Where the buckets begin, in order, and the end of the last."""
    rows: UsageRows
    values: Mapping[str, Any]
    """What the rows are compared with, by name."""

    def without_gaps(self, found: Mapping[int, tuple[Decimal, int]]) -> list[UsageBucket]:
        """All buckets in order, from those that are not empty: cost and count by place from 1."""
        return [
            UsageBucket(start, end, *found.get(place, (ZERO, 0)))
            for place, (start, end) in enumerate(pairwise(self.edges), start=1)
        ]


async def find_source(
    source: Source,
    viewer: Viewer,
    mandate_id: str,
    *,
    from_: date,
    to: date,
    granularity: Granularity,
    dimensions: Sequence[UsageDimension],
    time_zone: str | None,
    usage_filter: UsageFilter,
) -> UsageSource | None:
    """The usage of the local days [from, to); None where the mandate is not the viewer's.

    BadInput for what no row can meet, an unknown time zone, and more days than can be read.
    """
    if time_zone is not None and time_zone not in time_zones():
        raise BadInput("timeZone must be an IANA name, such as Europe/Zurich.")
    check_wanted(usage_filter.aicore_provider, "aicoreProvider")
    check_wanted(usage_filter.aicore_model, "aicoreModel")
    check_wanted(usage_filter.feature_code, "featureCode")
    check_wanted(usage_filter.workflow_id, "workflowId")
    mandate = await find_visible_mandate(source, viewer, mandate_id)
    if mandate is None:
        return None
    wanted = {name: getattr(usage_filter, name) for name in UsageDimension}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    only_user = viewer.only_user(mandate_id)
    zone = ZoneInfo(time_zone or mandate.time_zone)
    beyond = _beyond_roll_up(mandate, zone.key, granularity, dimensions)
    of_workflow = usage_filter.workflow_id is not None
    if beyond and not of_workflow and (to - from_).days > MAX_DAYS:
        raise BadInput(
            f"{beyond} is read from single transactions, at most {MAX_DAYS} days of them: ask for"
            " a shorter range, or filter by workflowId."
        )
    days = split(from_, to, granularity)
    edges = (
        split_hours(from_, to, zone)
        if granularity is Granularity.HOUR
        else [day_start(day, zone) for day in days]
    )
    are_rolled_up = not beyond and not of_workflow
    ends: Sequence[Any] = days if are_rolled_up else edges
    return UsageSource(
        time_zone=zone.key,
        currency=mandate.currency,
        edges=edges,
        rows=UsageRows(are_rolled_up, tuple(wanted), only_user is not None),
        values={
            "mandate_id": mandate_id,
            "start": ends[0],
            "end": ends[-1],
            "edges": ends,
            "only_user": only_user,
            **{name.value: value for name, value in wanted.items()},
        },
    )


def _beyond_roll_up(
    mandate: Any, time_zone: str, granularity: Granularity, dimensions: Sequence[UsageDimension]
) -> str | None:
    """What of the question the roll-up cannot answer."""
    if granularity is Granularity.HOUR:
        return "granularity: HOUR"
    if UsageDimension.WORKFLOW in dimensions:
        return "groupBy: WORKFLOW"
    if time_zone != mandate.time_zone:
        return f"timeZone: another one than the mandate's own ({mandate.time_zone})"
    return None
