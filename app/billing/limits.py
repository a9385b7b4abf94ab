"""Spend limits: what one member of a mandate may spend in each period of the mandate's time zone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.held import IS_OPEN
from app.billing.models import PeriodType, daily_usage, holds, mandates, memberships
from app.billing.money import ZERO
from app.billing.periods import current_period, day_start
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
        return max(ZERO, self.amount - self.spent - self.held)


def unspent(amount: Decimal, period: PeriodType, zone: ZoneInfo, now: datetime) -> SpendLimit:
    """The limit in the period of an instant; it resets when a day begins in the mandate's time zone."""
    first, end = current_period(period, now.astimezone(zone).date())
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
    wanted = {spender: found[spender] for spender in spenders if spender in found}
    used = await with_use(connection, wanted)
    return [used.get(spender) for spender in spenders]


async def with_use(
    connection: AsyncConnection, limits: Mapping[Spender, SpendLimit]
) -> dict[Spender, SpendLimit]:
    """The limits with what is held and spent of them now.

    Held first: what is settled between the two statements, on an account that is not locked, counts
    twice then, and never not at all.
    """
    if not limits:
        return {}
    held = await _held_by_spender(connection, limits)
    spent = await _spent_by_spender(connection, limits)
    return {
        spender: replace(limit, spent=spent.get(spender, ZERO), held=held.get(spender, ZERO))
        for spender, limit in limits.items()
    }


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


async def _spent_by_spender(
    connection: AsyncConnection, limits: Mapping[Spender, SpendLimit]
) -> dict[Spender, Decimal]:
    """The cost of each in the current period of their limit, from the roll-up."""
    together: dict[Any, list[str]] = {}
    for (mandate_id, user_id), limit in limits.items():
        together.setdefault((mandate_id, limit.first, limit.end), []).append(user_id)
    rows = await connection.execute(
        select(daily_usage.c.mandate_id, daily_usage.c.user_id, exact_sum(daily_usage.c.cost))
        .where(
            or_(
                *(
                    and_(
                        daily_usage.c.mandate_id == mandate_id,
                        daily_usage.c.user_id.in_(user_ids),
                        daily_usage.c.local_date >= first,
                        daily_usage.c.local_date < end,
                    )
                    for (mandate_id, first, end), user_ids in together.items()
                )
            )
        )
        .group_by(daily_usage.c.mandate_id, daily_usage.c.user_id)
    )
    return {(mandate_id, user_id): spent for mandate_id, user_id, spent in rows}
