"""Accounts and balances as they are shown, and the changes an admin makes to an account."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.alerts import update_alert_levels
from app.billing.audit import write_audit_event
from app.billing.checks import check_limit, difference, refuse_null
from app.billing.enums import AccountType, BillingModel
from app.billing.errors import BadInput, BillingError, Forbidden, UserErrorCode
from app.billing.funds import PAYING_ACCOUNT, funds
from app.billing.held import IS_OPEN, held
from app.billing.models import accounts, holds, mandates, memberships, settings
from app.billing.money import ZERO
from app.billing.paging import Keyset, Page, PageArguments, fetch_page, once
from app.billing.settings import lock_settings
from app.billing.types import exact_sum, is_among
from app.billing.viewer import Viewer, sees
from app.database import Database
from app.statements import Source, Statement


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as it is shown: its row, with what can still be paid from it."""

    id: str
    mandate_id: str
    user_id: str | None
    account_type: AccountType
    currency: str
    balance: Decimal
    held: Decimal
    available: Decimal | None
    credit_limit: Decimal | None
    warning_threshold: Decimal
    is_warning: bool
    enabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class BalanceView:
    """A user's balance in a mandate, or the mandate's own, whether an account is open or not."""

    mandate_id: str
    user_id: str | None
    account_id: str | None
    billing_model: BillingModel
    currency: str
    balance: Decimal
    held: Decimal
    available: Decimal | None
    credit_limit: Decimal | None
    warning_threshold: Decimal
    is_warning: bool
    as_of: datetime


_TERMS = (
    settings.c.mandate_id,
    settings.c.billing_model,
    settings.c.credit_limit,
    settings.c.warning_threshold_percent,
    settings.c.default_user_credit,
    mandates.c.currency,
)
_ACCOUNT = (
    accounts.c.id,
    accounts.c.account_type,
    accounts.c.user_id,
    accounts.c.balance,
    accounts.c.funding_base,
    accounts.c.credit_limit.label("own_credit_limit"),
    accounts.c.enabled,
    accounts.c.created_at,
)


def _account_query(mandate: ColumnElement[bool]) -> Select[Any]:
    """`mandate` as for `held`."""
    return (
        select(*_TERMS, *_ACCOUNT, held(mandate).label("held"))
        .join_from(accounts, settings, settings.c.mandate_id == accounts.c.mandate_id)
        .join(mandates, mandates.c.id == accounts.c.mandate_id)
    )


def _account_view(row: Any) -> AccountView:
    left = funds(
        row,
        row.account_type,
        balance=row.balance,
        held=row.held,
        funding_base=row.funding_base,
        own_credit_limit=row.own_credit_limit,
    )
    return AccountView(
        id=row.id,
        mandate_id=row.mandate_id,
        user_id=row.user_id,
        account_type=row.account_type,
        currency=row.currency,
        balance=row.balance,
        held=row.held,
        available=left.available,
        credit_limit=row.own_credit_limit,
        warning_threshold=left.warning_threshold,
        is_warning=left.is_warning,
        enabled=row.enabled,
        created_at=row.created_at,
    )


_OF_MANDATES = is_among(holds.c.mandate_id, "mandate_ids")
_BY_ID = Statement(
    _account_query(_OF_MANDATES).where(
        is_among(accounts.c.mandate_id, "mandate_ids"), is_among(accounts.c.id, "ids")
    )
)


async def accounts_by_id(
    source: Source, keys: Sequence[tuple[str, str]]
) -> list[AccountView | None]:
    """The accounts of (mandate id, account id) pairs the caller may see, in the order asked."""
    rows = await _BY_ID.rows(
        source,
        mandate_ids=list({mandate_id for mandate_id, _ in keys}),
        ids=list({account_id for _, account_id in keys}),
    )
    found = {(row.mandate_id, row.id): _account_view(row) for row in rows}
    return [found.get(key) for key in keys]


@dataclass(frozen=True, slots=True)
class AccountTotals:
    """Sums over all accounts that match, not over a page."""

    balance: Decimal
    held: Decimal


async def list_accounts(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    *,
    user_id: str | None,
    enabled: bool | None,
    page: PageArguments,
) -> Page | None:
    """The accounts of a mandate, newest first, for its admins; Forbidden for others.

    None where the mandate does not exist or is not the viewer's.
    """
    query = _account_query(holds.c.mandate_id == mandate_id).where(
        accounts.c.mandate_id == mandate_id
    )
    if user_id is not None:
        query = query.where(accounts.c.user_id == user_id)
    if enabled is not None:
        query = query.where(accounts.c.enabled == enabled)
    keyset = Keyset(
        (accounts.c.id,), descending=True, binding=("accounts", mandate_id, user_id, enabled)
    )

    async def read(connection: AsyncConnection) -> Page | None:
        if not await sees(connection, viewer, mandate_id):
            return None
        viewer.require_admin(mandate_id)
        return await fetch_page(database, connection, query, keyset, page)

    found = await database.reader.consult(read)
    if found is None:
        return None

    async def add_up(connection: AsyncConnection) -> AccountTotals:
        matching = query.with_only_columns(accounts.c.id, maintain_column_froms=True)
        set_aside = select(exact_sum(holds.c.amount)).where(
            holds.c.mandate_id == mandate_id, holds.c.account_id.in_(matching), IS_OPEN
        )
        sums = query.with_only_columns(
            exact_sum(accounts.c.balance),
            set_aside.scalar_subquery(),
            maintain_column_froms=True,
        )
        return AccountTotals(*(await connection.execute(sums)).one())

    async def totals() -> AccountTotals:
        return await database.reader.consult(add_up)

    nodes = [_account_view(row) for row in found.nodes]
    return replace(found, nodes=nodes, totals=once(totals))


async def find_balance(
    database: Database, viewer: Viewer, mandate_id: str, user_id: str | None
) -> BalanceView | None:
    """One balance. Under PREPAY_USER that of `user_id`, the viewer's own when left out.

    None where the mandate is not the viewer's or the user was never in it; Forbidden for a member
    who names another; BadInput where nobody is named and the viewer has no balance there.
    """
    [found] = await visible_balances(database, viewer, [(mandate_id, user_id)])
    if found is None and user_id is None and await sees(database, viewer, mandate_id):
        raise BadInput("userId is required: you have no balance of your own in this mandate.")
    if isinstance(found, Forbidden):
        raise found
    return found


async def visible_balances(
    source: Source, viewer: Viewer, keys: Sequence[tuple[str, str | None]]
) -> list[BalanceView | Forbidden | None]:
    """The balances of (mandate id, user id) pairs that anybody may have named, by two SELECTs at most.

    Under PREPAY_USER that of the user, the viewer's own when left out. None where the mandate is not
    the viewer's, the user was never in it, or nobody is named and the viewer has no balance there;
    Forbidden for a member who names another.
    """
    members = await _ever_members(source, keys)
    found: dict[tuple[str, str | None], BalanceView | Forbidden | None] = {}
    asked: dict[tuple[str, str | None], tuple[str, str | None]] = {}
    for mandate_id, user_id in keys:
        if not viewer.may_see(mandate_id):
            continue
        if user_id is None:
            own = viewer.user_id if mandate_id in viewer.roles else None
            asked[mandate_id, user_id] = mandate_id, own
        elif viewer.only_user(mandate_id) not in (None, user_id):
            found[mandate_id, user_id] = Forbidden(
                "userId names another user: only admins see the balances of others."
            )
        elif (mandate_id, user_id) in members:
            asked[mandate_id, user_id] = mandate_id, user_id
    balances = await balances_by_user(source, list(asked.values())) if asked else []
    found |= zip(asked, balances, strict=True)
    return [found.get(key) for key in keys]


async def list_balances(database: Database, viewer: Viewer) -> Sequence[BalanceView]:
    """One balance for each mandate the viewer belongs to, by mandate id."""
    found = await balances_by_user(
        database, [(mandate_id, viewer.user_id) for mandate_id in sorted(viewer.roles)]
    )
    return [balance for balance in found if balance is not None]


_PAYS = and_(
    accounts.c.mandate_id == settings.c.mandate_id,
    accounts.c.account_type
    == case(
        {model.value: kind.value for model, kind in PAYING_ACCOUNT.items()},
        value=settings.c.billing_model,
    ),
    or_(accounts.c.user_id.is_(None), is_among(accounts.c.user_id, "user_ids")),
)
_BY_USER = Statement(
    select(*_TERMS, *_ACCOUNT, held(_OF_MANDATES).label("held"))
    .join_from(settings, mandates, mandates.c.id == settings.c.mandate_id)
    .outerjoin(accounts, _PAYS)
    .where(is_among(settings.c.mandate_id, "mandate_ids"))
)


async def balances_by_user(
    source: Source, keys: Sequence[tuple[str, str | None]]
) -> list[BalanceView | None]:
    """The balances of (mandate id, user id) pairs the caller may see, by one SELECT.

    None where there is no such mandate, or where its users pay and no user is named.
    """
    terms: dict[str, Any] = {}
    opened: dict[tuple[str, str | None], Any] = {}
    now = datetime.now(UTC)
    for row in await _BY_USER.rows(
        source,
        mandate_ids=list({mandate_id for mandate_id, _ in keys}),
        user_ids=list({user_id for _, user_id in keys if user_id is not None}),
    ):
        terms[row.mandate_id] = row
        if row.id is not None:
            opened[row.mandate_id, row.user_id] = row
    return [
        _balance_view(terms[mandate_id], user_id, opened, now) if mandate_id in terms else None
        for mandate_id, user_id in keys
    ]


def _balance_view(
    terms: Any, user_id: str | None, opened: Mapping[tuple[str, str | None], Any], now: datetime
) -> BalanceView | None:
    user_pays = terms.billing_model == BillingModel.PREPAY_USER
    if user_pays and user_id is None:
        return None
    owner = user_id if user_pays else None
    account = opened.get((terms.mandate_id, owner))
    # Until it is opened, an account is judged as if its default credit were there already.
    expected = terms.default_user_credit if user_pays else ZERO
    held = account.held if account else ZERO
    left = funds(
        terms,
        PAYING_ACCOUNT[terms.billing_model],
        balance=account.balance if account else expected,
        held=held,
        funding_base=account.funding_base if account else expected,
        own_credit_limit=account.own_credit_limit if account else None,
    )
    return BalanceView(
        mandate_id=terms.mandate_id,
        user_id=owner,
        account_id=account.id if account else None,
        billing_model=terms.billing_model,
        currency=terms.currency,
        balance=account.balance if account else ZERO,
        held=held,
        available=left.available,
        credit_limit=left.credit_limit,
        warning_threshold=left.warning_threshold,
        is_warning=left.is_warning,
        as_of=now,
    )


_EVER_MEMBERS = Statement(
    select(memberships.c.mandate_id, memberships.c.user_id).where(
        is_among(memberships.c.mandate_id, "mandate_ids"),
        is_among(memberships.c.user_id, "user_ids"),
    )
)


async def _ever_members(
    source: Source, keys: Sequence[tuple[str, str | None]]
) -> set[tuple[str, str]]:
    """Also users who have left: their account and history stay."""
    named = {user_id for _, user_id in keys if user_id is not None}
    if not named:
        return set()
    mandate_ids = list({mandate_id for mandate_id, _ in keys})
    rows = await _EVER_MEMBERS.rows(source, mandate_ids=mandate_ids, user_ids=list(named))
    return {(mandate_id, user_id) for mandate_id, user_id in rows}


async def update_account(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    account_id: str,
    changes: Mapping[str, Any],
) -> tuple[str, str]:
    """Changes `enabled` or the account's own `credit_limit` (None clears it); returns its key."""
    viewer.require_sys_admin(mandate_id)
    refuse_null(changes, accounts)
    check_limit(changes.get("credit_limit"), "credit_limit")

    async def unit(connection: AsyncConnection) -> None:
        # The settings row first, as everywhere, so that no spend is being judged meanwhile.
        terms = await lock_settings(connection, mandate_id, change=True)
        this = and_(accounts.c.mandate_id == mandate_id, accounts.c.id == account_id)
        row = (await connection.execute(select(accounts).where(this).with_for_update())).first()
        if row is None:
            raise BillingError(
                UserErrorCode.NOT_FOUND, "There is no such account in this mandate.", "account_id"
            )
        before, after = difference(row, changes)
        if not after:
            return
        now = datetime.now(UTC)
        await connection.execute(update(accounts).where(this).values(**after))
        if "credit_limit" in after:
            await update_alert_levels(connection, terms, now, account_id)
        await write_audit_event(
            connection,
            viewer,
            now,
            "account.updated",
            f"account:{account_id}",
            mandate_id=mandate_id,
            before=before,
            after=after,
        )

    await database.write(unit)
    return mandate_id, account_id
