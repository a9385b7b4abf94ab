"""A mandate's billing settings, the lock that every unit of work takes first, and its providers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from typing import Any

import pycountry
from sqlalchemy import Select, bindparam, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.alerts import update_alert_levels
from app.billing.audit import write_audit_event
from app.billing.checks import (
    check_email,
    check_limit,
    check_text,
    difference,
    invalid,
    refuse_null,
)
from app.billing.enums import AccountType, BillingModel
from app.billing.errors import BillingError, UserErrorCode
from app.billing.funds import PAYING_ACCOUNT, provider_allowed
from app.billing.held import has_open_hold
from app.billing.models import accounts, holds, mandates, settings
from app.billing.money import ZERO, check_amount
from app.billing.viewer import Viewer, mandate_not_found, sees
from app.database import Database
from app.statements import Statement

MAX_EMAILS = 20
_JUDGED_BY = {"billing_model", "credit_limit", "warning_threshold_percent"}
"""What of the settings decides how low an account stands."""


def no_settings_yet(mandate_id: str, now: datetime) -> dict[str, Any]:
    """The row of a mandate without settings: it behaves as UNLIMITED and can be locked."""
    return {
        "mandate_id": mandate_id,
        "version": 0,
        "billing_model": BillingModel.UNLIMITED,
        "default_user_credit": Decimal(10),
        "warning_threshold_percent": Decimal(10),
        "block_on_zero_balance": True,
        "notify_on_warning": True,
        "notify_emails": [],
        "billing_address": None,
        "credit_limit": None,
        "allowed_providers": None,
        "updated_at": now,
        "totalled_until": date.min,
    }


_IS_MANDATE = settings.c.mandate_id == bindparam("mandate_id", type_=settings.c.mandate_id.type)
_TERMS = Statement(
    select(
        settings,
        mandates.c.name.label("mandate_name"),
        mandates.c.currency,
        mandates.c.time_zone,
    )
    .join_from(settings, mandates, mandates.c.id == settings.c.mandate_id)
    .where(_IS_MANDATE)
)


@cache
def _locked(dialect: str, *, change: bool) -> Statement:
    # The mandate's row, too: else whoever has waited for a change of it sees it as it was before.
    query = _TERMS.query.with_for_update(read=not change, of=[settings, mandates])
    if dialect == "postgresql":
        # PostgreSQL lets every new spend share the row past a change that waits for it, so that a
        # change of a busy mandate would wait for ever. Advisory locks queue in the order asked.
        queue = func.pg_advisory_xact_lock if change else func.pg_advisory_xact_lock_shared
        turn = select(queue(func.hashtextextended(settings.c.mandate_id, 0)).label("turn"))
        # Of the mandate's row, so that it goes to the mandate's shard with the rest.
        query = query.join(turn.where(_IS_MANDATE).cte("turn"), true())
    return Statement(query)


async def lock_settings(connection: AsyncConnection, mandate_id: str, *, change: bool) -> Any:
    """Locks the mandate's settings row, the first lock of every unit: shared to spend, alone to change.

    Returns the settings with the mandate's currency and time zone; NOT_FOUND without such a mandate.
    """
    row = await find_and_lock_settings(connection, mandate_id, change=change)
    if row is None:
        raise mandate_not_found()
    return row


async def find_and_lock_settings(
    connection: AsyncConnection, mandate_id: str, *, change: bool
) -> Any:
    """As lock_settings, but None without such a mandate."""
    statement = _locked(connection.dialect.name, change=change)
    return await statement.first(connection, mandate_id=mandate_id)


async def read_terms(connection: AsyncConnection, mandate_id: str) -> Any:
    """What lock_settings returns, without a lock: for those who only look. There must be the mandate."""
    [terms] = await _TERMS.rows(connection, mandate_id=mandate_id)
    return terms


async def find_settings(database: Database, viewer: Viewer, mandate_id: str) -> Any:
    """The settings, for the mandate's admins; Forbidden for others.

    None where there are none yet, and where the mandate is not the viewer's.
    """
    async with database.read() as connection:
        if not await sees(connection, viewer, mandate_id):
            return None
        viewer.require_admin(mandate_id)
        return (await connection.execute(_stored(mandate_id))).first()


def _stored(mandate_id: str) -> Select[Any]:
    return select(settings).where(settings.c.mandate_id == mandate_id, settings.c.version > 0)


async def update_settings(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    changes: Mapping[str, Any],
    *,
    expected_version: int | None,
    registered: Sequence[str],
) -> Any:
    """Creates or changes the settings and returns them; what `changes` leaves out stays as it is.

    VERSION_CONFLICT when `expected_version` (0: none yet) is not the stored one; BALANCE_NOT_ZERO
    when the new model would leave money behind.
    """
    viewer.require_sys_admin(mandate_id)
    _check(changes, registered)

    async def unit(connection: AsyncConnection) -> Any:
        stored = await lock_settings(connection, mandate_id, change=True)
        if expected_version is not None and expected_version != stored.version:
            raise BillingError(
                UserErrorCode.VERSION_CONFLICT,
                f"The settings are at version {stored.version}: read them again and decide anew.",
                "expected_version",
            )
        before, after = difference(stored, changes)
        if not after and stored.version:
            return stored
        if "billing_model" in after:
            await _check_model_change(connection, stored, after["billing_model"])
        now = datetime.now(UTC)
        await connection.execute(
            update(settings)
            .where(settings.c.mandate_id == mandate_id)
            .values(version=stored.version + 1, updated_at=now, **after)
        )
        if not _JUDGED_BY.isdisjoint(after):
            await update_alert_levels(connection, await read_terms(connection, mandate_id), now)
        await write_audit_event(
            connection,
            viewer,
            now,
            "settings.updated" if stored.version else "settings.created",
            f"mandate:{mandate_id}",
            mandate_id=mandate_id,
            before=before if stored.version else None,
            after=after,
        )
        return (await connection.execute(_stored(mandate_id))).one()

    return await database.write(unit)


def _check(changes: Mapping[str, Any], registered: Sequence[str]) -> None:
    refuse_null(changes, settings)
    credit = changes.get("default_user_credit")
    if credit is not None:
        check_amount(credit, "default_user_credit", zero=True)
    percent = changes.get("warning_threshold_percent")
    if percent is not None and not 0 <= percent <= 100:
        raise invalid("warning_threshold_percent must be 0 to 100.", "warning_threshold_percent")
    check_limit(changes.get("credit_limit"), "credit_limit")
    emails = changes.get("notify_emails", [])
    if len(emails) > MAX_EMAILS:
        raise invalid(f"notify_emails must be at most {MAX_EMAILS}.", "notify_emails")
    for place, email in enumerate(emails):
        check_email(email, "notify_emails", str(place))
    for place, provider in enumerate(changes.get("allowed_providers") or []):
        if provider not in registered:
            raise invalid(
                f"allowed_providers must be among {', '.join(registered)}.",
                "allowed_providers",
                str(place),
            )
    if address := changes.get("billing_address"):
        _check_address(address)


def _check_address(address: Mapping[str, str | None]) -> None:
    for name, value in address.items():
        check_text(value, "billing_address", name, most=200)
    if email := address.get("email"):
        check_email(email, "billing_address", "email")
    country = address.get("country")
    if country is not None and country not in _countries():
        raise invalid(
            "country must be an ISO 3166-1 alpha-2 code, such as CH.",
            "billing_address",
            "country",
        )


@cache
def _countries() -> frozenset[str]:
    return frozenset(country.alpha_2 for country in pycountry.countries)


async def _check_model_change(connection: AsyncConnection, stored: Any, model: str) -> None:
    """No money and no open hold may stay behind on an account that the new model does not use.

    UNLIMITED accounts are left aside: that usage was never owed.
    """
    rows = (
        await connection.execute(
            select(accounts.c.account_type, accounts.c.balance)
            .where(
                accounts.c.mandate_id == stored.mandate_id,
                accounts.c.account_type != AccountType.UNLIMITED,
                or_(
                    accounts.c.balance != ZERO,
                    has_open_hold(holds.c.mandate_id == stored.mandate_id),
                ),
            )
            .order_by(accounts.c.id)
            .with_for_update()
        )
    ).all()
    used = PAYING_ACCOUNT[BillingModel(model)]
    if any(row.account_type != used for row in rows):
        raise BillingError(
            UserErrorCode.BALANCE_NOT_ZERO,
            f"An account that {model} would not use has a balance or an open hold: transfer or"
            " settle it first.",
            "billing_model",
        )
    owes = stored.billing_model == BillingModel.CREDIT_POSTPAY and any(
        row.balance < ZERO for row in rows
    )
    if owes and model in (BillingModel.PREPAY_USER, BillingModel.PREPAY_MANDATE):
        raise BillingError(
            UserErrorCode.BALANCE_NOT_ZERO,
            "Money is owed: credit a payment before the change to a prepaid model.",
            "billing_model",
        )


async def list_providers(
    database: Database, viewer: Viewer, mandate_id: str, registered: Sequence[str]
) -> Sequence[str] | None:
    """The registered providers that a mandate's members may use; None where it is not the viewer's."""
    async with database.read() as connection:
        if not await sees(connection, viewer, mandate_id):
            return None
        allowed = (
            await connection.execute(
                select(settings.c.allowed_providers).where(settings.c.mandate_id == mandate_id)
            )
        ).scalar_one()
    return [name for name in registered if provider_allowed(allowed, name, registered)]
