"""The database: how to read it, and how to change it in one unit of work.

SQLite and PostgreSQL behave alike behind this module. It knows no table.
"""

import asyncio
import math
import random
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar, cast

from sqlalchemy import Engine, QueuePool, text
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import faults, feed, postgresql
from app.engines import of_postgresql, of_sqlite, parse_address
from app.lending import Lending
from app.metrics import RETRIES
from app.postgresql import Timeouts
from app.silence import SilenceWatch
from app.statements import Lender, Statement, is_watched

T = TypeVar("T")
Unit = Callable[[AsyncConnection], Awaitable[T]]


class Reader(Lender, Protocol):
    """Where lists, statistics and exports are read, which change nothing: what fails is asked again."""

    async def consult(self, question: Unit[T], *, snapshot: bool = False) -> T:
        """What a question is answered on a connection in autocommit, or else in one snapshot."""


@dataclass(frozen=True, slots=True)
class Waits:
    """For how many seconds a use of the database waits for what; None for ever."""

    busy: float
    """For SQLite's write lock, which another process has, in each attempt."""
    begin: float | None = None
    """For connections and for what is tried again, until the last attempt begins."""
    lock: float | None = None
    """For each lock of PostgreSQL, in each attempt."""
    statement: float | None = None
    idle: float | None = None
    """Between two statements of one transaction, whose locks others wait for."""


PATIENT = Waits(busy=10)
"""The operator's commands: they may take hours, and nobody else waits for them."""
PROMPT = Waits(busy=1, begin=2.5, lock=1.5, statement=30, idle=10)
"""A server: who asks is told within 5 s that there is no getting through.

For all that one request needs, it waits 2.5 s from the request's own begin, 0.5 s where these are
over already, and then 1.5 s for a lock.

No page, report or batch takes 30 s, the time that the end of a server leaves to them; and a unit of
work waits for nothing but the database: after 10 s its process has stopped in the midst.
"""
LAST_WAIT_SECONDS = 0.5
request_begun: ContextVar[float] = ContextVar("request_begun")
"""When the request began that is being answered, by the clock of the loop."""
PROBE_SECONDS = 2.0
"""For how long a question may take whose answer tells whether there is a database at all."""
LONG_STATEMENT_SECONDS = 600
"""For one statement of the proof of a whole ledger: minutes, of ten million transactions."""
ATTEMPTS = 8


class DatabaseUnavailable(Exception):
    """The database cannot be reached or stayed busy; nothing is known to have been written."""


class Database:
    """The pools of one process: `read()` for a connection in autocommit, `write()` for a unit of work."""

    def __init__(
        self,
        url: str,
        pool_size: int = 10,
        waits: Waits = PATIENT,
        *,
        direct_url: str | None = None,
    ) -> None:
        """With a `direct_url` the url leads through PgBouncer in transaction mode, and this one past it."""
        address = parse_address(url)
        self.is_sqlite = address.get_backend_name() == "sqlite"
        self.long_work = asyncio.Semaphore(2)
        """For what keeps a connection for long: a few at a time leave the others theirs."""
        self.long_reads = asyncio.Semaphore(1)
        """For each page of what reads many: they take turns, so that nobody else waits for all of them."""
        self.under_way: set[asyncio.Task[Any]] = set()
        """Work that several wait for, or that ends by itself: who leaves does not break it off."""
        self._waits = waits
        self._pooled = direct_url is not None
        self.feed = feed.Feed(None if self.is_sqlite else self._notify)
        """What every unit of work has noted is told here, once it is committed."""
        self.reader: Reader = self
        """The database itself, unless a replica spares it the work."""
        self._probes: set[asyncio.Task[Any]] = set()
        self._watch = SilenceWatch(self._is_answering)
        if self.is_sqlite:
            self._engines = of_sqlite(address, 2 * pool_size, waits.busy)
        else:
            self._engines = of_postgresql(
                address,
                parse_address(direct_url) if direct_url else None,
                2 * pool_size,
                Timeouts(waits.statement, waits.lock, waits.idle),
            )
            listen(self.engine.sync_engine, "after_cursor_execute", self._watch.note_answer)
        self._lending = Lending(self._engines.reader.sync_engine)

    @property
    def engine(self) -> AsyncEngine:
        """The writing engine, for tests that look underneath."""
        return self._engines.writer

    @property
    def engines(self) -> Mapping[str, Engine]:
        """What is underneath, by name, for those who watch it."""
        engines = {"writer": self._engines.writer.sync_engine}
        return engines | {"reader": self._engines.reader.sync_engine} if self.is_sqlite else engines

    @property
    def connections_in_use(self) -> Mapping[str, int]:
        """By the name of their engine: of those that pools have given away, some lie at hand."""
        at_hand = {"reader" if self.is_sqlite else "writer": self._lending.at_hand}
        return {
            name: cast("QueuePool", engine.pool).checkedout() - at_hand.get(name, 0)
            for name, engine in self.engines.items()
        }

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection in autocommit; each statement sees what was committed before it began."""
        with _unavailable(retried=False):
            async with self._connected(self._engines.reader, self.begin_by()) as connection:
                yield connection

    async def fetch(self, statement: Statement, values: dict[str, Any]) -> Sequence[Any]:
        """The rows of one statement, on a connection of its own in autocommit."""
        engine = self._engines.reader.sync_engine
        if statement.varies or self._pooled or is_watched(engine):
            async with self.read() as connection:
                return (await connection.execute(statement.query, values)).all()
        with _unavailable(retried=False):
            lent = await self._lending.lend(self.begin_by())
            try:
                with self._watched(lent.driver_connection):
                    found = await statement.run(lent, engine.dialect, values)
            except BaseException as error:
                is_whole = isinstance(error, DBAPIError) and not error.connection_invalidated
                # Whoever leaves: SQLite's thread goes on to the end of the statement by itself.
                if is_whole or (self.is_sqlite and isinstance(error, asyncio.CancelledError)):
                    await self._lending.take_back(lent)
                else:
                    await self._lending.give_up(lent)
                raise
            self._watch.note_answer()
            await self._lending.take_back(lent)
            return found

    @asynccontextmanager
    async def snapshot(self, *, long: bool = False) -> AsyncIterator[AsyncConnection]:
        """A connection that only reads, and sees the one moment of its first statement throughout.

        `long` lets its statements take longer than those of other requests may.
        """
        engine = self._engines.reader
        if not self.is_sqlite:
            engine = self._engines.writer.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        with _unavailable(retried=False):
            async with self._connected(engine, self.begin_by()) as connection:
                if self.is_sqlite:  # in autocommit SQLAlchemy begins nothing itself
                    await connection.exec_driver_sql("BEGIN")
                elif long and self._waits.statement:
                    await connection.exec_driver_sql(
                        f"SET LOCAL statement_timeout = '{LONG_STATEMENT_SECONDS}s'"
                    )
                yield connection

    async def consult(self, question: Unit[T], *, snapshot: bool = False) -> T:
        """As every Reader."""
        async with self.snapshot() if snapshot else self.read() as connection:
            return await question(connection)

    async def write(self, unit: Unit[T], *, begin_by: float | None = None) -> T:
        """Runs `unit` in one database transaction and returns what it returned, once committed.

        A deadlock, a serialization failure, a busy database or a unique violation runs the whole
        unit again, in a new transaction: by then it sees what the other one has written. After 8
        attempts, or when it has waited for too long, it gives up with DatabaseUnavailable, or
        IntegrityError for a unique violation.
        """
        by = self.begin_by() if begin_by is None else begin_by
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._attempt(unit, by)
            except DBAPIError as error:
                if not faults.passes_on_retry(error):
                    raise
                pause = random.uniform(0, 0.01 * 2**attempt)
                if attempt == ATTEMPTS and isinstance(error, IntegrityError):
                    raise
                if attempt == ATTEMPTS or _now() + pause >= by:
                    raise DatabaseUnavailable from error
                RETRIES.inc()
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _attempt(self, unit: Unit[T], by: float) -> T:
        """Runs the unit once. Whoever leaves breaks it off, but no commit, nor what is told of it."""
        is_committing = asyncio.Event()

        async def run() -> T:
            with _unavailable(retried=True):
                async with self._connected(self._engines.writer, by) as connection:
                    feed.begin(connection)
                    async with connection.begin():
                        result = await unit(connection)
                        is_committing.set()
                    self.feed.tell(feed.noted(connection))
                    return result

        task = asyncio.create_task(run())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not is_committing.is_set():
                task.cancel()
            await asyncio.wait([task])
            raise

    async def unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """What this work returns; it goes on to its end when whoever waits for it leaves."""
        task = asyncio.create_task(work)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        return await asyncio.shield(task)

    async def ask(self, question: Unit[T]) -> T:
        """What a question is answered on a connection of its own, or DatabaseUnavailable in 2 s.

        However many connections are in use, and whether or not the database says anything at all.
        """

        async def answer() -> T:
            with _unavailable(retried=False):
                async with self._engines.prober.connect() as connection:
                    return await question(connection)

        task = asyncio.create_task(answer())
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)
        done, _ = await asyncio.wait([task], timeout=PROBE_SECONDS)
        if not done:
            task.cancel()
            raise DatabaseUnavailable from TimeoutError("it does not answer")
        return task.result()

    def hearing(self) -> AbstractAsyncContextManager[None]:
        """Meanwhile the feed has the words of every process; on SQLite always, of its own alone."""
        return (
            nullcontext()
            if self.is_sqlite
            else postgresql.hearing(self._engines.listener, self.feed)
        )

    async def _notify(self, payloads: list[str]) -> None:
        async with self.read() as connection:
            await postgresql.notify(connection, payloads)

    def begin_by(self) -> float:
        """Until when, by the clock of the loop, the last attempt at what is asked for now begins."""
        if self._waits.begin is None:
            return math.inf
        now = _now()
        return max(request_begun.get(now) + self._waits.begin, now + LAST_WAIT_SECONDS)

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine, by: float) -> AsyncIterator[AsyncConnection]:
        """A connection of the pool, got by then and watched."""
        connection = engine.connect()
        await self._lending.give_back()
        async with self._lending.queueing(by):
            await connection.start()
        try:
            driver = (await connection.get_raw_connection()).driver_connection
            with self._watched(driver):
                yield connection
        finally:
            await asyncio.shield(asyncio.create_task(connection.close()))

    def _watched(self, driver_connection: Any) -> AbstractContextManager[None]:
        """Ends a server's connection to a database that is silent."""
        if self.is_sqlite or self._waits.begin is None:
            return nullcontext()
        return self._watch.over(driver_connection)

    async def _is_answering(self) -> bool:
        """Whether the database says anything, be it a refusal."""
        try:
            await self.ask(_say_something)
        except DatabaseUnavailable as error:
            return self._watch.is_heard() or not isinstance(error.__cause__, OSError)
        return True

    async def dispose(self) -> None:
        """Closes every pooled connection, once what is under way has ended."""
        while self.under_way:  # what ends lets the next begin
            await asyncio.gather(*self.under_way, return_exceptions=True)
        await self.feed.flush()
        self._watch.close()
        await self._lending.give_back()
        for task in self._probes:
            task.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await self._engines.reader.dispose()
        await self._engines.writer.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.dispose()


@contextmanager
def _unavailable(*, retried: bool) -> Iterator[None]:
    """Tells a database that is not there from a statement that failed.

    One that is busy is not there either, unless what waits for it is `retried`.
    """
    try:
        yield
    except faults.LOST as error:
        raise DatabaseUnavailable from (error if str(error) else TimeoutError("it does not answer"))
    except DBAPIError as error:
        if faults.means_absence(error) or (not retried and faults.passes_on_retry(error)):
            raise DatabaseUnavailable from error
        raise


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _say_something(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT 1"))
