"""What a unit of work reads of a mandate's books as it locks them: each in one statement, however much.

Locks are taken in one order: accounts by id, then holds by id. What depends on them is read after
the wait, in statements of its own: the one that waited still sees what it saw before.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, Self

from sqlalchemy import and_, any_, bindparam, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.enums import AccountType, AlertLevel
from app.billing.funds import Owner
from app.billing.held import HOLDS_AS_THEY_ARE, IS_OPEN
from app.billing.models import accounts, holds, transactions
from app.billing.money import ZERO
from app.billing.types import NOW, exact_sum, is_among
from app.statements import Statement


@dataclass(frozen=True, slots=True)
class Needs:
    """What a call looks at before it judges, and moves then."""

    spends: Collection[tuple[str | None, datetime | None]] = ()
    """Whose accounts pay, and when that was: without a time now, without a user the mandate's own."""
    keys: Collection[str] = ()
    """Idempotency keys of transactions."""
    hold_keys: Collection[str] = ()
    hold_ids: Collection[str] = ()

    @classmethod
    def together(cls, several: Iterable[Self]) -> "Needs":
        """What all of them need."""
        each = list(several)
        return Needs(
            spends={spend for needs in each for spend in needs.spends},
            keys={key for needs in each for key in needs.keys},
            hold_keys={key for needs in each for key in needs.hold_keys},
            hold_ids={hold_id for needs in each for hold_id in needs.hold_ids},
        )


@dataclass(slots=True)
class LockedAccount:
    """An account as it stands after what this unit has posted to it."""

    mandate_id: str
    id: str
    account_type: AccountType
    user_id: str | None
    created_at: datetime
    last_transaction_at: datetime
    balance: Decimal = ZERO
    credited: Decimal = ZERO
    debited: Decimal = ZERO
    sequence: int = 0
    funding_base: Decimal = ZERO
    credit_limit: Decimal | None = None
    alert_level: AlertLevel | None = None
    enabled: bool = True
    is_new: bool = False
    is_needed: bool = False
    """Whether anything but its opening was posted or held; otherwise a new one is not written."""
    rows: list[SimpleNamespace] = field(default_factory=list)


_MANDATE = bindparam("mandate_id", type_=accounts.c.mandate_id.type)
_OF_HOLDS = select(holds.c.account_id).where(
    holds.c.mandate_id == _MANDATE, is_among(holds.c.id, "hold_ids")
)


def _accounts(of_holds: Any, *, locking: bool) -> Statement:
    query = (
        select(accounts)
        .where(
            accounts.c.mandate_id == _MANDATE,
            or_(
                is_among(accounts.c.user_id, "users"),
                and_(accounts.c.user_id.is_(None), is_among(accounts.c.account_type, "kinds")),
                is_among(accounts.c.id, "account_ids"),
                of_holds,
            ),
        )
        .order_by(accounts.c.id)
    )
    return Statement(query.with_for_update() if locking else query)


_ARE_OF_HOLDS = {
    "sqlite": accounts.c.id.in_(_OF_HOLDS),
    # As an array PostgreSQL reads it first and then uses the index.
    "postgresql": accounts.c.id == any_(func.array(_OF_HOLDS.scalar_subquery())),
}
_ACCOUNTS = {
    (dialect, locking): _accounts(of_holds, locking=locking)
    for dialect, of_holds in _ARE_OF_HOLDS.items()
    for locking in (False, True)
}

_CLOCK = select(NOW.label("now")).subquery()
_HELD = Statement(
    select(_CLOCK.c.now, holds.c.account_id, exact_sum(holds.c.amount).label("held"))
    .select_from(
        _CLOCK.outerjoin(
            holds,
            and_(
                holds.c.mandate_id == _MANDATE, is_among(holds.c.account_id, "account_ids"), IS_OPEN
            ),
        )
    )
    .group_by(_CLOCK.c.now, holds.c.account_id)
)
_HOLDS = Statement(
    HOLDS_AS_THEY_ARE.where(
        holds.c.mandate_id == _MANDATE,
        or_(is_among(holds.c.id, "ids"), is_among(holds.c.idempotency_key, "keys")),
    )
    .order_by(holds.c.id)
    .with_for_update()
)

_MANY = 100
"""Keys for which a plan of their own is made: to plan takes longer than to look few up."""
_WRITTEN = select(transactions).where(transactions.c.mandate_id == _MANDATE)
_BY_KEY = Statement(_WRITTEN.where(is_among(transactions.c.idempotency_key, "wanted")))
_BY_HOLD = Statement(_WRITTEN.where(is_among(transactions.c.hold_id, "wanted")))


async def lock_accounts(
    connection: AsyncConnection,
    mandate_id: str,
    owners: Collection[Owner] = (),
    *,
    account_ids: Collection[str] = (),
    hold_ids: Collection[str] = (),
    locking: bool,
) -> list[LockedAccount]:
    """The accounts of these owners, those that are open, these by id, and those of these holds."""
    rows = await _ACCOUNTS[connection.dialect.name, locking].rows(
        connection,
        mandate_id=mandate_id,
        users=[user_id for _, user_id in owners if user_id is not None],
        kinds=[kind for kind, user_id in owners if user_id is None],
        account_ids=list(account_ids),
        hold_ids=list(hold_ids),
    )
    return [LockedAccount(**row._asdict()) for row in rows]


async def read_held(
    connection: AsyncConnection, mandate_id: str, account_ids: Iterable[str]
) -> tuple[datetime, dict[str, Decimal]]:
    """The database's clock, and what open holds set aside on each of these accounts by it."""
    found = await _HELD.rows(connection, mandate_id=mandate_id, account_ids=list(account_ids))
    return found[0].now, {account_id: held for _, account_id, held in found if account_id}


async def lock_holds(
    connection: AsyncConnection, mandate_id: str, ids: Iterable[str], keys: Iterable[str]
) -> list[SimpleNamespace]:
    """The holds of these ids and idempotency keys as they are now."""
    rows = await _HOLDS.rows(connection, mandate_id=mandate_id, ids=list(ids), keys=list(keys))
    return [SimpleNamespace(**row._asdict()) for row in rows]


async def read_written(
    connection: AsyncConnection,
    mandate_id: str,
    keys: Iterable[str],
    hold_ids: Iterable[str] = (),
) -> list[Any]:
    """The transactions that these idempotency keys have written, and those that settled these holds."""
    keys, hold_ids = list(keys), list(hold_ids)
    if connection.dialect.name == "postgresql" and len(keys) > _MANY:
        # The plan that it keeps may be of when the table was small: then each row was looked at.
        await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_custom_plan")
    rows: list[Any] = []
    for statement, wanted in ((_BY_KEY, keys), (_BY_HOLD, hold_ids)):
        if wanted:
            rows += await statement.rows(connection, mandate_id=mandate_id, wanted=wanted)
    return rows
