"""The engines underneath a Database: the pools of its connections, and how these are opened."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, NullPool, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app import postgresql, sqlite

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


@dataclass(frozen=True, slots=True)
class Engines:
    """Of one database; on PostgreSQL who reads and who writes share a pool."""

    writer: AsyncEngine
    reader: AsyncEngine
    """Each statement sees what was committed before it began."""
    prober: AsyncEngine
    """Opens a connection for each question."""
    listener: AsyncEngine
    """As the prober, for a session that lasts."""


def parse_address(url: str) -> URL:
    """The address of a database with the driver that is used for it."""
    address = make_url(url)
    return address.set(drivername=_DRIVERS.get(address.drivername, address.drivername))


def of_sqlite(address: URL, pool_size: int, busy: float) -> Engines:
    """`busy` is for how many seconds an attempt waits for the write lock, which another process has."""
    options: dict[str, Any] = {
        "connect_args": {"timeout": busy, "async_creator_fn": sqlite.open_connection},
        "hide_parameters": True,
    }
    # One writer a process: the others queue in memory and not in SQLite's unfair busy loop.
    writer = create_async_engine(address, pool_size=1, max_overflow=0, **options)
    options["isolation_level"] = "AUTOCOMMIT"
    reader = create_async_engine(address, pool_size=pool_size, max_overflow=0, **options)
    prober = create_async_engine(address, poolclass=NullPool, **options)
    for engine in (writer, reader, prober):
        event.listen(engine.sync_engine, "connect", sqlite.prepare)
    event.listen(writer.sync_engine, "begin", sqlite.begin_immediate)
    return Engines(writer, reader, prober, prober)


def of_postgresql(
    address: URL, direct: URL | None, pool_size: int, timeouts: postgresql.Timeouts
) -> Engines:
    """With `direct` the address leads through PgBouncer in transaction mode, and this one past it."""
    pooled = direct is not None
    options: dict[str, Any] = {
        "connect_args": postgresql.connect_args(timeouts, pooled=pooled),
        "hide_parameters": True,
    }
    writer = create_async_engine(
        address,
        pool_size=pool_size,
        max_overflow=0,  # what is opened beyond a size is closed after each use
        pool_use_lifo=True,
        isolation_level="READ COMMITTED",
        **options,
    )
    event.listen(writer.sync_engine, "checkin", postgresql.note_use)
    event.listen(writer.sync_engine, "checkout", postgresql.try_idle)
    reader = writer
    if not pooled:  # there a transaction is what has timeouts
        reader = writer.execution_options(isolation_level="AUTOCOMMIT")
    options |= {"poolclass": NullPool, "isolation_level": "AUTOCOMMIT"}
    prober = create_async_engine(address, **options)
    options["connect_args"] = postgresql.connect_args(timeouts, pooled=False)
    return Engines(writer, reader, prober, create_async_engine(direct or address, **options))
