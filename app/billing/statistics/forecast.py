"""For how long a balance will last, from what the last days have cost in the roll-up."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Select, Table, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.models import daily_totals, daily_usage, mandates, settings
from app.billing.money import ZERO, from_nano, to_nano
from app.billing.periods import DAY, local_date
from app.billing.types import exact_sum

DAYS_IN_SIGHT = 36_525
"""A hundred years: whatever lasts longer has no end in sight."""

BalanceKey = tuple[str, str | None]
"""Mandate id, and the user whose balance it is; None for the mandate's own."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a day costs, rounded half-even to nano units, and the day on which nothing is left."""

    daily_cost_7: Decimal
    daily_cost_30: Decimal
    empty_on: date | None


@dataclass(frozen=True, slots=True)
class Pace:
    """What the last days have cost, today left out."""

    today: date
    cost_7: Decimal
    cost_30: Decimal

    def forecast(self, available: Decimal | None) -> Forecast:
        """How long `available` lasts at the pace of 7 days; None is without limit."""
        return Forecast(_mean(self.cost_7, 7), _mean(self.cost_30, 30), self._empty_on(available))

    def _empty_on(self, available: Decimal | None) -> date | None:
        if available is None:
            return None
        if available <= ZERO:
            return self.today
        if self.cost_7 <= ZERO:
            return None
        days = int(available * 7 // self.cost_7)
        return self.today + days * DAY if days <= DAYS_IN_SIGHT else None


def _mean(cost: Decimal, days: int) -> Decimal:
    return from_nano(round(Fraction(to_nano(cost), days)))


async def paces(connection: AsyncConnection, keys: Sequence[BalanceKey]) -> list[Pace]:
    """The paces of balances that the caller may see: of the user's usage, or of the whole mandate's.

    There must be a key, and the mandate of each.
    """
    now = datetime.now(UTC)
    today: dict[str, date] = {}
    totalled_until: dict[str, date] = {}
    columns = mandates.c.id, mandates.c.time_zone, settings.c.totalled_until
    for mandate_id, zone, until in await connection.execute(
        select(*columns)
        .join_from(mandates, settings, settings.c.mandate_id == mandates.c.id)
        .where(mandates.c.id.in_({mandate_id for mandate_id, _ in keys}))
    ):
        today[mandate_id] = local_date(now, ZoneInfo(zone))
        totalled_until[mandate_id] = until
    costs: dict[tuple[str, str, date], Decimal] = {}
    # Each mandate has a today of its own: one range holds the days of all.
    end = max(today.values())
    start = min(today.values()) - 30 * DAY
    query = _by_day(keys, start, end, min(totalled_until.values()))
    for mandate_id, user_id, day, cost in await connection.execute(query):
        costs[mandate_id, user_id, day] = cost

    def cost_of(key: BalanceKey, days: int) -> Decimal:
        mandate_id, user_id = key
        past = (today[mandate_id] - back * DAY for back in range(1, days + 1))
        return sum((costs.get((mandate_id, user_id or "", day), ZERO) for day in past), ZERO)

    return [Pace(today[key[0]], cost_of(key, 7), cost_of(key, 30)) for key in keys]


def _by_day(keys: Sequence[BalanceKey], start: date, end: date, until: date) -> Select[Any]:
    """Costs of the days [start, end) by mandate and user, "" for all of a mandate's users.

    Before `until` all of them are totalled: what is not is read from there on alone.
    """
    with_user = {(mandate_id, user_id) for mandate_id, user_id in keys if user_id is not None}
    users = {user_id for _, user_id in with_user}
    of_users = {mandate_id for mandate_id, _ in with_user}
    others = {mandate_id for mandate_id, user_id in keys if user_id is None}

    def of(
        table: Table, user: ColumnElement[str], mandate_ids: Collection[str], first: date
    ) -> Select[Any]:
        day = table.c.local_date
        return select(table.c.mandate_id, user.label("user_id"), day, table.c.cost).where(
            table.c.mandate_id.in_(mandate_ids), day >= first, day < end
        )

    user, all_users = daily_usage.c.user_id, literal("")
    days = union_all(
        of(daily_usage, user, of_users, start).where(user.in_(users)),
        of(daily_totals, all_users, others, start),
        of(daily_usage, all_users, others, max(start, until))
        .join(settings, settings.c.mandate_id == daily_usage.c.mandate_id)
        .where(daily_usage.c.local_date >= settings.c.totalled_until),
    ).subquery()
    *key, cost = days.c
    return select(*key, exact_sum(cost)).group_by(*key)
