"""Lends connections of a pool for single statements, and keeps them at hand between these.

To take one out of SQLAlchemy's pool and to put it back takes longer than most statements.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.util import greenlet_spawn

from app.postgresql import IDLE_SECONDS
from app.statements import as_sqlalchemy


class Lending:
    """The connections of one pool that are at hand: the pool counts them as in use."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._at_hand: list[tuple[Any, float]] = []
        """Each with when it was used last."""
        self._waiting = 0
        """How many wait for a connection of the pool: then none is kept from it."""

    @property
    def at_hand(self) -> int:
        """How many are."""
        return len(self._at_hand)

    async def lend(self, by: float) -> Any:
        """A connection at hand that has just been used, or one of the pool, got by then."""
        while self._at_hand:
            lent, used_at = self._at_hand.pop()
            if time.monotonic() - used_at < IDLE_SECONDS and not _is_closed(lent):
                return lent
            await _close(lent)
        async with self.queueing(by):
            try:
                return await greenlet_spawn(self._engine.raw_connection)
            except self._engine.dialect.loaded_dbapi.Error as error:
                raise as_sqlalchemy(error, self._engine.dialect) from error

    async def take_back(self, lent: Any) -> None:
        """After a use that went well."""
        if self._waiting:
            await _close(lent)
        else:
            self._at_hand.append((lent, time.monotonic()))

    async def give_up(self, lent: Any) -> None:
        """After a use that may have left an answer unread: it is closed."""
        lent.invalidate()
        await _close(lent)

    async def give_back(self) -> None:
        """Leaves the pool all its connections."""
        while self._at_hand:
            lent, _ = self._at_hand.pop()
            await _close(lent)

    @asynccontextmanager
    async def queueing(self, by: float) -> AsyncIterator[None]:
        """While the pool is asked for a connection, which must be there by then."""
        self._waiting += 1
        try:
            async with asyncio.timeout_at(None if by == math.inf else by):
                yield
        except TimeoutError:
            raise TimeoutError("no connection in time") from None
        finally:
            self._waiting -= 1


async def _close(lent: Any) -> None:
    """Puts it back into its pool, whoever leaves meanwhile."""
    await asyncio.shield(asyncio.create_task(greenlet_spawn(lent.close)))


def _is_closed(lent: Any) -> bool:
    """Whether the server has ended it: SQLite has none."""
    is_closed = getattr(lent.driver_connection, "is_closed", None)
    return is_closed is not None and bool(is_closed())
