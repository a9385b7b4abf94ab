"""The outbox: what is still to be told by e-mail and to webhooks. How it is sent is not decided here.

A background job has no mandate, so what is due or too old is looked for across all of them. Whatever
becomes of it names its mandate.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.enums import Channel
from app.billing.models import outbox, settings
from app.billing.types import NOW
from app.database import Database

MAX_WEBHOOK_AGE = timedelta(days=3)
"""For how long a webhook is tried: its receiver may be dead, or there may be none."""
MAX_ERROR = 300
"""Characters of `last_error`."""


async def next_due(database: Database, channel: Channel) -> Any:
    """The notice that has been due for longest, and `now` by the database's clock; None without one."""
    query = (
        select(outbox, NOW.label("now"))
        .where(outbox.c.channel == channel, outbox.c.due_at <= NOW)
        .order_by(outbox.c.due_at)
        .limit(1)
    )
    async with database.read() as connection:
        return (await connection.execute(query)).first()


async def claim(database: Database, notice: Any, lease: timedelta) -> bool:
    """Leases a notice; True only for the one process that got it. Whoever dies leaves it due again."""

    async def unit(connection: AsyncConnection) -> bool:
        taken = await connection.execute(
            update(outbox)
            .where(*_this(notice), outbox.c.attempts == notice.attempts)
            .values(attempts=notice.attempts + 1, due_at=notice.now + lease)
        )
        return taken.rowcount == 1

    return await database.write(unit)


async def delivered(database: Database, notice: Any) -> None:
    """The notice has arrived: nothing is left to tell."""

    async def unit(connection: AsyncConnection) -> None:
        await connection.execute(delete(outbox).where(*_this(notice)))

    await database.write(unit)


async def failed(database: Database, notice: Any, error: str, retry_in: timedelta) -> None:
    """Puts off a claimed notice; not one whose lease has passed and that another has taken."""

    async def unit(connection: AsyncConnection) -> None:
        now = (await connection.execute(select(NOW))).scalar_one()
        await connection.execute(
            update(outbox)
            .where(*_this(notice), outbox.c.attempts == notice.attempts + 1)
            .values(due_at=now + retry_in, last_error=one_line(error)[:MAX_ERROR])
        )

    await database.write(unit)


def _this(notice: Any) -> tuple[ColumnElement[bool], ...]:
    return outbox.c.mandate_id == notice.mandate_id, outbox.c.id == notice.id


async def mail_settings(database: Database, mandate_id: str) -> Any:
    """Whom the mandate wants told, and whether it blocks spends at zero: as it is set now."""
    query = select(settings.c.notify_emails, settings.c.block_on_zero_balance).where(
        settings.c.mandate_id == mandate_id
    )
    async with database.read() as connection:
        return (await connection.execute(query)).one()


async def drop_old_webhooks(database: Database) -> int:
    """Gives up the webhooks older than MAX_WEBHOOK_AGE and says how many: the table stays bounded."""
    async with database.read() as connection:
        now = (await connection.execute(select(NOW))).scalar_one()
    is_old = and_(outbox.c.channel == Channel.WEBHOOK, outbox.c.created_at < now - MAX_WEBHOOK_AGE)
    dropped = 0
    for mandate_id in await _mandates_with(database, is_old):

        async def unit(connection: AsyncConnection, mandate_id: str = mandate_id) -> int:
            this = outbox.c.mandate_id == mandate_id
            done = await connection.execute(delete(outbox).where(this, is_old))
            return int(done.rowcount)

        dropped += await database.write(unit)
    return dropped


async def _mandates_with(database: Database, is_old: ColumnElement[bool]) -> Sequence[str]:
    async with database.read() as connection:
        found = await connection.execute(select(outbox.c.mandate_id).where(is_old).distinct())
        return found.scalars().all()


async def waiting(connection: AsyncConnection) -> dict[Channel, tuple[int, float]]:
    """How many notices wait on each channel that has some, and for how many seconds the oldest has."""
    query = select(outbox.c.channel, func.count(), func.min(outbox.c.created_at), NOW).group_by(
        outbox.c.channel
    )
    return {
        Channel(channel): (count, (now - oldest).total_seconds())
        for channel, count, oldest, now in await connection.execute(query)
    }


def one_line(text: str) -> str:
    """Somebody else's text as one line of printable characters, for headers, logs and the database."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
