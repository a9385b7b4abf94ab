"""The usage of any range, in groups of any dimensions, each with its course over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from sqlalchemy import Integer, and_, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.errors import BadInput
from app.billing.money import ZERO
from app.billing.periods import MAX_YEAR, MIN_YEAR, Granularity
from app.billing.statistics.source import (
    UsageBucket,
    UsageDimension,
    UsageFilter,
    UsageRows,
    UsageSource,
    find_source,
)
from app.billing.types import exact_sum, exact_total, sum_order
from app.billing.viewer import Viewer
from app.database import Database
from app.statements import Statement

MAX_CELLS = 20_000
"""What one report may hold: its groups times its buckets stay below it."""


@dataclass(frozen=True, slots=True)
class UsageKey:
    """One of the values that make a group; None for usage that named none."""

    dimension: UsageDimension
    value: str | None


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """The part of a total that belongs to one combination of values."""

    keys: Sequence[UsageKey]
    cost: Decimal
    transaction_count: int
    buckets: Sequence[UsageBucket]


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The totals are those of all groups, shown or not."""

    from_: datetime
    to: datetime
    time_zone: str
    currency: str
    total_cost: Decimal
    transaction_count: int
    total_groups: int
    groups: Sequence[UsageGroup]


async def find_usage(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    *,
    from_: date,
    to: date,
    granularity: Granularity,
    group_by: Sequence[UsageDimension],
    first: int | None,
    time_zone: str | None,
    usage_filter: UsageFilter,
) -> UsageReport | None:
    """The usage of the local days [from, to) that the viewer may see, the `first` dearest groups.

    Without dimensions it is one group. None where the mandate is not the viewer's; BadInput for an
    empty range, a dimension that is named twice, `first` below 1, more groups times buckets than a
    report holds, and as from `find_source`.
    """
    if first is not None and first < 1:
        raise BadInput("first must be at least 1.")
    if len(set(group_by)) < len(group_by):
        raise BadInput("groupBy must name each dimension once.")
    _check_range(from_, to, granularity)

    async def read(
        connection: AsyncConnection,
    ) -> tuple[UsageSource, Sequence[Any], Sequence[Any]] | None:
        source = await find_source(
            connection,
            viewer,
            mandate_id,
            from_=from_,
            to=to,
            granularity=granularity,
            dimensions=group_by,
            time_zone=time_zone,
            usage_filter=usage_filter,
        )
        if source is None:
            return None
        # Samoa skipped 30 December 2011: a day without an hour.
        buckets = max(1, len(source.edges) - 1)
        most = (MAX_CELLS - 1) // buckets
        values = {**source.values, "groups": min(first or MAX_CELLS, most + 1)}
        groups = await _dearest(source.rows, *group_by).rows(connection, **values)
        total_groups = groups[0].total_groups if groups else 0
        if len(groups) > most:
            raise BadInput(
                f"groupBy: {total_groups} groups of {buckets} buckets each are more than a report"
                f" holds (groups times buckets stay under {MAX_CELLS}): ask for the dearest with"
                f" first: {most} or less, a coarser granularity or a shorter range."
            )
        cells = await _cells(source.rows, len(groups) < total_groups, *group_by).rows(
            connection, **values
        )
        return source, groups, cells

    # One snapshot: its statements agree with each other while others write.
    found = await database.reader.consult(read, snapshot=True)
    if found is None:
        return None
    source, groups, cells = found
    courses: dict[Sequence[str], dict[int, tuple[Decimal, int]]] = {}
    for *values, bucket, cost, count in cells:
        courses.setdefault(tuple(values), {})[bucket] = (cost, int(count))
    return UsageReport(
        from_=source.edges[0],
        to=source.edges[-1],
        time_zone=source.time_zone,
        currency=source.currency,
        total_cost=groups[0].total_cost if groups else ZERO,
        transaction_count=int(groups[0].total_count) if groups else 0,
        total_groups=groups[0].total_groups if groups else 0,
        groups=[
            UsageGroup(
                keys=[
                    UsageKey(dimension, value or None)
                    for dimension, value in zip(group_by, values, strict=True)
                ],
                cost=group.cost,
                transaction_count=int(group.transaction_count),
                buckets=source.without_gaps(courses.get(values, {})),
            )
            for group in groups
            for values in (tuple(group[: len(group_by)]),)
        ],
    )


def _check_range(from_: date, to: date, granularity: Granularity) -> None:
    """Refuses a range that is empty, out of bounds, or of more buckets than any report holds."""
    if from_ >= to:
        raise BadInput("to must be later than from: it is the day after the last.")
    if from_.year < MIN_YEAR or to > date(MAX_YEAR + 1, 1, 1):
        raise BadInput(f"from and to must be within the years {MIN_YEAR} to {MAX_YEAR}.")
    days = (to - from_).days
    years = to.year - from_.year + 1
    buckets = {
        Granularity.HOUR: days * 24,
        Granularity.DAY: days,
        Granularity.MONTH: years * 12,
        Granularity.YEAR: years,
    }[granularity]
    if buckets >= MAX_CELLS:
        raise BadInput(
            f"A report has fewer than {MAX_CELLS} groups times buckets, and this range has about"
            f" {buckets} buckets: ask for a shorter one or a coarser granularity."
        )


@lru_cache(256)
def _dearest(usage: UsageRows, *group_by: UsageDimension) -> Statement:
    """The dearest groups in order, ties by their keys; in each row the totals of all groups, too."""
    rows = usage.select(*group_by).subquery("usage")
    keys = [rows.c[dimension] for dimension in group_by]
    return Statement(
        select(
            *keys,
            exact_sum(rows.c.cost).label("cost"),
            func.coalesce(func.sum(rows.c.count), 0).label("transaction_count"),
            exact_total(rows.c.cost).label("total_cost"),
            func.coalesce(func.sum(func.sum(rows.c.count)).over(), 0).label("total_count"),
            func.count().over().label("total_groups"),
        )
        .group_by(*keys)
        .order_by(
            sum_order(rows.c.cost).desc(),
            *(order for key in keys for order in (key == "", key)),
        )
        .limit(bindparam("groups", type_=Integer()))
    )


@lru_cache(256)
def _cells(usage: UsageRows, are_some: bool, *group_by: UsageDimension) -> Statement:
    """The costs by group and bucket, of the dearest groups if not of all."""
    rows = usage.select(*group_by).subquery("usage")
    keys = [rows.c[dimension] for dimension in group_by]
    cells = select(
        *keys,
        usage.bucket(rows).label("bucket"),
        exact_sum(rows.c.cost).label("cost"),
        func.sum(rows.c.count).label("count"),
    ).group_by(*keys, "bucket")
    if are_some:
        shown = _dearest(usage, *group_by).query.subquery("shown")
        cells = cells.join(shown, and_(*(key == shown.c[key.name] for key in keys)))
    return Statement(cells)
