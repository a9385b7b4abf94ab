"""Finds out that a database says nothing any more, and ends the connections that wait for it."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

SILENCE_SECONDS = 1.5
"""A connection that was used for longer, while no other one heard anything, is doubted."""
_TICK_SECONDS = 0.5
"""How often that is looked at: one timer for all connections, as each use would be slower with its own."""


class SilenceWatch:
    """Watches the connections in use; one whose statement only takes long is left alone."""

    def __init__(self, is_answering: Callable[[], Awaitable[bool]]) -> None:
        """`is_answering` tells whether the database says anything to somebody who asks just that."""
        self._is_answering = is_answering
        self._used_since: dict[Any, float] = {}
        self._heard_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[None] | None = None

    def note_answer(self, *_: object) -> None:
        """The database has done something for this process."""
        self._heard_at = time.monotonic()

    def is_heard(self) -> bool:
        """Whether it has done so of late: then it is only busy."""
        return time.monotonic() - self._heard_at < SILENCE_SECONDS

    @contextmanager
    def over(self, driver_connection: Any) -> Iterator[None]:
        """Watches a connection while it is used."""
        self._used_since[driver_connection] = time.monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)
        try:
            yield
        finally:
            del self._used_since[driver_connection]

    def _tick(self) -> None:
        self._timer = None
        if not self._used_since:
            return
        self._timer = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)
        if self._doubted() and not self.is_heard() and (self._look is None or self._look.done()):
            self._look = asyncio.create_task(self._end_if_silent())

    def _doubted(self) -> list[Any]:
        since = time.monotonic() - SILENCE_SECONDS
        return [driver for driver, used in self._used_since.items() if used < since]

    async def _end_if_silent(self) -> None:
        if not await self._is_answering():
            for driver_connection in self._doubted():
                driver_connection.terminate()

    def close(self) -> None:
        """Ends the watch."""
        if self._timer:
            self._timer.cancel()
        if self._look:
            self._look.cancel()
