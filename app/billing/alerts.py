"""How low an account stands, and what the outbox tells of it, once per channel."""

from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.enums import AlertLevel, Channel, NoticeType
from app.billing.funds import PAYING_ACCOUNT, Funds, funds
from app.billing.models import accounts, outbox
from app.billing.money import ZERO, format_decimal
from app.billing.types import new_key

MAX_WAITING = 100
"""Notices of rejected usage that wait for a mandate's receiver at once."""
_LEVELS = tuple(AlertLevel)
_ALERTS = {
    AlertLevel.WARNING: NoticeType.BALANCE_WARNING,
    AlertLevel.EMPTY: NoticeType.BALANCE_DEPLETED,
}


def alert_level(terms: Any, account: Any) -> AlertLevel:
    """Judged without holds; NONE on an account that the billing model does not use."""
    if account.account_type != PAYING_ACCOUNT[terms.billing_model]:
        return AlertLevel.NONE
    left = _without_holds(terms, account)
    if left.available is None:
        return AlertLevel.NONE
    if left.available <= ZERO:
        return AlertLevel.EMPTY
    return AlertLevel.WARNING if left.is_warning else AlertLevel.NONE


def alert_notices(
    terms: Any, account: Any, level: AlertLevel, now: datetime
) -> list[dict[str, Any]]:
    """The outbox rows for an account that has come to `level`: none unless that is above the stored one."""
    before = account.alert_level or level
    if not terms.notify_on_warning or _LEVELS.index(level) <= _LEVELS.index(before):
        return []
    left = _without_holds(terms, account)
    data = {
        "mandateId": terms.mandate_id,
        "mandateName": terms.mandate_name,
        "userId": account.user_id,
        "accountId": account.id,
        "billingModel": terms.billing_model,
        "currency": terms.currency,
        "balance": format_decimal(account.balance),
        "available": format_decimal(left.available or ZERO),
        "warningThreshold": format_decimal(left.warning_threshold),
    }
    channels = [Channel.EMAIL, Channel.WEBHOOK] if terms.notify_emails else [Channel.WEBHOOK]
    return [notice(terms.mandate_id, channel, _ALERTS[level], data, now) for channel in channels]


def _without_holds(terms: Any, account: Any) -> Funds:
    return funds(
        terms,
        account.account_type,
        balance=account.balance,
        held=ZERO,
        funding_base=account.funding_base,
        own_credit_limit=account.credit_limit,
    )


def notice(
    mandate_id: str, channel: Channel, kind: NoticeType, data: dict[str, Any], now: datetime
) -> dict[str, Any]:
    """One outbox row, due at once. `data` is what the receiver reads: amounts as text."""
    return {
        "mandate_id": mandate_id,
        "id": new_key(now),
        "channel": channel,
        "notice_type": kind,
        "data": data,
        "attempts": 0,
        "due_at": now,
        "last_error": None,
        "created_at": now,
    }


def legible(text: str) -> str:
    """Text from outside as JSON columns take it: no NUL, nothing that is no Unicode, 255 characters."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")[:255]


async def those_with_room(
    connection: AsyncConnection, mandate_id: str, notices: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The notices, without those of rejected usage for which too many wait already.

    One more would tell nothing new: refused requests come as fast as a client sends them, and there
    may be no receiver.
    """
    kind = NoticeType.USAGE_REJECTED
    rejections = [notice for notice in notices if notice["notice_type"] == kind]
    if not rejections:
        return notices
    waiting = select(outbox.c.id).where(
        outbox.c.mandate_id == mandate_id, outbox.c.notice_type == kind
    )
    waits = len((await connection.execute(waiting.limit(MAX_WAITING))).all())
    dropped = rejections[MAX_WAITING - waits :]
    return [notice for notice in notices if notice not in dropped]


async def update_alert_levels(
    connection: AsyncConnection, terms: Any, now: datetime, account_id: str | None = None
) -> None:
    """After a change of settings, which `terms` has already, or of one account's limit."""
    query = select(accounts).where(accounts.c.mandate_id == terms.mandate_id)
    if account_id is not None:
        query = query.where(accounts.c.id == account_id)
    changed = [
        (account, level)
        for account in await connection.execute(query.order_by(accounts.c.id).with_for_update())
        if (level := alert_level(terms, account)) != account.alert_level
    ]
    if not changed:
        return
    await connection.execute(
        update(accounts)
        .where(accounts.c.mandate_id == terms.mandate_id, accounts.c.id == bindparam("this"))
        .values(alert_level=bindparam("level")),
        [{"this": account.id, "level": level} for account, level in changed],
    )
    rows = [row for account, level in changed for row in alert_notices(terms, account, level, now)]
    if rows:
        await connection.execute(insert(outbox), rows)
