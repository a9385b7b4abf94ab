"""Spend limits: what one member of a mandate may spend in each period of the mandate's time zone."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.enums import PeriodType
from app.billing.held import IS_OPEN
from app.billing.models import daily_usage, holds, mandates, memberships
from app.billing.money import ZERO
from app.billing.periods import current_period, day_start, local_date
from app.billing.types import NOW, exact_sum

Spender = tuple[str, str]
"""Mandate id and user id."""


@dataclass(frozen=True, slots=True)
class SpendLimit:
    """A member's limit and what has become of it in the current period, whichever account pays."""

    amount: Decimal
    period: PeriodType
    first: date
    end: date
    """The local days of the current period: [first, end)."""
    resets_at: datetime
    spent: Decimal = ZERO
    """The member's cost of the period, as statistics count it."""
    held: Decimal = ZERO

    @property
    def remaining(self) -> Decimal:
        """What reversals take back of an earlier period raises no limit."""
        return max(ZERO, self.amount - max(ZERO, self.spent) - self.held)


def unspent(amount: Decimal, period: PeriodType, zone: ZoneInfo, now: datetime) -> SpendLimit:
    """The limit in the period of an instant; it resets when a day begins in the mandate's time zone."""
    first, end = current_period(period, local_date(now, zone))
    return SpendLimit(amount, period, first, end, day_start(end, zone))


async def spend_limits(
    connection: AsyncConnection, spenders: Sequence[Spender]
) -> list[SpendLimit | None]:
    """The limits of (mandate id, user id) pairs the caller may see, in the order asked; None for none."""
    rows = await connection.execute(
        select(
            memberships.c.mandate_id,
            memberships.c.user_id,
            memberships.c.spend_limit,
            memberships.c.spend_period,
            mandates.c.time_zone,
            NOW.label("now"),
        )
        .join_from(memberships, mandates, mandates.c.id == memberships.c.mandate_id)
        .where(
            memberships.c.mandate_id.in_({mandate_id for mandate_id, _ in spenders}),
            memberships.c.user_id.in_({user_id for _, user_id in spenders}),
            memberships.c.spend_limit.is_not(None),
        )
    )
    found = {
        (row.mandate_id, row.user_id): unspent(
            row.spend_limit, row.spend_period, ZoneInfo(row.time_zone), row.now
        )
        for row in rows
    }
    wanted = [(spender, found[spender]) for spender in spenders if spender in found]
    used = await with_use(connection, wanted)
    standing = {spender: limit for (spender, _), limit in zip(wanted, used, strict=True)}
    return [standing.get(spender) for spender in spenders]


async def with_use(
    connection: AsyncConnection, limits: Sequence[tuple[Spender, SpendLimit]]
) -> list[SpendLimit]:
    """The limits with what is held now and spent of each in its period.

    Held first: what is settled between the statements, on an account that is not locked, counts
    twice then, and never not at all.
    """
    if not limits:
        return []
    held = await _held_by_spender(connection, {spender for spender, _ in limits})
    spent = await _spent_in_periods(connection, limits)
    return [
        replace(
            limit,
            spent=spent.get((spender, limit.first, limit.end), ZERO),
            held=held.get(spender, ZERO),
        )
        for spender, limit in limits
    ]


async def _held_by_spender(
    connection: AsyncConnection, spenders: Collection[Spender]
) -> dict[Spender, Decimal]:
    """What is set aside for each, on all accounts of the mandate."""
    rows = await connection.execute(
        select(holds.c.mandate_id, holds.c.user_id, exact_sum(holds.c.amount))
        .where(
            holds.c.mandate_id.in_({mandate_id for mandate_id, _ in spenders}),
            holds.c.user_id.in_({user_id for _, user_id in spenders}),
            IS_OPEN,
        )
        .group_by(holds.c.mandate_id, holds.c.user_id)
    )
    return {(mandate_id, user_id): held for mandate_id, user_id, held in rows}


async def _spent_in_periods(
    connection: AsyncConnection, limits: Sequence[tuple[Spender, SpendLimit]]
) -> dict[tuple[Spender, date, date], Decimal]:
    """The cost of each spender in the period, from the roll-up: a statement for each period."""
    together: dict[tuple[date, date], set[Spender]] = {}
    for spender, limit in limits:
        together.setdefault((limit.first, limit.end), set()).add(spender)
    spent: dict[tuple[Spender, date, date], Decimal] = {}
    for (first, end), spenders in together.items():
        rows = await connection.execute(
            select(daily_usage.c.mandate_id, daily_usage.c.user_id, exact_sum(daily_usage.c.cost))
            .where(
                daily_usage.c.mandate_id.in_({mandate_id for mandate_id, _ in spenders}),
                daily_usage.c.user_id.in_({user_id for _, user_id in spenders}),
                daily_usage.c.local_date >= first,
                daily_usage.c.local_date < end,
            )
            .group_by(daily_usage.c.mandate_id, daily_usage.c.user_id)
        )
        spent |= {((mandate_id, user_id), first, end): cost for mandate_id, user_id, cost in rows}
    return spent
