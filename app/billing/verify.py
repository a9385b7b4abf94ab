"""The proof of the books: every stored figure of a mandate computed again from its transactions."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import BigInteger, ColumnElement, Select, func, not_, select, true, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.models import (
    ReferenceType,
    TransactionType,
    accounts,
    daily_usage,
    mandates,
    transactions,
)
from app.billing.money import format_nano
from app.billing.periods import day_start

_ROWS = 1000
"""Fetched at once."""
_WINDOW = timedelta(days=31)
_NOTHING = (0, 0)
_DAY = timedelta(days=1)
_FIGURES = ("balance", "credited", "debited", "sequence", "funding_base")
_ROLLED_UP = ("account_id", "user_id", "aicore_provider", "aicore_model", "feature_code")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A stored figure that does not follow from the transactions."""

    mandate_id: str
    account_id: str
    figure: str
    stored: str
    computed: str

    def __str__(self) -> str:
        return (
            f"mandate {self.mandate_id}, account {self.account_id}: {self.figure} is {self.stored}"
            f" and must be {self.computed}"
        )


async def verify_ledger(connection: AsyncConnection, mandate_id: str) -> list[Mismatch]:
    """What is wrong in a mandate's books: accounts, history and roll-up.

    `connection` must be a snapshot. However long the history, little of it is in memory at once.
    """
    zone = ZoneInfo(
        (
            await connection.execute(
                select(mandates.c.time_zone).where(mandates.c.id == mandate_id)
            )
        ).scalar_one()
    )
    return [
        *[mismatch async for mismatch in _verify_accounts(connection, mandate_id)],
        *[mismatch async for mismatch in _verify_roll_up(connection, mandate_id, zone)],
    ]


def _nano(column: ColumnElement[Any]) -> ColumnElement[int]:
    """Money as the integer it is stored as: Python's own add without limit."""
    return type_coerce(column, BigInteger).label(column.key)


async def _stream(connection: AsyncConnection, query: Select[Any]) -> AsyncIterator[Any]:
    result = await connection.stream(query.execution_options(yield_per=_ROWS))
    async for rows in result.partitions():
        for row in rows:
            yield row


async def _verify_accounts(connection: AsyncConnection, mandate_id: str) -> AsyncIterator[Mismatch]:
    """Walks through each account's transactions in their order."""
    query = (
        select(
            accounts.c.id,
            *(_nano(accounts.c[name]).label(f"stored_{name}") for name in _FIGURES),
            transactions.c.sequence,
            transactions.c.transaction_type,
            transactions.c.reference_type,
            _nano(transactions.c.amount),
            _nano(transactions.c.balance_after),
        )
        .outerjoin_from(
            accounts,
            transactions,
            (transactions.c.mandate_id == accounts.c.mandate_id)
            & (transactions.c.account_id == accounts.c.id),
        )
        .where(accounts.c.mandate_id == mandate_id)
        .order_by(accounts.c.id, transactions.c.sequence)
    )
    account: Any = None
    figures: dict[str, int] = {}
    before = 0

    def closed() -> list[Mismatch]:
        if account is None:
            return []
        figures["balance"] = figures["credited"] - figures["debited"]
        return [
            Mismatch(mandate_id, account.id, name, _shown(name, stored), _shown(name, computed))
            for name, computed in figures.items()
            if (stored := getattr(account, f"stored_{name}")) != computed
        ]

    async for row in _stream(connection, query):
        if account is None or row.id != account.id:
            for mismatch in closed():
                yield mismatch
            account, figures, before = row, dict.fromkeys(_FIGURES, 0), 0
        if row.sequence is None:  # an account without transactions
            continue
        place = f"transaction {row.sequence}"
        if row.sequence != figures["sequence"] + 1:
            yield Mismatch(
                mandate_id,
                row.id,
                f"the sequence of {place}",
                str(row.sequence),
                str(figures["sequence"] + 1),
            )
        is_credit = row.transaction_type == TransactionType.CREDIT
        after = before + row.amount if is_credit else before - row.amount
        if row.balance_after != after:
            yield Mismatch(
                mandate_id,
                row.id,
                f"the balance after {place}",
                format_nano(row.balance_after),
                format_nano(after),
            )
        figures["credited" if is_credit else "debited"] += row.amount
        figures["sequence"] = row.sequence
        before = row.balance_after
        if is_credit and row.reference_type != ReferenceType.REVERSAL:
            figures["funding_base"] = row.balance_after
    for mismatch in closed():
        yield mismatch


def _shown(name: str, value: int) -> str:
    return str(value) if name == "sequence" else format_nano(value)


async def _verify_roll_up(
    connection: AsyncConnection, mandate_id: str, zone: ZoneInfo
) -> AsyncIterator[Mismatch]:
    """Adds up the usage of some days at a time."""
    stored = select(
        daily_usage.c.local_date,
        *(daily_usage.c[name] for name in _ROLLED_UP),
        _nano(daily_usage.c.cost),
        daily_usage.c.transaction_count,
    ).where(daily_usage.c.mandate_id == mandate_id)
    used = select(
        transactions.c.occurred_at,
        *(transactions.c[name] for name in _ROLLED_UP),
        _nano(transactions.c.amount),
    ).where(
        transactions.c.mandate_id == mandate_id,
        transactions.c.reference_type == ReferenceType.USAGE,
    )
    instants = func.min(transactions.c.occurred_at), func.max(transactions.c.occurred_at)
    earliest, latest = (await connection.execute(used.with_only_columns(*instants))).one()
    outside: ColumnElement[bool] = true()
    windows: list[tuple[date, date]] = []
    if earliest is not None:
        # A day more on either side: where clocks go back over midnight, a day comes in two parts.
        first, end = (earliest - _DAY).astimezone(zone), (latest + _DAY).astimezone(zone)
        windows = list(_windows(first.date(), end.date() + _DAY))
        outside = not_(daily_usage.c.local_date.between(first.date(), end.date()))
    async for row in _stream(connection, stored.where(outside)):
        yield _roll_up_mismatch(mandate_id, row[:-2], row[-2:], _NOTHING)
    for start, end in windows:
        days: dict[tuple[Any, ...], tuple[int, int]] = {}
        nearby = transactions.c.occurred_at.between(
            day_start(start, zone) - _DAY, day_start(end, zone) + _DAY
        )
        async for row in _stream(connection, used.where(nearby)):
            day = row.occurred_at.astimezone(zone).date()
            if start <= day < end:
                key = (day, *(name or "" for name in row[1:-1]))
                cost, count = days.get(key, _NOTHING)
                days[key] = (cost + row.amount, count + 1)
        within = (daily_usage.c.local_date >= start, daily_usage.c.local_date < end)
        async for row in _stream(connection, stored.where(*within)):
            computed = days.pop(row[:-2], _NOTHING)
            if row[-2:] != computed:
                yield _roll_up_mismatch(mandate_id, row[:-2], row[-2:], computed)
        for key, computed in days.items():
            yield _roll_up_mismatch(mandate_id, key, _NOTHING, computed)


def _windows(start: date, end: date) -> Iterator[tuple[date, date]]:
    while start < end:
        following = min(start + _WINDOW, end)
        yield start, following
        start = following


def _roll_up_mismatch(
    mandate_id: str, key: Sequence[Any], stored: Sequence[int], computed: Sequence[int]
) -> Mismatch:
    day, account_id, *names = key
    shown = ", ".join(name or "none" for name in names)
    return Mismatch(
        mandate_id,
        account_id,
        f"the usage of {day} ({shown})",
        *(f"{format_nano(cost)} in {count}" for cost, count in (stored, computed)),
    )
