"""Connections to PostgreSQL that find out soon when their server has gone, and its notifications."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.feed import CHANNEL, Feed

IDLE_SECONDS = 1.0
"""A connection that was idle for longer is tried before it is used: its server may have gone since."""
LISTEN_AGAIN_SECONDS = 1.0
CHECK_SECONDS = 10.0
"""How often a connection that only listens is asked whether it is still there."""
_NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"

logger = logging.getLogger("billing.postgresql")


class PromptlyClosed(asyncpg.Connection):  # type: ignore[misc]
    """Who closes a connection of a server that hangs does not wait for its farewell for long."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await super().close(timeout=min(timeout or 0.5, 0.5))


def note_use(_connection: object, record: Any) -> None:
    record.info["used_at"] = time.monotonic()


def try_idle(connection: Any, record: Any, _: object) -> None:
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError
    if time.monotonic() - record.info.get("used_at", time.monotonic()) < IDLE_SECONDS:
        return
    try:
        connection.ping()
    except Exception as error:  # whatever it is, another connection is opened
        raise InvalidatePoolError from error


class Timeouts(NamedTuple):
    """In seconds, None for none."""

    statement_timeout: float | None
    lock_timeout: float | None
    idle_in_transaction_session_timeout: float | None


def connect_args(timeouts: Timeouts, *, pooled: bool) -> dict[str, Any]:
    """How asyncpg connects: the one place where timeouts are set.

    A connection asks for them as it opens. Where it is `pooled`, by PgBouncer in transaction mode, each
    transaction may have another session of the server: it asks for itself, and nothing is kept prepared.
    """
    wanted = {
        name: f"{seconds * 1000:.0f}"
        for name, seconds in timeouts._asdict().items()
        if seconds is not None
    }
    if not pooled:
        return {"server_settings": wanted, "connection_class": PromptlyClosed}

    class Pooled(PromptlyClosed):
        async def execute(self, query: str, *arguments: Any, **options: Any) -> Any:
            if query.startswith("BEGIN"):  # in the same message
                query += "".join(f" SET LOCAL {name} = {value};" for name, value in wanted.items())
            return await super().execute(query, *arguments, **options)

    return {
        "connection_class": Pooled,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: "",  # a name would stay in a session of the server
    }


async def notify(connection: AsyncConnection, payloads: list[str]) -> None:
    """Passes these on to whoever is `hearing`, in this process and in others."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    await driver.execute(_NOTIFY, CHANNEL, payloads)


@asynccontextmanager
async def hearing(engine: AsyncEngine, feed: Feed) -> AsyncIterator[None]:
    """Passes what is notified on to the feed, meanwhile."""
    task = asyncio.create_task(_keep_hearing(engine, feed))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep_hearing(engine: AsyncEngine, feed: Feed) -> None:
    """By one connection after another."""
    while True:
        try:
            await _hear(engine, feed)
        except Exception as error:  # whatever it is, another connection is opened
            logger.warning(
                "Changes are not heard, and streams of transactions end: %s", type(error).__name__
            )
        finally:
            feed.stop_hearing()
        await asyncio.sleep(LISTEN_AGAIN_SECONDS)


async def _hear(engine: AsyncEngine, feed: Feed) -> None:
    """For as long as one connection lasts."""
    is_over = asyncio.Event()
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        driver.add_termination_listener(lambda _: is_over.set())
        await driver.add_listener(CHANNEL, lambda *told: feed.hear(told[-1]))
        feed.begin_hearing()
        while not is_over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await is_over.wait()
            async with asyncio.timeout(CHECK_SECONDS):
                await driver.execute("SELECT 1")
