"""The usage of any range, in groups of any dimensions, each with its course over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, and_, func, select

from app.billing.errors import BadInput
from app.billing.money import ZERO
from app.billing.periods import MAX_CELLS, Granularity, check_range
from app.billing.statistics.source import (
    Costs,
    UsageBucket,
    UsageDimension,
    UsageFilter,
    find_costs,
)
from app.billing.types import exact_sum, exact_total, sum_order
from app.billing.viewer import Viewer
from app.database import Database


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

    Without dimensions it is one group. None where the mandate is not the viewer's; BadInput for
    more buckets than a report holds, and as from `find_costs`.
    """
    if first is not None and first < 1:
        raise BadInput("first must be at least 1.")
    if len(set(group_by)) < len(group_by):
        raise BadInput("groupBy must name each dimension once.")
    check_range(from_, to, granularity)
    costs = await find_costs(
        database,
        viewer,
        mandate_id,
        from_=from_,
        to=to,
        granularity=granularity,
        dimensions=group_by,
        time_zone=time_zone,
        usage_filter=usage_filter,
    )
    if costs is None:
        return None
    # One snapshot: what the two statements say of a group agrees while others write.
    async with database.snapshot() as connection:
        buckets = len(costs.edges) - 1
        most = (MAX_CELLS - 1) // max(1, buckets)  # a day that was skipped has no hour
        dearest = _dearest(costs, group_by, min(first or MAX_CELLS, most + 1))
        groups = (await connection.execute(dearest)).all()
        total_groups = groups[0].total_groups if groups else 0
        if len(groups) > most:
            raise BadInput(
                f"groupBy: {total_groups} groups of {buckets} buckets each are more"
                f" than a report holds (groups times buckets stay under {MAX_CELLS}): ask for the"
                f" dearest with first: {most} or less, a coarser granularity or a shorter range."
            )
        shown = dearest if len(groups) < total_groups else None
        cells = (await connection.execute(_cells(costs, group_by, shown))).all()
    courses: dict[Sequence[str], dict[int, tuple[Decimal, int]]] = {}
    for *keys, bucket, cost, count in cells:
        courses.setdefault(tuple(keys), {})[bucket] = (cost, int(count))
    return UsageReport(
        from_=costs.edges[0],
        to=costs.edges[-1],
        time_zone=costs.time_zone,
        currency=costs.currency,
        total_cost=groups[0].total_cost if groups else ZERO,
        transaction_count=int(groups[0].total_count) if groups else 0,
        total_groups=total_groups,
        groups=[
            UsageGroup(
                keys=[
                    UsageKey(dimension, value or None)
                    for dimension, value in zip(group_by, group, strict=False)
                ],
                cost=group.cost,
                transaction_count=int(group.transaction_count),
                buckets=costs.without_gaps(courses.get(tuple(group[: len(group_by)]), {})),
            )
            for group in groups
        ],
    )


def _dearest(costs: Costs, group_by: Sequence[UsageDimension], most: int) -> Select[Any]:
    """The dearest groups in order, ties by their keys; in each row the totals of all groups, too."""
    rows = costs.rows(*group_by)
    keys = [rows.c[dimension] for dimension in group_by]
    return (
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
        .limit(most)
    )


def _cells(
    costs: Costs, group_by: Sequence[UsageDimension], shown: Select[Any] | None
) -> Select[Any]:
    """The costs by group and bucket, of the groups that are shown if these are not all."""
    rows = costs.rows(*group_by)
    keys = [rows.c[dimension] for dimension in group_by]
    cells = select(
        *keys,
        costs.bucket(rows).label("bucket"),
        exact_sum(rows.c.cost),
        func.sum(rows.c.count),
    ).group_by(*keys, "bucket")
    if shown is None:
        return cells
    groups = shown.subquery("shown")
    return cells.join(groups, and_(*(key == groups.c[key.name] for key in keys)))
