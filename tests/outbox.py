"""Notices in the outbox, put there past the domain."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, update

from app.billing.enums import Channel, NoticeType
from app.billing.models import outbox
from app.billing.types import new_key
from app.database import Database
from tests.world import MANDATE, read_rows

EMAIL, WEBHOOK = Channel.EMAIL, Channel.WEBHOOK
ALERT = {
    "mandateId": MANDATE,
    "mandateName": "Acme",
    "userId": "alice",
    "accountId": "0190c9b4-0000-7000-8000-000000000000",
    "billingModel": "PREPAY_USER",
    "currency": "CHF",
    "balance": "1.5",
    "available": "1.25",
    "warningThreshold": "2",
}


async def put(
    database: Database,
    channel: Channel = EMAIL,
    kind: NoticeType = NoticeType.BALANCE_WARNING,
    *,
    age: timedelta = timedelta(seconds=1),
    **data: Any,
) -> str:
    """A notice that has been due for `age`, with `data` in place of what ALERT says; its id."""
    written = datetime.now(UTC) - age
    row = {
        "mandate_id": MANDATE,
        "id": new_key(written),
        "channel": channel,
        "notice_type": kind,
        "data": ALERT | data,
        "attempts": 0,
        "due_at": written,
        "last_error": None,
        "created_at": written,
    }
    async with database.engine.begin() as connection:
        await connection.execute(insert(outbox).values(row))
    return str(row["id"])


async def make_due(database: Database) -> None:
    """What the passing of time does."""
    async with database.engine.begin() as connection:
        await connection.execute(update(outbox).values(due_at=outbox.c.created_at))


async def waiting(database: Database) -> list[Any]:
    return await read_rows(database, outbox)
