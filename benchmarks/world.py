"""Who asks in the benchmark, and the mandates of whom sees many."""

from datetime import datetime, timedelta
from decimal import Decimal

from app.billing.credits import add_credit
from app.billing.directory import upsert_mandate, upsert_membership, upsert_user
from app.billing.enums import BillingModel, MembershipRole, ReferenceType
from app.billing.holds import NewHold, create_hold
from app.billing.roll_up import total_days
from app.billing.settings import update_settings
from app.billing.usage import MAX_EVENTS, UsageEvent, record_usage
from app.billing.viewer import OPERATOR
from app.database import Database
from app.migrate import migrate
from benchmarks.load import (
    DAYS,
    FEATURES,
    MANDATE,
    MODELS,
    PROVIDERS,
    USERS,
    Advance,
    create_mandate,
)

VIEWER = "viewer"
"""An admin of the large mandate."""
MEMBER = "member"
"""A member of 20 others."""
MANDATES = [f"mandate-{number:02}" for number in range(20)]


async def load_by_domain(database: Database, rows: int, now: datetime, advance: Advance) -> None:
    """A year of usage up to `now`, booked as the domain books it: for either database, and slow."""
    await migrate(database)
    await create_mandate(database)
    for first in range(0, rows, MAX_EVENTS):
        advance("transactions", first, rows)
        events = [
            UsageEvent(
                MANDATE,
                USERS[place % len(USERS)],
                Decimal(place % 1000 + 1) / 10_000,
                f"call-{place}",
                workflow_id=f"workflow-{place % 200}" if place % 3 == 0 else None,
                feature_code=tuple(FEATURES)[place % len(FEATURES)],
                aicore_provider=MODELS[model][0],
                aicore_model=model,
                occurred_at=now - timedelta(DAYS) * (rows - place) / rows,
            )
            for place in range(first, min(rows, first + MAX_EVENTS))
            for model in [tuple(MODELS)[place % len(MODELS)]]
        ]
        await record_usage(database, OPERATOR, events, PROVIDERS, imported=True)
    await total_days(database, now)


async def populate(database: Database) -> None:
    """Adds to a loaded ledger who asks, without a further transaction of its mandate."""
    await upsert_user(database, OPERATOR, VIEWER, {"first_name": "View", "last_name": "Er"})
    await upsert_membership(database, OPERATOR, MANDATE, VIEWER, {"role": MembershipRole.ADMIN})
    await _change_settings(database, MANDATE, block_on_zero_balance=False)
    await upsert_user(database, OPERATOR, MEMBER, {"first_name": "Mem", "last_name": "Ber"})
    for place, mandate_id in enumerate(MANDATES):
        model = list(BillingModel)[place % len(BillingModel)]
        await upsert_mandate(database, OPERATOR, mandate_id, {"name": f"Mandate {place}"})
        await upsert_membership(database, OPERATOR, mandate_id, MEMBER, {})
        await _change_settings(
            database, mandate_id, billing_model=model, credit_limit=Decimal(1000)
        )
        if model is not BillingModel.UNLIMITED:
            user_id = MEMBER if model is BillingModel.PREPAY_USER else None
            await add_credit(
                database,
                OPERATOR,
                mandate_id,
                user_id=user_id,
                amount=Decimal("12.345678"),
                description="Top-up",
                reference_type=ReferenceType.PAYMENT,
                idempotency_key="top-up",
            )
        hold = NewHold(mandate_id, MEMBER, Decimal("1.5"), "hold", ttl_seconds=86_400)
        await create_hold(database, OPERATOR, hold, PROVIDERS)


async def _change_settings(database: Database, mandate_id: str, **changes: object) -> None:
    await update_settings(
        database, OPERATOR, mandate_id, changes, expected_version=None, registered=PROVIDERS
    )
