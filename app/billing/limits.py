"""Spend limits: what one member of a mandate may spend in each period of the mandate's time zone."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.checks import may_have_occurred
from app.billing.directory import Member
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


class LimitsInForce:
    """The limits of a mandate's members as they stand after what one unit of work has done."""

    def __init__(self, terms: Any, members: Mapping[str, Member], now: datetime) -> None:
        """`terms` is the mandate's settings row."""
        self._mandate_id: str = terms.mandate_id
        self._members = members
        self._zone = ZoneInfo(terms.time_zone)
        self._now = now
        self._limits: dict[tuple[str, date], SpendLimit] = {}
        """By user and the first day of the period."""

    async def read(
        self,
        connection: AsyncConnection,
        spends: Iterable[tuple[str | None, datetime | None]],
    ) -> None:
        """Reads what has become of the limits of these users in the periods of these times."""
        limits = {
            (user_id, limit.first): limit
            for user_id, occurred_at in spends
            if user_id is not None and (limit := self._unspent(user_id, occurred_at))
        }
        wanted = [((self._mandate_id, user_id), limit) for (user_id, _), limit in limits.items()]
        self._limits = dict(zip(limits, await with_use(connection, wanted), strict=True))

    def _unspent(self, user_id: str, occurred_at: datetime | None) -> SpendLimit | None:
        """The member's limit in the period of that time; None for a time that no call may have."""
        member = self._members.get(user_id)
        if member is None or member.spend_limit is None or member.spend_period is None:
            return None
        instant = occurred_at or self._now
        if not may_have_occurred(instant, self._now):
            return None
        return unspent(member.spend_limit, member.spend_period, self._zone, instant)

    def find(self, user_id: str | None, occurred_at: datetime | None) -> SpendLimit | None:
        """The member's limit in the period of that time; None for none, and without a user."""
        limit = None if user_id is None else self._unspent(user_id, occurred_at)
        return self._limits.get((user_id, limit.first)) if user_id and limit else None

    def count_spent(
        self, user_id: str | None, occurred_at: datetime | None, amount: Decimal
    ) -> None:
        """Counts a cost of that time."""
        limit = self.find(user_id, occurred_at)
        if user_id is not None and limit is not None:
            self._limits[user_id, limit.first] = replace(limit, spent=limit.spent + amount)

    def count_held(self, user_id: str, amount: Decimal) -> None:
        """Counts what is held, and below 0 what is not held any more."""
        for (holder, first), limit in self._limits.items():
            if holder == user_id:
                self._limits[holder, first] = replace(limit, held=limit.held + amount)
