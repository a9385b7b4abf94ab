"""Mandates, users, credits and events for tests, made through the domain by the operator."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from sqlalchemy import Table, select, text, update
from sqlmodel import SQLModel

from app.billing.corrections import reverse_transaction, transfer_credit
from app.billing.credits import add_credit, add_debit
from app.billing.directory import upsert_mandate, upsert_membership, upsert_user
from app.billing.enums import BillingModel, MembershipRole, ReferenceType
from app.billing.holds import NewHold, create_hold, holds_by_id, release_hold, settle_hold
from app.billing.models import accounts, holds, outbox, transactions
from app.billing.settings import update_settings
from app.billing.usage import UsageEvent, UsageMode, UsageResult, record_usage
from app.billing.viewer import OPERATOR, Viewer
from app.database import Database
from app.lease import leases

PROVIDERS = ("anthropic", "azure", "google", "mistral", "openai")
MANDATE = "acme"
OTHER_MANDATE = "globex"

SYSADMIN = Viewer("root", is_sys_admin=True)
GATEWAY = Viewer("gateway", is_service=True)
ADMIN = Viewer("ada", roles={MANDATE: MembershipRole.ADMIN})
MEMBER = Viewer("alice", roles={MANDATE: MembershipRole.MEMBER})
STRANGER = Viewer("sven", roles={OTHER_MANDATE: MembershipRole.ADMIN})

_fresh = count(1)

PREPAY_USER = BillingModel.PREPAY_USER
PREPAY_MANDATE = BillingModel.PREPAY_MANDATE
CREDIT_POSTPAY = BillingModel.CREDIT_POSTPAY
UNLIMITED = BillingModel.UNLIMITED


def fresh(prefix: str = "key") -> str:
    """A text that no other call returns."""
    return f"{prefix}-{next(_fresh)}"


async def add_user(database: Database, user_id: str, **changes: Any) -> None:
    await upsert_user(database, OPERATOR, user_id, changes)


async def add_member(
    database: Database, user_id: str, mandate_id: str = MANDATE, **changes: Any
) -> None:
    """Makes the user, if new, a member of the mandate."""
    await add_user(database, user_id)
    await upsert_membership(database, OPERATOR, mandate_id, user_id, changes)


async def add_mandate(
    database: Database,
    mandate_id: str = MANDATE,
    model: BillingModel | None = None,
    *,
    users: Sequence[str] = ("alice",),
    time_zone: str = "UTC",
    **settings: Any,
) -> None:
    """A mandate with members; it has settings if a model or anything of them is given."""
    await upsert_mandate(
        database, OPERATOR, mandate_id, {"name": mandate_id.title(), "time_zone": time_zone}
    )
    for user_id in users:
        await add_member(database, user_id, mandate_id)
    if model is not None:
        settings["billing_model"] = model
    if settings:
        await change_settings(database, mandate_id, **settings)


async def change_settings(database: Database, mandate_id: str = MANDATE, /, **changes: Any) -> None:
    await update_settings(
        database, OPERATOR, mandate_id, changes, expected_version=None, registered=PROVIDERS
    )


async def credit(
    database: Database,
    amount: str | int,
    user_id: str | None = None,
    *,
    mandate_id: str = MANDATE,
    key: str | None = None,
    description: str = "Manual credit",
    reference_type: ReferenceType = ReferenceType.ADMIN,
    viewer: Viewer = OPERATOR,
) -> Any:
    """Credits a user's account, or the mandate's own where no user is named."""
    return await add_credit(
        database,
        viewer,
        mandate_id,
        user_id=user_id,
        amount=Decimal(amount),
        description=description,
        reference_type=reference_type,
        idempotency_key=key or fresh(),
    )


async def debit(
    database: Database,
    amount: str | int,
    user_id: str | None = None,
    *,
    mandate_id: str = MANDATE,
    key: str | None = None,
    description: str = "Refund",
    reference_type: ReferenceType = ReferenceType.ADMIN,
    viewer: Viewer = OPERATOR,
) -> Any:
    """As credit, but takes money out."""
    return await add_debit(
        database,
        viewer,
        mandate_id,
        user_id=user_id,
        amount=Decimal(amount),
        description=description,
        reference_type=reference_type,
        idempotency_key=key or fresh(),
    )


async def reverse(
    database: Database,
    transaction_id: str,
    *,
    mandate_id: str = MANDATE,
    key: str | None = None,
    reason: str = "Undone",
    viewer: Viewer = OPERATOR,
) -> Any:
    """Writes the opposite of a transaction."""
    return await reverse_transaction(
        database, viewer, mandate_id, transaction_id, reason=reason, idempotency_key=key or fresh()
    )


async def transfer(
    database: Database,
    amount: str | int,
    giver: str | None,
    receiver: str | None,
    *,
    mandate_id: str = MANDATE,
    key: str | None = None,
    description: str = "Transfer",
    viewer: Viewer = OPERATOR,
) -> tuple[Any, Any]:
    """Moves money between users' accounts, None being the mandate's own; the two rows."""
    return await transfer_credit(
        database,
        viewer,
        mandate_id,
        from_user_id=giver,
        to_user_id=receiver,
        amount=Decimal(amount),
        description=description,
        idempotency_key=key or fresh(),
    )


async def hold(
    database: Database,
    amount: str | int = 1,
    *,
    mandate_id: str = MANDATE,
    user_id: str = "alice",
    key: str | None = None,
    viewer: Viewer = GATEWAY,
    **fields: Any,
) -> str:
    """Sets money aside; the hold's id."""
    new = NewHold(mandate_id, user_id, Decimal(amount), key or fresh(), **fields)
    held = await create_hold(database, viewer, new, PROVIDERS)
    return str(held.id)


async def settle(
    database: Database,
    hold_id: str,
    amount: str | int,
    *,
    mandate_id: str = MANDATE,
    viewer: Viewer = GATEWAY,
    **fields: Any,
) -> Any:
    """Books what the call did cost; the transaction."""
    settled = await settle_hold(
        database, viewer, mandate_id, hold_id, amount=Decimal(amount), **fields
    )
    return settled.transaction


async def release(
    database: Database, hold_id: str, *, mandate_id: str = MANDATE, viewer: Viewer = GATEWAY
) -> None:
    """Gives back what was set aside."""
    await release_hold(database, viewer, mandate_id, hold_id)


async def expire(database: Database, *hold_ids: str, mandate_id: str = MANDATE) -> None:
    """Lets the time of these holds be over, as if it had passed."""
    async with database.engine.begin() as connection:
        await connection.execute(
            update(holds)
            .where(holds.c.mandate_id == mandate_id, holds.c.id.in_(hold_ids))
            .values(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        )


async def hold_status(database: Database, hold_id: str, mandate_id: str = MANDATE) -> str:
    """What the hold is now."""
    async with database.read() as connection:
        [found] = await holds_by_id(connection, [(mandate_id, hold_id)])
    return str(found.status)


async def notices(database: Database, **where: Any) -> list[Any]:
    """What the outbox is still to tell, oldest first."""
    return await read_rows(database, outbox, **where)


def usage_event(
    amount: str | int = 1,
    *,
    mandate_id: str = MANDATE,
    user_id: str = "alice",
    key: str | None = None,
    mode: UsageMode = UsageMode.RECORD,
    **fields: Any,
) -> UsageEvent:
    """An event that names only what is given, under a key of its own unless one is given."""
    return UsageEvent(
        mandate_id=mandate_id,
        user_id=user_id,
        amount=Decimal(amount),
        idempotency_key=key or fresh(),
        mode=mode,
        **fields,
    )


def spend(amount: str | int = 1, **fields: Any) -> UsageEvent:
    """An event that is refused without funds."""
    return usage_event(amount, mode=UsageMode.REQUIRE_FUNDS, **fields)


async def record(database: Database, *events: UsageEvent) -> list[UsageResult]:
    """Sends the events as the gateway, in one call."""
    return await record_usage(database, GATEWAY, events, PROVIDERS)


def outcomes(results: Sequence[UsageResult]) -> list[str]:
    """Each result in one word: its outcome, or the code of its error."""
    return [str(result.error.code if result.error else result.outcome) for result in results]


async def run_sql(database: Database, statement: str, **values: Any) -> list[Any]:
    """Runs one statement in a transaction of its own, past all rules; its rows, if it has any."""
    async with database.engine.begin() as connection:
        result = await connection.execute(text(statement), values)
        return list(result.all()) if result.returns_rows else []


async def read_rows(database: Database, table: Table, **where: Any) -> list[Any]:
    """The rows of a table that have these values, by primary key."""
    query = select(table).filter_by(**where).order_by(*table.primary_key)
    async with database.read() as connection:
        return list((await connection.execute(query)).all())


async def balances(database: Database, mandate_id: str = MANDATE) -> dict[str | None, Decimal]:
    """The balance of each open account by its user; None is the mandate's own."""
    rows = await read_rows(database, accounts, mandate_id=mandate_id)
    return {row.user_id: row.balance for row in rows}


async def ledger_rows(database: Database, **where: Any) -> list[Any]:
    """Transactions, oldest first."""
    return await read_rows(database, transactions, **where)


async def dump(database: Database) -> dict[str, list[Any]]:
    """Every row of every table, to tell whether anything has changed; what is told of it is apart."""
    apart = (outbox, leases)
    tables = [table for table in SQLModel.metadata.sorted_tables if table not in apart]
    return {table.name: await read_rows(database, table) for table in tables}
