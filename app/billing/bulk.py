"""Many rows by one statement whose text is always the same: PostgreSQL gets one array for each column.

SQLite, which is no server to go to and fro, gets the rows one after the other.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    Table,
    TableValuedAlias,
    bindparam,
    column,
    func,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.statements import Statement

Row = Mapping[str, Any]


async def insert_rows(connection: AsyncConnection, table: Table, rows: Sequence[Row]) -> None:
    """Inserts rows of a table, each with all of its columns."""
    if rows:
        names = tuple(table.c.keys())
        await _execute(connection, _insertion(table, connection.dialect.name), names, rows)


async def add_rows(
    connection: AsyncConnection, table: Table, sums: tuple[str, ...], rows: Sequence[Row]
) -> None:
    """Inserts rows, or adds their `sums` to what stands under their primary keys."""
    if rows:
        names = (*(part.name for part in table.primary_key), *sums)
        # In one order, so that two units never wait for each other.
        rows = sorted(rows, key=lambda row: [row[name] for name in names])
        await _execute(connection, _addition(table, sums, connection.dialect.name), names, rows)


async def update_rows(
    connection: AsyncConnection,
    table: Table,
    mandate_id: str,
    names: tuple[str, ...],
    rows: Sequence[Row],
) -> None:
    """Sets these columns of a mandate's rows, which are found by their ids."""
    if rows:
        statement = _change(table, names, connection.dialect.name)
        await _execute(connection, statement, ("id", *names), rows, this_mandate_id=mandate_id)


async def _execute(
    connection: AsyncConnection,
    statement: Statement,
    names: Sequence[str],
    rows: Sequence[Row],
    **common: Any,
) -> None:
    if connection.dialect.name == "sqlite":
        each = [{_given(name): row[name] for name in names} | common for row in rows]
        await connection.execute(statement.query, each)
    else:
        arrays = {_given(name): [row[name] for row in rows] for name in names}
        await statement.rows(connection, **arrays, **common)


def _given(name: str) -> str:
    """The parameter for a column: under its own name SQLAlchemy would take it for the column's value."""
    return f"given_{name}"


def _values(table: Table, names: Sequence[str]) -> dict[str, Any]:
    return {name: bindparam(_given(name), type_=table.c[name].type) for name in names}


def _arrays(table: Table, names: Sequence[str]) -> TableValuedAlias:
    """The rows as a table that PostgreSQL makes of the columns' arrays."""
    types = {name: table.c[name].type for name in names}
    arrays = (bindparam(_given(name), type_=postgresql.ARRAY(kind)) for name, kind in types.items())
    columns = (column(name, kind) for name, kind in types.items())
    return func.unnest(*arrays).table_valued(*columns, name="given").render_derived()


def _insert_into(table: Table, names: Sequence[str], dialect: str) -> Any:
    if dialect == "sqlite":
        return sqlite.insert(table).values(_values(table, names))
    return postgresql.insert(table).from_select(names, _arrays(table, names).select())


@cache
def _insertion(table: Table, dialect: str) -> Statement:
    return Statement(_insert_into(table, tuple(table.c.keys()), dialect))


@cache
def _addition(table: Table, sums: tuple[str, ...], dialect: str) -> Statement:
    keys = [part.name for part in table.primary_key]
    upsert = _insert_into(table, (*keys, *sums), dialect)
    added = {name: table.c[name] + upsert.excluded[name] for name in sums}
    return Statement(upsert.on_conflict_do_update(index_elements=keys, set_=added))


@cache
def _change(table: Table, names: tuple[str, ...], dialect: str) -> Statement:
    if dialect == "sqlite":
        given: Any = _values(table, ("id", *names))
    else:
        given = _arrays(table, ("id", *names)).c
    mandate_id = bindparam("this_mandate_id", type_=table.c.mandate_id.type)
    return Statement(
        update(table)
        .where(table.c.mandate_id == mandate_id, table.c.id == given["id"])
        .values({name: given[name] for name in names})
    )
