"""The daily roll-up, which statistics read, from the transactions that it adds up."""

from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import BigInteger, ColumnElement, func, literal, not_, select, true, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.costs import COST, COUNTED, IS_COST
from app.billing.models import TOTALS, daily_usage, settings, transactions
from app.billing.money import format_nano, to_nano
from app.billing.periods import DAY, Granularity, day_start, local_date, split
from app.billing.types import Nano, exact_sum
from app.billing.verify.check import LedgerCheck, nano, stream

_NOTHING = (0, 0)
"""Cost and count of a day without usage, and of a row that is not there: it need not be."""
_KEY = ("account_id", "user_id", "aicore_provider", "aicore_model", "feature_code")


async def verify_roll_up(connection: AsyncConnection, check: LedgerCheck) -> None:
    """Adds up the cost of some days at a time."""
    zone = ZoneInfo(check.time_zone)
    stored = select(
        daily_usage.c.local_date,
        *(daily_usage.c[name] for name in _KEY),
        nano(daily_usage.c.cost, "cost"),
        daily_usage.c.transaction_count,
    ).where(daily_usage.c.mandate_id == check.mandate_id)
    costs = select(
        transactions.c.occurred_at,
        *(transactions.c[name] for name in _KEY),
        nano(COST, "cost"),
        COUNTED.label("counted"),
    ).where(transactions.c.mandate_id == check.mandate_id, IS_COST)
    instants = func.min(transactions.c.occurred_at), func.max(transactions.c.occurred_at)
    ends = (costs.with_only_columns(instant).scalar_subquery() for instant in instants)
    earliest, latest = (await connection.execute(select(*ends))).one()
    outside: ColumnElement[bool] = true()
    windows: list[tuple[date, date]] = []
    if earliest is not None:
        first, last = local_date(earliest, zone), local_date(latest, zone)
        windows = list(pairwise(split(first, last + DAY, Granularity.MONTH)))
        outside = not_(daily_usage.c.local_date.between(first, last))
    async for row in stream(connection, stored.where(outside)):
        _compare(check, row[:-2], row[-2:], _NOTHING)
    for start, end in windows:
        days: dict[tuple[Any, ...], tuple[int, int]] = {}
        between = (
            transactions.c.occurred_at >= day_start(start, zone),
            transactions.c.occurred_at < day_start(end, zone),
        )
        async for row in stream(connection, costs.where(*between)):
            key = (local_date(row.occurred_at, zone), *(name or "" for name in row[1:-2]))
            cost, count = days.get(key, _NOTHING)
            days[key] = (cost + row.cost, count + row.counted)
        within = (daily_usage.c.local_date >= start, daily_usage.c.local_date < end)
        async for row in stream(connection, stored.where(*within)):
            _compare(check, row[:-2], row[-2:], days.pop(row[:-2], _NOTHING))
        for key, computed in days.items():
            _compare(check, key, _NOTHING, computed)


async def verify_totals(connection: AsyncConnection, check: LedgerCheck) -> None:
    """The totals of the days that are totalled, from the roll-up itself."""
    none = literal(0, Nano()), literal(0, BigInteger())
    day = daily_usage.c.local_date
    for table in TOTALS:
        names = [column.name for column in table.primary_key if column.name != "mandate_id"]
        both = union_all(
            select(
                *(daily_usage.c[name] for name in names),
                *(daily_usage.c.cost, daily_usage.c.transaction_count),
                *none,
            )
            .join_from(daily_usage, settings, settings.c.mandate_id == daily_usage.c.mandate_id)
            .where(daily_usage.c.mandate_id == check.mandate_id, day < settings.c.totalled_until),
            select(
                *(table.c[name] for name in names),
                *none,
                *(table.c.cost, table.c.transaction_count),
            ).where(table.c.mandate_id == check.mandate_id),
        ).subquery()
        *keys, cost, count, total_cost, total_count = both.c
        sums = exact_sum(total_cost), func.sum(total_count), exact_sum(cost), func.sum(count)
        async for row in stream(connection, select(*keys, *sums).group_by(*keys)):
            first, *others = row[:-4]
            stored, computed = ((to_nano(row[at]), int(row[at + 1])) for at in (-4, -2))
            _compare(check, (first, None, *others), stored, computed)


def _compare(
    check: LedgerCheck, key: Sequence[Any], stored: Sequence[int], computed: Sequence[int]
) -> None:
    if stored == computed:
        return
    day, account_id, *names = key
    shown = ", ".join(name or "none" for name in names)
    check.found(
        account_id,
        f"the {'usage' if account_id else 'total'} of {day} ({shown})",
        *(f"{format_nano(cost)} in {count}" for cost, count in (stored, computed)),
    )
