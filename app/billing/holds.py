"""Holds: money set aside before a call, then settled for what it cost, released, or expired."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.checks import (
    check_key,
    check_name,
    check_occurred_at,
    check_text,
    conflict,
    content_hash,
    invalid,
)
from app.billing.enums import HoldStatus, ReferenceType, TransactionType
from app.billing.errors import BillingError, UserErrorCode
from app.billing.group import in_group
from app.billing.held import HOLDS_AS_THEY_ARE, IS_OPEN, IS_OVERDUE
from app.billing.ledger import Ledger
from app.billing.locked import Needs
from app.billing.models import holds
from app.billing.money import check_amount
from app.billing.paging import Keyset, Page, PageArguments, fetch_page
from app.billing.spending import judge
from app.billing.types import is_among, new_key
from app.billing.viewer import Viewer, sees
from app.database import Database
from app.statements import Source, Statement

MAX_TTL = 24 * 60 * 60
"""Seconds that money may be set aside for."""

HoldKey = tuple[str, str]
"""Mandate id and hold id."""


@dataclass(frozen=True, slots=True)
class NewHold:
    """What to set aside for one AI call, in the mandate's currency."""

    mandate_id: str
    user_id: str
    amount: Decimal
    idempotency_key: str
    ttl_seconds: int = 900
    workflow_id: str | None = None
    feature_code: str | None = None
    aicore_provider: str | None = None


class Settlement(NamedTuple):
    """A settled hold, and the transaction that has settled it."""

    hold: Any
    transaction: Any


async def create_hold(
    database: Database, viewer: Viewer, new: NewHold, registered: Sequence[str]
) -> Any:
    """Sets money aside if the spend is allowed now; a retry with the same key finds the first hold."""
    viewer.require_gateway()
    check_key(new.idempotency_key)
    named = {
        name: getattr(new, name) for name in ("workflow_id", "feature_code", "aicore_provider")
    }
    digest = content_hash("createHold", {"user_id": new.user_id, "amount": new.amount} | named)

    def work(ledger: Ledger) -> Any:
        if first := ledger.held_under(new.idempotency_key, digest):
            return first
        check_amount(new.amount, "amount")
        if not 1 <= new.ttl_seconds <= MAX_TTL:
            raise invalid(f"ttl_seconds must be 1 to {MAX_TTL}.", "ttl_seconds")
        for name, value in named.items():
            check_name(value, name)
        account = judge(ledger, new.user_id, new.amount, new.aicore_provider, registered)
        return ledger.set_aside(
            account,
            id=new_key(ledger.now),
            user_id=new.user_id,
            amount=new.amount,
            status=HoldStatus.OPEN,
            settled_amount=None,
            idempotency_key=new.idempotency_key,
            content_hash=digest,
            created_at=ledger.now,
            expires_at=ledger.now + timedelta(seconds=new.ttl_seconds),
            **named,
        )

    needs = Needs(spends=[(new.user_id, None)], hold_keys=[new.idempotency_key])
    return await in_group(database, new.mandate_id, needs, work)


async def settle_hold(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    hold_id: str,
    *,
    amount: Decimal,
    description: str = "AI usage",
    aicore_provider: str | None = None,
    aicore_model: str | None = None,
    occurred_at: datetime | None = None,
) -> Settlement:
    """Books what the call cost, less or more than was held.

    An expired hold is booked too: the call has happened. Settled again with the same content it
    returns the first transaction, with other content IDEMPOTENCY_CONFLICT. HOLD_NOT_OPEN for a
    released one.
    """
    viewer.require_gateway()
    digest = content_hash(
        "settleHold",
        {
            "amount": amount,
            "description": description,
            "aicore_provider": aicore_provider,
            "aicore_model": aicore_model,
            "occurred_at": occurred_at,
        },
    )

    def work(ledger: Ledger) -> Settlement:
        hold = _find(ledger, hold_id)
        if hold.status == HoldStatus.SETTLED:
            first = ledger.settlement(hold)
            if first.content_hash != digest:
                raise conflict(
                    "The hold was settled with other content: to correct that, reverse its"
                    " transaction and record the right one.",
                    "hold_id",
                )
            return Settlement(hold, first)
        if hold.status == HoldStatus.RELEASED:
            raise _not_open("The hold was released: record the call with recordUsage instead.")
        check_amount(amount, "amount", zero=True)
        check_text(description, "description")
        check_name(aicore_provider, "aicore_provider")
        check_name(aicore_model, "aicore_model")
        check_occurred_at(occurred_at, ledger.locked_at)
        row = ledger.post(
            ledger.account_of(hold),
            TransactionType.DEBIT,
            ReferenceType.USAGE,
            amount,
            user_id=hold.user_id,
            actor_id=viewer.actor_id,
            description=description,
            workflow_id=hold.workflow_id,
            feature_code=hold.feature_code,
            aicore_provider=hold.aicore_provider if aicore_provider is None else aicore_provider,
            aicore_model=aicore_model,
            hold_id=hold_id,
            content_hash=digest,
            occurred_at=occurred_at,
        )
        ledger.close(hold, HoldStatus.SETTLED, settled_amount=amount)
        return Settlement(hold, row)

    return await in_group(database, mandate_id, Needs(hold_ids=[hold_id]), work)


async def release_hold(database: Database, viewer: Viewer, mandate_id: str, hold_id: str) -> Any:
    """Gives back what was set aside. Released again, or expired, it stays as it is.

    HOLD_NOT_OPEN for a settled one.
    """
    viewer.require_gateway()

    def work(ledger: Ledger) -> Any:
        hold = _find(ledger, hold_id)
        if hold.status == HoldStatus.SETTLED:
            raise _not_open("The hold was settled: reverse its transaction instead.")
        if hold.status == HoldStatus.OPEN:
            ledger.close(hold, HoldStatus.RELEASED)
        return hold

    return await in_group(database, mandate_id, Needs(hold_ids=[hold_id]), work)


def _not_open(message: str) -> BillingError:
    return BillingError(UserErrorCode.HOLD_NOT_OPEN, message, "hold_id")


def _find(ledger: Ledger, hold_id: str) -> Any:
    hold = ledger.hold(hold_id)
    if hold is None:
        raise BillingError(
            UserErrorCode.NOT_FOUND, "There is no such hold in this mandate.", "hold_id"
        )
    return hold


_BY_ID = Statement(
    HOLDS_AS_THEY_ARE.where(
        is_among(holds.c.mandate_id, "mandate_ids"), is_among(holds.c.id, "ids")
    )
)


async def holds_by_id(source: Source, keys: Sequence[HoldKey]) -> list[Any]:
    """The holds of (mandate id, hold id) pairs the caller may see, in the order asked."""
    rows = await _BY_ID.rows(
        source,
        mandate_ids=list({mandate_id for mandate_id, _ in keys}),
        ids=list({hold_id for _, hold_id in keys}),
    )
    found = {(row.mandate_id, row.id): row for row in rows}
    return [found.get(key) for key in keys]


async def find_hold(database: Database, viewer: Viewer, mandate_id: str, hold_id: str) -> Any:
    """One hold of the mandate that the viewer may see, or None."""
    if not viewer.may_see(mandate_id):
        return None
    query = _visible(mandate_id, viewer).where(holds.c.id == hold_id)
    async with database.read() as connection:
        return (await connection.execute(query)).first()


async def list_holds(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    *,
    status: HoldStatus | None,
    user_id: str | None,
    account_id: str | None,
    page: PageArguments,
) -> Page | None:
    """A mandate's holds that the viewer may see, newest first; None where it is not the viewer's."""
    query = _visible(mandate_id, viewer)
    if status is not None:
        query = query.where(_HAS_STATUS.get(status, holds.c.status == status))
    if user_id is not None:
        query = query.where(holds.c.user_id == user_id)
    if account_id is not None:
        query = query.where(holds.c.account_id == account_id)
    binding = ("holds", mandate_id, viewer.only_user(mandate_id), status, user_id, account_id)
    keyset = Keyset((holds.c.id,), descending=True, binding=binding)

    async def read(connection: AsyncConnection) -> Page | None:
        if not await sees(connection, viewer, mandate_id):
            return None
        return await fetch_page(database, connection, query, keyset, page)

    return await database.reader.consult(read)


_HAS_STATUS = {
    HoldStatus.OPEN: IS_OPEN,
    HoldStatus.EXPIRED: or_(holds.c.status == HoldStatus.EXPIRED, IS_OVERDUE),
}


def _visible(mandate_id: str, viewer: Viewer) -> Select[Any]:
    query = HOLDS_AS_THEY_ARE.where(holds.c.mandate_id == mandate_id)
    only_user = viewer.only_user(mandate_id)
    return query if only_user is None else query.where(holds.c.user_id == only_user)


async def expire_holds(database: Database) -> int:
    """Says in the rows what is so already: that their time is over. Returns how many."""
    tidied = 0
    for mandate_id in await _mandates_with_overdue(database):

        async def unit(connection: AsyncConnection, mandate_id: str = mandate_id) -> int:
            done = await connection.execute(
                update(holds)
                .where(and_(holds.c.mandate_id == mandate_id, IS_OVERDUE))
                .values(status=HoldStatus.EXPIRED)
            )
            return int(done.rowcount)

        tidied += await database.write(unit)
    return tidied


async def _mandates_with_overdue(database: Database) -> Sequence[str]:
    """A background job has no mandate: it first looks which ones have such holds."""
    async with database.read() as connection:
        overdue = await connection.execute(select(holds.c.mandate_id).where(IS_OVERDUE).distinct())
        return overdue.scalars().all()
