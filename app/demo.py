"""Demo data: five mandates with a year of usage, booked through the domain like any other.

The same seed and the same `now` give the same users, events, amounts and balances.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import is_active, issue_token
from app.billing.credits import add_credit
from app.billing.directory import upsert_mandate, upsert_membership, upsert_user
from app.billing.enums import BillingModel, MembershipRole, ReferenceType, UserKind
from app.billing.models import mandates, outbox
from app.billing.money import ZERO
from app.billing.settings import update_settings
from app.billing.usage import MAX_EVENTS, UsageEvent, record_usage
from app.billing.viewer import OPERATOR
from app.config import Settings
from app.database import Database

SEED = 1
SYSADMIN, ADMIN, MEMBER, GATEWAY = "demo-sysadmin", "university-admin", "member-one", "gateway"
_DAY = 24 * 60 * 60
ROLES = {
    "a sysadmin": SYSADMIN,
    "a mandate admin": ADMIN,
    "a member": MEMBER,
    "the AI gateway": GATEWAY,
}
"""One user of each role, to try the API as."""
BLOCKED, IN_WARNING = "member-two", "member-three"
"""Users whose account at the university is empty, and nearly so."""

_DAYS = 365
_PERIODS = 4
_MODELS = (  # provider, model, price of a million tokens in and out, weight
    ("openai", "gpt-4o", Decimal("2.5"), Decimal(10), 4),
    ("openai", "gpt-4o-mini", Decimal("0.15"), Decimal("0.6"), 3),
    ("anthropic", "claude-sonnet", Decimal(3), Decimal(15), 4),
    ("mistral", "mistral-small", Decimal("0.1"), Decimal("0.3"), 1),
)
_PROVIDERS = tuple(provider for provider, *_ in _MODELS)
_FEATURES = ("chat", "summarise", "translate", "search")
_BY_HOUR = (1, 1, 1, 1, 1, 2, 4, 10, 24, 34, 36, 30, 18, 28, 34, 34, 28, 18, 9, 7, 6, 4, 2, 1)
_BY_WEEKDAY = (1.0, 1.1, 1.1, 1.0, 0.8, 0.2, 0.15)


class NotEmpty(Exception):
    """The database has mandates already, so demo data has no place in it."""


@dataclass(frozen=True, slots=True)
class _Mandate:
    id: str
    name: str
    currency: str
    time_zone: str
    calls_a_day: float
    """Of one user on an ordinary day."""
    settings: Mapping[str, Any]
    members: Mapping[str, MembershipRole]

    @property
    def model(self) -> BillingModel:
        return BillingModel(self.settings.get("billing_model", BillingModel.UNLIMITED))


def _members(admin: str, *others: str) -> dict[str, MembershipRole]:
    return {admin: MembershipRole.ADMIN} | dict.fromkeys(others, MembershipRole.MEMBER)


_MANDATES = (
    _Mandate(
        "demo-university",
        "Demo University",
        "CHF",
        "Europe/Zurich",
        2.5,
        {
            "billing_model": BillingModel.PREPAY_USER,
            "default_user_credit": Decimal(10),
            "notify_emails": ["billing@example.com"],
        },
        _members(ADMIN, MEMBER, BLOCKED, IN_WARNING, "member-four"),
    ),
    _Mandate(
        "demo-agency",
        "Demo Agency",
        "EUR",
        "Europe/Berlin",
        2.5,
        {
            "billing_model": BillingModel.PREPAY_MANDATE,
            "allowed_providers": ["anthropic", "mistral", "openai"],
        },
        _members("agency-admin", IN_WARNING, "member-four", "member-five"),
    ),
    _Mandate(
        "demo-factory",
        "Demo Factory",
        "USD",
        "America/New_York",
        4.0,
        {"billing_model": BillingModel.CREDIT_POSTPAY, "credit_limit": Decimal(500)},
        _members("factory-admin", "member-five", "member-six"),
    ),
    _Mandate(
        "demo-laboratory",
        "Demo Laboratory",
        "CHF",
        "Europe/Zurich",
        2.0,
        {"billing_model": BillingModel.UNLIMITED},
        _members("laboratory-admin", MEMBER, "member-six"),
    ),
    _Mandate(
        "demo-startup",
        "Demo Startup",
        "CHF",
        "UTC",
        1.5,
        {},
        _members("laboratory-admin", "member-six"),
    ),
)
_IDS = [mandate.id for mandate in _MANDATES]


async def seed_demo(
    database: Database,
    now: datetime,
    *,
    seed: int = SEED,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Fills an empty database and returns how many events it booked; NotEmpty for any other.

    `advance` is told how many events of how many are booked.
    """
    async with database.read() as connection:
        if (await connection.execute(select(mandates.c.id).limit(1))).first() is not None:
            raise NotEmpty("The database has mandates already: demo data needs an empty one.")
    usage = [_events(mandate, now, seed) for mandate in _MANDATES]
    total, done = sum(map(len, usage)), 0
    await _create_users(database)
    for mandate, events in zip(_MANDATES, usage, strict=True):
        await _create_mandate(database, mandate)
        balances: dict[str | None, Decimal] = {}
        for period in range(_PERIODS):
            first, last = (len(events) * place // _PERIODS for place in (period, period + 1))
            await _fund(database, mandate, events[first:last], period, balances)
            for start in range(first, last, MAX_EVENTS):
                batch = events[start : min(start + MAX_EVENTS, last)]
                await record_usage(database, OPERATOR, batch, _PROVIDERS, imported=True)
                done += len(batch)
                advance(done, total)
    await database.write(_forget_notices)
    return total


async def _forget_notices(connection: AsyncConnection) -> None:
    """Nobody is to be told of a year that never was."""
    await connection.execute(delete(outbox).where(outbox.c.mandate_id.in_(_IDS)))


async def _create_users(database: Database) -> None:
    members = {user_id for mandate in _MANDATES for user_id in mandate.members}
    for user_id in [SYSADMIN, GATEWAY, *sorted(members)]:
        first_name, _, last_name = user_id.title().partition("-")
        changes = {
            "email": f"{user_id}@example.com",
            "first_name": first_name,
            "last_name": last_name or None,
            "is_sys_admin": user_id == SYSADMIN,
            "kind": UserKind.SERVICE if user_id == GATEWAY else UserKind.HUMAN,
        }
        await upsert_user(database, OPERATOR, user_id, changes)


async def _create_mandate(database: Database, mandate: _Mandate) -> None:
    changes = {
        "name": mandate.name,
        "currency": mandate.currency,
        "time_zone": mandate.time_zone,
    }
    await upsert_mandate(database, OPERATOR, mandate.id, changes)
    for user_id, role in mandate.members.items():
        await upsert_membership(database, OPERATOR, mandate.id, user_id, {"role": role})
    if mandate.settings:
        await update_settings(
            database,
            OPERATOR,
            mandate.id,
            mandate.settings,
            expected_version=0,
            registered=_PROVIDERS,
        )


async def _fund(
    database: Database,
    mandate: _Mandate,
    events: Sequence[UsageEvent],
    period: int,
    balances: dict[str | None, Decimal],
) -> None:
    """Credits what those who pay need for these events, and keeps their balances after them."""
    if mandate.model == BillingModel.UNLIMITED:
        return
    costs: dict[str | None, Decimal] = defaultdict(Decimal)
    for event in events:
        costs[event.user_id if mandate.model == BillingModel.PREPAY_USER else None] += event.amount
    for payer, cost in costs.items():
        initial = mandate.settings["default_user_credit"] if payer else ZERO
        balance = balances.get(payer, initial)
        amount = _credit(mandate.model, payer, balance, cost, is_last=period == _PERIODS - 1)
        if amount > ZERO:
            is_invoice = mandate.model == BillingModel.CREDIT_POSTPAY
            await add_credit(
                database,
                OPERATOR,
                mandate.id,
                user_id=payer,
                amount=amount,
                description="Invoice paid" if is_invoice else "Top-up",
                reference_type=ReferenceType.PAYMENT if is_invoice else ReferenceType.ADMIN,
                idempotency_key=f"demo-credit-{period}-{payer or mandate.id}",
            )
        balances[payer] = balance + amount - cost


def _credit(
    model: BillingModel, payer: str | None, balance: Decimal, cost: Decimal, *, is_last: bool
) -> Decimal:
    """What is credited before a period of this cost; in the end one account is to be low, one empty."""
    if payer == BLOCKED:
        return ZERO
    if model == BillingModel.CREDIT_POSTPAY:
        return round(-balance, 2)
    if payer == IN_WARNING and is_last:
        return round(cost * Decimal("1.05") - balance, 2)
    needed = 2 * cost if is_last else cost
    return max(ZERO, (needed - balance).to_integral_value(ROUND_CEILING))


def _events(mandate: _Mandate, now: datetime, seed: int) -> list[UsageEvent]:
    """A year of calls up to `now`, oldest first."""
    dice = random.Random(f"{seed}/{mandate.id}")
    zone = ZoneInfo(mandate.time_zone)
    today = now.astimezone(zone).date()
    calls = [
        (occurred_at, user_id)
        for back in range(_DAYS)
        for user_id in mandate.members
        for occurred_at in _instants(dice, mandate.calls_a_day, today - timedelta(back), zone)
        if occurred_at <= now
    ]
    return [
        _event(dice, mandate.id, user_id, occurred_at, number)
        for number, (occurred_at, user_id) in enumerate(sorted(calls))
    ]


def _instants(dice: random.Random, calls: float, day: date, zone: ZoneInfo) -> list[datetime]:
    count = int(calls * _BY_WEEKDAY[day.weekday()] * dice.uniform(0.3, 1.7) + dice.random())
    return [
        datetime.combine(day, time(hour, dice.randrange(60), dice.randrange(60)), zone).astimezone(
            UTC
        )
        for hour in dice.choices(range(24), _BY_HOUR, k=count)
    ]


def _event(
    dice: random.Random, mandate_id: str, user_id: str, occurred_at: datetime, number: int
) -> UsageEvent:
    [(provider, model, price_in, price_out, _)] = dice.choices(
        _MODELS, [weight for *_, weight in _MODELS]
    )
    tokens_in = int(dice.lognormvariate(9.8, 0.9))
    tokens_out = int(dice.lognormvariate(6.5, 0.8))
    in_workflow = dice.random() < 0.3
    return UsageEvent(
        mandate_id=mandate_id,
        user_id=user_id,
        amount=(tokens_in * price_in + tokens_out * price_out).scaleb(-6),
        idempotency_key=f"demo-{number:05}",
        description=f"{tokens_in} tokens in, {tokens_out} out",
        workflow_id=f"workflow-{dice.randrange(20):02}" if in_workflow else None,
        feature_code=dice.choice(_FEATURES),
        aicore_provider=provider,
        aicore_model=model,
        occurred_at=occurred_at,
    )


async def people(settings: Settings, database: Database) -> list[tuple[str, str, str | None]]:
    """A demo user of each role, with a token; without one where there is no such user."""
    return [
        (
            user_id,
            role,
            issue_token(settings, user_id, _DAY) if await is_active(database, user_id) else None,
        )
        for role, user_id in ROLES.items()
    ]


async def invitation(settings: Settings, database: Database, address: str) -> str:
    """Where the pages are, and for a demo user of each role what to paste."""
    lines = [f"Dashboard: {address}/\nGraphiQL:  {address}/graphql\n"]
    query = json.dumps(
        {"query": "{ viewer { user { displayName } } mandates(first: 3) { nodes { name } } }"}
    )
    for user_id, role, token in await people(settings, database):
        if token:
            lines.append(
                f"As {user_id}, {role}:\n"
                f"{token}\n"
                f"curl {address}/graphql -H 'Authorization: Bearer {token}'"
                f" -H 'Content-Type: application/json' -d '{query}'\n"
            )
        else:
            lines.append(f"There is no {user_id} in this database: `billing token ID` helps.\n")
    return "\n".join(lines)
