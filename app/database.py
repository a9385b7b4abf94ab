"""The database: how to read it, and how to change it in one unit of work.

SQLite and PostgreSQL behave alike behind this module. It knows no table.
"""

import asyncio
import random
import sqlite3
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Self, TypeVar

import aiosqlite
from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.metrics import RETRIES

T = TypeVar("T")
Unit = Callable[[AsyncConnection], Awaitable[T]]

BUSY_SECONDS = 10
"""How long one statement waits for SQLite's write lock of another process."""
ATTEMPTS = 8
_SQLSTATES_TO_RETRY = {
    "23505",  # unique violation: the other one has committed by now
    "40001",  # serialization
    "40P01",  # deadlock
    "55P03",  # lock not available
}
_SQLITE_CODES_TO_RETRY = {
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
}
_SQLSTATES_OF_ABSENCE = {
    "08",  # connection
    "28",  # no such login
    "3D",  # no such database
    "53",  # resources
    "57",  # operator intervention
}
_SQLITE_CODES_OF_ABSENCE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
}
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


class DatabaseUnavailable(Exception):
    """The database cannot be reached or stayed busy; nothing is known to have been written."""


class Database:
    """The pools of one process: `read()` for a connection in autocommit, `write()` for a unit of work."""

    def __init__(self, url: str, pool_size: int = 10) -> None:
        address = make_url(url)
        address = address.set(drivername=_DRIVERS.get(address.drivername, address.drivername))
        self.is_sqlite = address.get_backend_name() == "sqlite"
        self.long_work = asyncio.Semaphore(2)
        """For what keeps a connection for long: a few at a time leave the others theirs."""
        self.long_reads = asyncio.Semaphore(1)
        """For each page of what reads many: they take turns, so that nobody else waits for all of them."""
        if self.is_sqlite:
            options: dict[str, Any] = {
                "connect_args": {"timeout": BUSY_SECONDS, "async_creator_fn": _open_sqlite},
                "hide_parameters": True,
            }
            # One writer a process: the others queue in memory and not in SQLite's unfair busy loop.
            self._writer = create_async_engine(
                address, pool_size=1, max_overflow=0, pool_timeout=30, **options
            )
            self._reader = create_async_engine(
                address, pool_size=pool_size, isolation_level="AUTOCOMMIT", **options
            )
            for engine in (self._writer, self._reader):
                event.listen(engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(self._writer.sync_engine, "begin", _begin_immediate)
        else:
            self._writer = create_async_engine(
                address,
                pool_size=pool_size,
                max_overflow=pool_size,
                isolation_level="READ COMMITTED",
                hide_parameters=True,
            )
            self._reader = self._writer.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def engine(self) -> AsyncEngine:
        """The writing engine, for tests that look underneath."""
        return self._writer

    @property
    def engines(self) -> Mapping[str, Engine]:
        """What is underneath, by name, for those who watch it."""
        engines = {"writer": self._writer.sync_engine}
        return engines | {"reader": self._reader.sync_engine} if self.is_sqlite else engines

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection in autocommit; each statement sees what was committed before it began."""
        with _unavailable():
            async with self._reader.connect() as connection:
                yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A connection that only reads, and sees the one moment of its first statement throughout."""
        engine = self._reader
        if not self.is_sqlite:
            engine = self._writer.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        with _unavailable():
            async with engine.connect() as connection:
                if self.is_sqlite:  # in autocommit SQLAlchemy begins nothing itself
                    await connection.exec_driver_sql("BEGIN")
                yield connection

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` in one database transaction and returns what it returned, once committed.

        A deadlock, a serialization failure, a busy database or a unique violation runs the whole
        unit again, in a new transaction: by then it sees what the other one has written. After 8
        attempts it gives up with DatabaseUnavailable, or IntegrityError for a unique violation.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _unavailable():
                    async with self._writer.begin() as connection:
                        return await unit(connection)
            except DBAPIError as error:
                if not _passes_on_retry(error):
                    raise
                if attempt == ATTEMPTS:
                    if isinstance(error, IntegrityError):
                        raise
                    raise DatabaseUnavailable from error
                RETRIES.inc()
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise AssertionError("unreachable")

    async def dispose(self) -> None:
        """Closes every pooled connection."""
        await self._reader.dispose()
        await self._writer.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.dispose()


@contextmanager
def _unavailable() -> Iterator[None]:
    """Tells a database that is not there from a statement that failed."""
    try:
        yield
    except (OSError, PoolTimeout) as error:
        raise DatabaseUnavailable from error
    except DBAPIError as error:
        if (
            error.connection_invalidated
            or _sqlstate(error)[:2] in _SQLSTATES_OF_ABSENCE
            or _sqlite_code(error) & 0xFF in _SQLITE_CODES_OF_ABSENCE
        ):
            raise DatabaseUnavailable from error
        raise


def _passes_on_retry(error: DBAPIError) -> bool:
    code = _sqlite_code(error)
    return (
        _sqlstate(error) in _SQLSTATES_TO_RETRY
        or code in _SQLITE_CODES_TO_RETRY
        or code & 0xFF == sqlite3.SQLITE_BUSY
    )


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _sqlite_code(error: DBAPIError) -> int:
    """The extended result code; 0 where the error is not SQLite's."""
    return int(getattr(error.orig, "sqlite_errorcode", 0))


async def _open_sqlite(*arguments: Any, **options: Any) -> aiosqlite.Connection:
    """Where a file cannot be opened, the thread that tried still needs the loop: it is waited for."""
    connection = aiosqlite.connect(*arguments, **options)
    connection._thread.daemon = True
    try:
        return await connection
    except sqlite3.Error:
        await asyncio.to_thread(connection._thread.join)
        raise


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "recursive_triggers=ON",  # else REPLACE deletes rows past the triggers that refuse it
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    # SQLite's own lower() knows ASCII alone; searches must find "Ä" by "ä" as on PostgreSQL.
    connection.create_function("lower", 1, _lower, deterministic=True)
    # The database's clock under PostgreSQL's name; SQLite's own stops at milliseconds.
    connection.create_function("statement_timestamp", 0, _clock)
    connection.create_function("width_bucket", 2, _width_bucket, deterministic=True)


def _begin_immediate(connection: Connection) -> None:
    """Takes the write lock first: a deferred transaction that upgrades is BUSY despite any timeout."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _clock() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"


def _width_bucket(operand: str, thresholds: str) -> int:
    """PostgreSQL's search in an array, here of lines: the place from 1 of the last one not above."""
    return bisect_right(_lines(thresholds), operand)


@lru_cache(maxsize=16)
def _lines(text: str) -> Sequence[str]:
    return text.split("\n")


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()
