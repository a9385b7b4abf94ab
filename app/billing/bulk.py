"""A mandate's rows by one statement whose text is always the same: PostgreSQL gets an array for each column.

SQLite, which is no server to go to and fro, gets the rows one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    Table,
    TableValuedAlias,
    bindparam,
    column,
    func,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.models import settings
from app.statements import Statement

Row = Mapping[str, Any]


async def insert_rows(
    connection: AsyncConnection, table: Table, mandate_id: str, rows: Sequence[Row]
) -> None:
    """Inserts rows of a mandate into a table, each with all of its columns."""
    if rows:
        statement = _insertion(table, connection.dialect.name)
        await _execute(connection, statement, _others(table.c), mandate_id, rows)


async def add_rows(
    connection: AsyncConnection,
    table: Table,
    mandate_id: str,
    sums: tuple[str, ...],
    rows: Sequence[Row],
) -> None:
    """Inserts rows of a mandate, or adds their `sums` to what stands under their primary keys."""
    if rows:
        names = (*_others(table.primary_key), *sums)
        # In one order, so that two units never wait for each other.
        rows = sorted(rows, key=lambda row: [row[name] for name in names])
        statement = _addition(table, sums, connection.dialect.name)
        await _execute(connection, statement, names, mandate_id, rows)


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
        await _execute(connection, statement, ("id", *names), mandate_id, rows)


async def _execute(
    connection: AsyncConnection,
    statement: Statement,
    names: Sequence[str],
    mandate_id: str,
    rows: Sequence[Row],
) -> None:
    common = {_given("mandate_id"): mandate_id}
    if connection.dialect.name == "sqlite":
        each = [{_given(name): row[name] for name in names} | common for row in rows]
        written = (await connection.execute(statement.query, each)).rowcount
    else:
        arrays = {_given(name): [row[name] for row in rows] for name in names}
        written = len(await statement.rows(connection, **arrays, **common))
    if written != len(rows):
        raise RuntimeError(f"{written} rows were written of {len(rows)}.")


def _others(columns: Iterable[Column[Any]]) -> list[str]:
    return [column.name for column in columns if column.name != "mandate_id"]


def _given(name: str) -> str:
    """The parameter for a column: under its own name SQLAlchemy would take it for the column's value."""
    return f"given_{name}"


def _value(table: Table, name: str) -> BindParameter[Any]:
    return bindparam(_given(name), type_=table.c[name].type)


def _arrays(table: Table, names: Sequence[str]) -> TableValuedAlias:
    """The rows as a table that PostgreSQL makes of the columns' arrays."""
    types = {name: table.c[name].type for name in names}
    arrays = (bindparam(_given(name), type_=postgresql.ARRAY(kind)) for name, kind in types.items())
    columns = (column(name, kind) for name, kind in types.items())
    return func.unnest(*arrays).table_valued(*columns, name="given").render_derived()


def _insert_into(table: Table, names: Sequence[str], dialect: str) -> Any:
    names = ("mandate_id", *names)
    if dialect == "sqlite":
        return sqlite.insert(table).values({name: _value(table, name) for name in names})
    # With a row of the mandate's own it goes to the mandate's shard. Rows made of arrays alone are
    # made on the coordinator of a cluster and copied, and what a copy violates is told without code.
    given = _arrays(table, names[1:])
    rows = (
        select(settings.c.mandate_id, *given.c)
        .join_from(settings, given, true())
        .where(settings.c.mandate_id == _value(table, "mandate_id"))
    )
    return postgresql.insert(table).from_select(names, rows).returning(table.c.mandate_id)


@cache
def _insertion(table: Table, dialect: str) -> Statement:
    return Statement(_insert_into(table, _others(table.c), dialect))


@cache
def _addition(table: Table, sums: tuple[str, ...], dialect: str) -> Statement:
    upsert = _insert_into(table, (*_others(table.primary_key), *sums), dialect)
    added = {name: table.c[name] + upsert.excluded[name] for name in sums}
    return Statement(upsert.on_conflict_do_update(index_elements=table.primary_key, set_=added))


@cache
def _change(table: Table, names: tuple[str, ...], dialect: str) -> Statement:
    if dialect == "sqlite":
        given: Any = {name: _value(table, name) for name in ("id", *names)}
    else:
        given = _arrays(table, ("id", *names)).c
    change = (
        update(table)
        .where(table.c.mandate_id == _value(table, "mandate_id"), table.c.id == given["id"])
        .values({name: given[name] for name in names})
    )
    return Statement(change if dialect == "sqlite" else change.returning(table.c.mandate_id))
