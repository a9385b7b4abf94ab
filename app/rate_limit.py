"""How many calls of a root field a viewer may make a minute: counted in memory, or in Redis for all processes.

Calls are counted by the moving window, the only strategy that never lets more than the limit through in
any 60 seconds, in memory as in Redis, and that does not count a call that is refused.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from limits import RateLimitItem, RateLimitItemPerMinute, WindowStats
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from app.billing.errors import RateLimited
from app.billing.viewer import Viewer
from app.config import Settings

REDIS_SECONDS = 0.25
"""How long a call waits for Redis at most."""

PAUSE_SECONDS = 10.0
"""How long Redis is left alone after it has failed."""

SWEEP_SECONDS = 60.0
"""How often the memory gives back what has expired."""

_PARTS = 5
_BALANCES = frozenset({"balance", "providers"})
_SPENDS = frozenset({"recordUsage", "createHold", "settleHold", "releaseHold", "spendCheck"})

T = TypeVar("T")
RootField = tuple[str, bool]
"""Its name, and whether it is one of Mutation's."""

logger = logging.getLogger("billing.rate_limit")


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a viewer may still ask for of one field."""

    field: str
    limit: int
    remaining: int
    resets_at: datetime


class RateLimiter:
    """Counts the calls of each viewer and root field."""

    def __init__(self, settings: Settings) -> None:
        def per_minute(calls: int) -> RateLimitItem | None:
            return RateLimitItemPerMinute(calls) if settings.rate_limits and calls else None

        self._balances = per_minute(settings.rate_limit_balance)
        self._reads = per_minute(settings.rate_limit_reads)
        self._writes = per_minute(settings.rate_limit_writes)
        self._spends = per_minute(settings.rate_limit_spends)
        self._memory = MemoryStorage()
        self._local = MovingWindowRateLimiter(self._memory)
        self._shared: MovingWindowRateLimiter | None = None
        if settings.redis_url:
            from app.redis_storage import RedisConnections  # noqa: PLC0415 (8 MiB)

            self._redis = RedisConnections(settings.redis_url, REDIS_SECONDS)
            self._shared = MovingWindowRateLimiter(self._redis.storage)
        self._is_lost = False
        self._try_again_at = 0.0

    async def __aenter__(self) -> Self:
        self._memory.timer = asyncio.create_task(self._forget())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._memory.timer:
            self._memory.timer.cancel()
        if self._shared:
            await self._redis.aclose()

    async def admit(self, viewer: Viewer, field: str, *, is_write: bool) -> None:
        """Counts one call; RateLimited when it is one too many."""
        limit = self._limit(viewer, field, is_write)
        if limit is None:
            return

        async def wait(window: MovingWindowRateLimiter) -> float | None:
            if await window.hit(limit, field, viewer.user_id):
                return None
            freed_at, remaining = await window.get_window_stats(limit, field, viewer.user_id)
            return 0 if remaining else freed_at - time.time()

        seconds = await self._ask(wait)
        if seconds is None and self._shared and not self._is_lost:
            await self._local.hit(limit, field, viewer.user_id)  # for when Redis is lost
        if seconds is not None:
            raise RateLimited(field, limit.amount, max(1, math.floor(seconds) + 1))

    async def allowances(self, viewer: Viewer, fields: Iterable[RootField]) -> list[Allowance]:
        """What is left of each of these fields that has a limit. Asking counts for nothing."""
        limits = {
            name: limit
            for name, is_write in fields
            if (limit := self._limit(viewer, name, is_write)) is not None
        }

        async def read(window: MovingWindowRateLimiter) -> list[WindowStats]:
            return await asyncio.gather(
                *(window.get_window_stats(limits[name], name, viewer.user_id) for name in limits)
            )

        now = datetime.now(UTC)
        return [
            Allowance(
                name,
                limit.amount,
                stats.remaining,
                datetime.fromtimestamp(stats.reset_time, UTC)
                if stats.remaining < limit.amount
                else now,
            )
            for (name, limit), stats in zip(limits.items(), await self._ask(read), strict=True)
        ]

    def _limit(self, viewer: Viewer, field: str, is_write: bool) -> RateLimitItem | None:
        if field == "rateLimit":
            return None
        if viewer.is_service and field in _SPENDS:
            return self._spends
        if is_write:
            return self._writes
        return self._balances if field in _BALANCES else self._reads

    async def _ask(self, ask: Callable[[MovingWindowRateLimiter], Coroutine[Any, Any, T]]) -> T:
        """The answer of Redis; while there is none, of this process's own count."""
        if self._shared and time.monotonic() >= self._try_again_at:
            was_lost = self._is_lost
            if was_lost:  # others do not wait for this trial
                self._try_again_at = time.monotonic() + PAUSE_SECONDS
            try:
                answer = await _in_time(ask(self._shared))
            except self._redis.failures as error:
                self._lose(error)
            else:
                if was_lost:
                    self._is_lost = False
                    self._try_again_at = 0
                    logger.warning("Redis is back: rate limits are counted for all processes")
                return answer
        return await ask(self._local)

    def _lose(self, error: Exception) -> None:
        self._try_again_at = time.monotonic() + PAUSE_SECONDS
        if not self._is_lost:
            self._is_lost = True
            logger.warning(
                "Redis does not answer (%s): each process counts rate limits for itself",
                type(error).__name__,
            )

    async def _forget(self) -> None:
        """In place of the storage's own sweep, which visits every key after every call."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.time()
            for key, calls in list(self._memory.events.items()):
                while calls and calls[-1].expiry < now:
                    calls.pop()
                if not calls:
                    await self._memory.clear(key)


async def _in_time(asking: Coroutine[Any, Any, T]) -> T:
    """Leaves what takes too long to itself: the client may overlook that it is cancelled.

    The time is waited for in parts: where this process itself was busy for long, the answer lies
    there unread, and is read in the next part.
    """
    task = asyncio.create_task(asking)
    try:
        for _ in range(_PARTS):
            await asyncio.wait({task}, timeout=REDIS_SECONDS / _PARTS)
            if task.done():
                return task.result()
    finally:
        if not task.done():
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            task.cancel()
    raise TimeoutError
