"""Connections to PostgreSQL that find out soon when their server has gone."""

import time
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.exc import InvalidatePoolError

IDLE_SECONDS = 1.0
"""A connection that was idle for longer is tried before it is used: its server may have gone since."""


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
