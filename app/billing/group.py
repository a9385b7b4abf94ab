"""Group commit: calls on one mandate's books that come at once share one database transaction.

The first runs at once. Whoever comes while it runs waits, and the next group takes all who wait. Each
call has its own outcome, and learns it once the group is committed. Where a group fails for what may
be the fault of one call, each is run by itself.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from math import inf
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.errors import BillingError
from app.billing.ledger import Ledger
from app.billing.locked import Needs
from app.billing.settings import lock_settings
from app.database import Database, DatabaseUnavailable

T = TypeVar("T")

MAX_CALLS = 64
"""In one group."""
MAX_SIZE = 1000
"""Of the calls of one group together, unless it is one call."""
SLOW_SECONDS = 0.1
"""A group that takes longer, such as one that waits for a lock, holds up the next one no more."""
_ATTEMPTS = 3
"""Of a group as such: what happens again may be the fault of one call."""
_LOCK_NOT_AVAILABLE = "55P03"

_queues: WeakKeyDictionary[Database, dict[str, "_Queue"]] = WeakKeyDictionary()


async def in_group(
    database: Database,
    mandate_id: str,
    needs: Needs,
    work: Callable[[Ledger], T],
    *,
    size: int = 1,
) -> T:
    """Runs `work` on a mandate's locked books, with others, and returns its result once committed.

    It finds what it needs read, judges and then posts. It may run more than once: whoever loses a
    race judges again on what the winner has written. NOT_FOUND without a mandate.
    """
    queues = _queues.setdefault(database, {})
    queue = queues.get(mandate_id)
    if queue is None:
        queue = queues[mandate_id] = _Queue(database, mandate_id)
    call = _Call(needs, work, size, database.begin_by())
    outcome: T = await queue.join(call)
    return outcome


class _Apart(Exception):
    """What has happened to the group need not happen to each of its calls."""


class _Call:
    """One call, and what comes of it."""

    def __init__(
        self, needs: Needs, work: Callable[[Ledger], Any], size: int, begin_by: float
    ) -> None:
        self.needs = needs
        self.work = work
        self.size = size
        self.begin_by = begin_by
        self.context = copy_context()
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """Done, too, when nobody waits for it any more."""
        self.group: _Group | None = None

    def end(self, outcome: Any) -> None:
        if self.outcome.done():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)

    def give_up(self) -> None:
        """Its time is over before it has begun."""
        if self.group is None:
            self.end(_too_late())


class _Queue:
    """The calls on one mandate's books that no group has taken yet."""

    def __init__(self, database: Database, mandate_id: str) -> None:
        self.database = database
        self.mandate_id = mandate_id
        self._waiting: deque[_Call] = deque()
        self._current: _Group | None = None

    async def join(self, call: _Call) -> Any:
        self._waiting.append(call)
        if self._current is None:
            self._begin_group()
        timer = None
        if call.begin_by != inf:
            timer = asyncio.get_running_loop().call_at(call.begin_by, call.give_up)
        try:
            return await call.outcome
        finally:
            if timer:
                timer.cancel()
            if call.group:
                call.group.end_if_forsaken()

    def _begin_group(self) -> None:
        waiting = [call for call in self._waiting if not call.outcome.done()]
        self._waiting = deque(waiting)
        if waiting:
            self._current = _Group(self, waiting)
        else:
            self._current = None
            _queues[self.database].pop(self.mandate_id, None)

    def pass_on(self, group: "_Group") -> None:
        """The group has ended, or takes so long that others shall not wait for it."""
        if self._current is group:
            self._begin_group()

    def take(self, group: "_Group") -> list[_Call]:
        """Those who wait, in the order of their arrival and as many as fit into a group."""
        taken: list[_Call] = []
        size = 0
        while self._waiting and len(taken) < MAX_CALLS:
            call = self._waiting[0]
            if not call.outcome.done():
                size += call.size
                if taken and size > MAX_SIZE:
                    break
                call.group = group
                taken.append(call)
            self._waiting.popleft()
        return taken


class _Group:
    """Calls that are judged one after the other and committed together."""

    def __init__(
        self, queue: _Queue, waiting: Sequence[_Call], *, alone: _Call | None = None
    ) -> None:
        self._queue = queue
        self._waiting = waiting
        self._calls: list[_Call] = [alone] if alone else []
        """None until there is a connection: whoever comes while it is waited for comes along."""
        self._attempt = 0
        self._slow: asyncio.TimerHandle | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(), context=waiting[0].context)
        queue.database.under_way.add(self._task)
        self._task.add_done_callback(queue.database.under_way.discard)

    async def _run(self) -> None:
        begin_by = max(call.begin_by for call in self._waiting)
        try:
            for call, outcome in await self._queue.database.write(self._unit, begin_by=begin_by):
                call.end(outcome)
        except Exception as error:
            if len(self._calls) < 2 or isinstance(error, DatabaseUnavailable):
                self._fail(error)
            else:
                self._drop_late()
                for call in self._calls:
                    call.group = _Group(self._queue, [call], alone=call)
        except BaseException:
            self._fail(DatabaseUnavailable())
            raise
        finally:
            if self._slow:
                self._slow.cancel()
            self._queue.pass_on(self)

    async def _unit(self, connection: AsyncConnection) -> list[tuple[_Call, Any]]:
        self._attempt += 1
        if not self._calls:
            self._calls = self._queue.take(self)
            self._slow = asyncio.get_running_loop().call_later(
                SLOW_SECONDS, self._queue.pass_on, self
            )
        elif self._attempt > 1:
            self._drop_late()
        if not self._calls:
            return []
        try:
            return await self._book(connection)
        except DBAPIError as error:
            others_wait = getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE
            if len(self._calls) > 1 and (others_wait or self._attempt == _ATTEMPTS):
                raise _Apart from error
            raise

    async def _book(self, connection: AsyncConnection) -> list[tuple[_Call, Any]]:
        terms = await lock_settings(connection, self._queue.mandate_id, change=False)
        ledger = Ledger(connection, terms)
        await ledger.prepare(Needs.together(call.needs for call in self._calls))
        outcomes = [(call, _outcome(ledger, call)) for call in self._calls]
        await ledger.write()
        return outcomes

    def _drop_late(self) -> None:
        """As for everyone, no further attempt begins when the time for it is over."""
        for call in self._calls:
            if call.begin_by <= _now():
                call.end(_too_late())
        self._calls = [call for call in self._calls if not call.outcome.done()]

    def _fail(self, error: Exception) -> None:
        """For those who are in the group, or have waited for it from the start."""
        for call in self._calls or self._waiting:
            if call.group in (None, self):
                call.end(error)

    def end_if_forsaken(self) -> None:
        """Breaks off what nobody waits for any more."""
        if all(call.outcome.done() for call in self._calls):
            self._task.cancel()


def _outcome(ledger: Ledger, call: _Call) -> Any:
    """What the call returns, or the BillingError that refuses it and has left the books as they were."""
    before = ledger.changes
    try:
        result = call.work(ledger)
    except BillingError as error:
        if ledger.changes != before:
            raise
        return error
    ledger.judge_levels()
    return result


def _too_late() -> DatabaseUnavailable:
    error = DatabaseUnavailable()
    error.__cause__ = TimeoutError("no turn in time")
    return error


def _now() -> float:
    return asyncio.get_running_loop().time()
