"""Connections to PostgreSQL that find out soon when their server has gone, and its notifications."""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import text
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.feed import CHANNEL, Feed

IDLE_SECONDS = 1.0
"""A connection that was idle for longer is tried before it is used: its server may have gone since."""
LISTEN_AGAIN_SECONDS = 1.0
CHECK_SECONDS = 10.0
"""How often a connection that only listens is asked whether it is still there."""
NOTIFY = text(
    "SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload"
).bindparams(channel=CHANNEL)

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


async def keep_hearing(engine: AsyncEngine, feed: Feed) -> None:
    """Passes on what is notified, by one connection after another."""
    while True:
        try:
            await _hear(engine, feed)
        except Exception as error:  # whatever it is, another connection is opened
            logger.warning("Changes of other processes are not heard: %s", type(error).__name__)
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
