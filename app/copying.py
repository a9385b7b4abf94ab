"""Every row of one database copied into another, be it of the same kind or not: the way from SQLite to PostgreSQL."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Row, Table, exists, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from app.billing import models  # noqa: F401  (fills the metadata)
from app.database import Database
from app.lease import leases

Advance = Callable[[int, int], None]
"""Is told how many rows of how many are copied."""

_ROWS = 5_000
"""Of one statement, and in memory at once."""
# Which database it is, however its address is written.
_SERVER_AND_DATABASE = text(
    "SELECT pg_postmaster_start_time(), oid FROM pg_database WHERE datname = current_database()"
)
_FILE = text("SELECT file FROM pragma_database_list WHERE name = 'main'")


class CopyFailed(Exception):
    """Nothing is copied; the message says why."""


def copied_tables() -> Sequence[Table]:
    """Each after those that it refers to; a lease means nothing elsewhere."""
    return [table for table in SQLModel.metadata.sorted_tables if table is not leases]


async def copy_database(source: Database, target: Database, advance: Advance) -> int:
    """Copies all rows and returns their number. Both databases must be at this program's revision.

    It reads one snapshot and writes one transaction: whatever breaks it off, CopyFailed among it,
    leaves the target as it was.
    """

    async def unit(written: AsyncConnection) -> int:
        async with source.snapshot() as read:
            await _check_pair(read, written)
            return await _copy(read, written, advance)

    return await target.write(unit)


async def _check_pair(read: AsyncConnection, written: AsyncConnection) -> None:
    if await _identity(read) == await _identity(written):
        raise CopyFailed("The old database and the new one are the same.")
    if written.dialect.name == "postgresql":  # SQLite has one writer anyway
        await written.exec_driver_sql(f"LOCK TABLE {_names(written)} IN EXCLUSIVE MODE")
    filled = [
        table.name
        for table in copied_tables()
        if await written.scalar(select(exists(select(1).select_from(table))))
    ]
    if filled:
        raise CopyFailed(
            f"The new database has rows already ({', '.join(filled)}): it must be an empty one."
        )


async def _identity(connection: AsyncConnection) -> Any:
    if connection.dialect.name == "postgresql":
        return (await connection.execute(_SERVER_AND_DATABASE)).one()
    return await connection.scalar(_FILE)


async def _copy(read: AsyncConnection, written: AsyncConnection, advance: Advance) -> int:
    sizes = {table: await _count(read, table) for table in copied_tables()}
    done, total = 0, sum(size["rows"] for size in sizes.values())
    for table, size in sizes.items():
        try:
            async with read.stream(select(table).execution_options(yield_per=_ROWS)) as rows:
                async for batch in rows.partitions():
                    await _insert(written, table, batch)
                    done += len(batch)
                    advance(done, total)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise CopyFailed(
                f"A row of {table.name} holds what it may not: {type(error).__name__}."
            ) from error
        for name, count in (await _count(written, table)).items():
            if count != size[name]:
                raise CopyFailed(
                    f"Of {size[name]:,} {name} of {table.name}, {count:,} have arrived."
                )
    if written.dialect.name == "postgresql":  # else the first plans would be those of empty tables
        await written.exec_driver_sql(f"ANALYZE {_names(written)}")
    return total


async def _insert(connection: AsyncConnection, table: Table, rows: Sequence[Row[Any]]) -> None:
    dialect = connection.dialect
    if dialect.name == "sqlite":
        await connection.execute(insert(table), [dict(row._mapping) for row in rows])
        return
    columns: list[Iterable[Any]] = list(zip(*rows, strict=True))
    for place, column in enumerate(table.c):
        if write := column.type.dialect_impl(dialect).bind_processor(dialect):
            columns[place] = map(write, columns[place])
    driver: Any = (await connection.get_raw_connection()).driver_connection
    try:
        await driver.copy_records_to_table(
            table.name, columns=table.c.keys(), records=zip(*columns, strict=True)
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CopyFailed(
            f"The new database refused a row of {table.name}: {error.args[0]}"
        ) from error


def _names(connection: AsyncConnection) -> str:
    quoted = connection.dialect.identifier_preparer.format_table
    return ", ".join(map(quoted, copied_tables()))


async def _count(connection: AsyncConnection, table: Table) -> Mapping[str, int]:
    """How many rows there are, and values of each column: what it may not hold is written as NULL."""
    values = (func.count(column).label(f"values of {column.name}") for column in table.c)
    query = select(func.count().label("rows"), *values).select_from(table)
    return dict((await connection.execute(query)).mappings().one())
