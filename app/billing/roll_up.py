"""The daily roll-up of cost: written with the rows it adds up, totalled when a day is over, rebuilt."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Select, Table, and_, case, delete, func, insert, literal, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.bulk import add_rows
from app.billing.costs import COST, COUNTED, IS_COST
from app.billing.enums import ReferenceType
from app.billing.models import TOTALS, daily_usage, settings, transactions
from app.billing.money import ZERO
from app.billing.periods import DAY, Granularity, day_start, local_date, split
from app.billing.settings import lock_settings
from app.database import Database

OVER = timedelta(hours=13)
"""So long after its end in UTC a day is over in every time zone, and for an hour already."""
_NAMES = ("aicore_provider", "aicore_model", "feature_code")
_KEYS = ("user_id", "account_id", *_NAMES)
_SUMS = ("cost", "transaction_count")


async def roll_up(
    connection: AsyncConnection, terms: Any, rows: Iterable[Mapping[str, Any]]
) -> None:
    """Adds new transactions of one mandate: what usage costs, less what reversals of usage take back.

    `terms` is the mandate's locked settings row.
    """
    zone = ZoneInfo(terms.time_zone)
    days: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        is_usage = row["reference_type"] == ReferenceType.USAGE
        if not is_usage and row["reversed_type"] != ReferenceType.USAGE:
            continue
        day: dict[str, Any] = {"local_date": local_date(row["occurred_at"], zone)}
        day |= {name: row[name] or "" for name in _KEYS}
        total = days.setdefault(
            tuple(day.values()),
            day | {"mandate_id": terms.mandate_id, "cost": ZERO, "transaction_count": 0},
        )
        total["cost"] += row["amount"] if is_usage else -row["amount"]
        total["transaction_count"] += is_usage
    await add_rows(connection, daily_usage, terms.mandate_id, _SUMS, list(days.values()))
    late = [day for day in days.values() if day["local_date"] < terms.totalled_until]
    for table in TOTALS:
        await add_rows(connection, table, terms.mandate_id, _SUMS, _together(table, late))


def _together(table: Table, days: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The days as rows of the table, which keeps less apart: one for each of its keys."""
    keys = [column.name for column in table.primary_key]
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    for day in days:
        key = tuple(day[name] for name in keys)
        total = sums.setdefault(
            key, dict(zip(keys, key, strict=True)) | {"cost": ZERO, "transaction_count": 0}
        )
        for name in _SUMS:
            total[name] += day[name]
    return list(sums.values())


async def total_days(database: Database, now: datetime) -> None:
    """Totals the days that are over, in every mandate that has usage of them."""
    end = (now - OVER).date()
    failure: DBAPIError | None = None
    for mandate_id in await _mandates_to_total(database, end):
        try:
            await database.write(partial(_total_mandate, mandate_id=mandate_id, end=end))
        except DBAPIError as error:  # of one mandate, which does not stop the others
            failure = error
    if failure:
        raise failure


async def _mandates_to_total(database: Database, end: date) -> Sequence[str]:
    query = select(settings.c.mandate_id).where(
        select(daily_usage.c.mandate_id)
        .where(
            daily_usage.c.mandate_id == settings.c.mandate_id,
            daily_usage.c.local_date >= settings.c.totalled_until,
            daily_usage.c.local_date < end,
        )
        .exists()
    )
    async with database.read() as connection:
        return (await connection.execute(query)).scalars().all()


async def _total_mandate(connection: AsyncConnection, mandate_id: str, end: date) -> None:
    # No spend of the mandate is under way: what comes later adds to the totals itself.
    terms = await lock_settings(connection, mandate_id, change=True)
    if terms.totalled_until < end:
        await _total(connection, mandate_id, terms.totalled_until, end)
        this = settings.c.mandate_id == mandate_id
        await connection.execute(update(settings).where(this).values(totalled_until=end))


async def rebuild_roll_up(database: Database, mandate_id: str) -> AsyncIterator[float]:
    """Computes a mandate's roll-up again from its transactions, while others write.

    The mandate's spends wait for one week at a time. Yields how much of it is done, up to 1.
    """
    day: date | None = date.min
    while day is not None:

        async def unit(connection: AsyncConnection, start: date = day) -> tuple[date | None, float]:
            terms = await lock_settings(connection, mandate_id, change=True)
            return await rebuild_next_week(connection, terms, start)

        day, done = await database.write(unit)
        yield done


async def rebuild_next_week(
    connection: AsyncConnection, terms: Any, start: date
) -> tuple[date | None, float]:
    """Rebuilds a week from the first day that has usage from `start` on, and empties those before it.

    `terms` is the mandate's settings row, locked to change it. Returns the day to go on with, None
    at the end, and how much of the mandate's history is done, up to 1.
    """
    zone = ZoneInfo(terms.time_zone)
    mandate_id, occurred = terms.mandate_id, transactions.c.occurred_at
    costs = and_(transactions.c.mandate_id == mandate_id, IS_COST)
    # Each by itself: SQLite takes an index for a minimum or a maximum that is alone.
    ends = (select(end(occurred)).where(costs).scalar_subquery() for end in (func.min, func.max))
    earliest, latest = (await connection.execute(select(*ends))).one()
    following = earliest
    if earliest is not None and start > local_date(earliest, zone):
        later = select(func.min(occurred)).where(costs, occurred >= day_start(start, zone))
        following = (await connection.execute(later)).scalar_one()
    if following is None:
        await _empty(connection, mandate_id, start, date.max)
        return None, 1
    first = local_date(following, zone)
    *days, end = split(first, first + 7 * DAY, Granularity.DAY)
    await _empty(connection, mandate_id, start, days[-1])
    endings = [(occurred < day_start(day + DAY, zone), literal(day)) for day in days]
    account_id = transactions.c.account_id
    names = [transactions.c[name] for name in ("user_id", *_NAMES)]
    usage = (
        select(
            transactions.c.mandate_id,
            case(*endings).label("local_date"),
            account_id,
            *(func.coalesce(name, "").label(name.key) for name in names),
            func.sum(COST).label("cost"),
            func.sum(COUNTED).label("transaction_count"),
        )
        .where(costs, occurred >= day_start(first, zone), occurred < day_start(end, zone))
        .group_by(transactions.c.mandate_id, "local_date", account_id, *names)
    )
    await _insert_from(connection, daily_usage, usage)
    await _total(connection, mandate_id, first, min(end, terms.totalled_until))
    begun = local_date(earliest, zone)
    whole = (local_date(latest, zone) - begun).days + 1
    return end, min(1, (end - begun).days / whole)


async def _empty(connection: AsyncConnection, mandate_id: str, start: date, last: date) -> None:
    for table in (daily_usage, *TOTALS):
        this = table.c.mandate_id == mandate_id
        await connection.execute(delete(table).where(this, table.c.local_date.between(start, last)))


async def _total(connection: AsyncConnection, mandate_id: str, start: date, end: date) -> None:
    """Adds the days [start, end), which are not totalled yet."""
    sums = [func.sum(daily_usage.c[name]).label(name) for name in _SUMS]
    day = daily_usage.c.local_date
    for table in TOTALS:
        keys = [daily_usage.c[column.name] for column in table.primary_key]
        days = (
            select(*keys, *sums)
            .where(daily_usage.c.mandate_id == mandate_id, day >= start, day < end)
            .group_by(*keys)
        )
        await _insert_from(connection, table, days)


async def _insert_from(connection: AsyncConnection, table: Table, query: Select[Any]) -> None:
    await connection.execute(insert(table).from_select(query.selected_columns.keys(), query))
