"""Spreads a database over the nodes of a Citus cluster: the directory stands on each, a mandate on one.

Stopped half-way, it goes on where it stands when it is called again: it looks at what is there.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, ForeignKeyConstraint, MetaData, Table, event, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import AddConstraint
from sqlmodel import SQLModel

from app.billing.models import mandates, memberships, users
from app.database import Database

DIRECTORY = (mandates, users, memberships)
"""Read with the rows of every mandate, seldom changed: reference tables."""


class CannotDistribute(Exception):
    """The database is no coordinator of a Citus cluster; the message says what to do."""


def is_distributed(table: Table) -> bool:
    """Whether a table's rows belong to mandates, and stand where their mandate does.

    What is neither that nor of the directory stays on the coordinator.
    """
    return "mandate_id" in table.c and table.name not in {part.name for part in DIRECTORY}


def distributed_tables(metadata: MetaData = SQLModel.metadata) -> list[Table]:
    """These tables, what is referred to before what refers to it."""
    return [table for table in metadata.sorted_tables if is_distributed(table)]


async def distribute(database: Database) -> AsyncGenerator[tuple[str, bool]]:
    """Distributes what is not distributed yet, where check_coordinator is content.

    Yields each table's name as its turn comes, and again, with True, when it is done.
    """
    for table in (*DIRECTORY, *distributed_tables()):
        yield table.name, False
        await _run(database, _refer if table in DIRECTORY else _distribute, table)
        yield table.name, True
    for work in (_drop_local_rows, _link, _set_up):
        await _run(database, work)


async def _run(database: Database, work: Callable[..., None], *arguments: Any) -> None:
    """In a transaction of its own."""

    async def unit(connection: AsyncConnection) -> None:
        await connection.run_sync(work, *arguments)

    await database.write(unit)


async def check_coordinator(database: Database) -> None:
    """CannotDistribute unless it is the coordinator of a Citus cluster."""
    if database.is_sqlite:
        raise CannotDistribute(
            "SQLite cannot be distributed: set BILLING_DATABASE_URL to the coordinator of a Citus"
            " cluster."
        )
    async with database.read() as connection:
        if not await connection.scalar(text("SELECT 1 FROM pg_extension WHERE extname = 'citus'")):
            raise CannotDistribute(
                "The database has no Citus extension: install Citus on each node of the cluster,"
                " set shared_preload_libraries = 'citus' and restart it, run CREATE EXTENSION citus"
                " in this database on each, and here SELECT citus_add_node(host, port) for each"
                " worker."
            )
        if not await connection.scalar(text("SELECT citus_is_coordinator()")):
            raise CannotDistribute(
                "This node is no coordinator: set BILLING_DATABASE_URL to the coordinator of the"
                " Citus cluster."
            )


@contextmanager
def keeping_layout(connection: Connection) -> Iterator[None]:
    """What creates or changes tables meanwhile keeps the layout of a distributed database."""
    if connection.dialect.name != "postgresql" or "distributed" not in _kinds(connection).values():
        yield
        return
    _allow_triggers(connection)
    # What refers to the directory is changed in turn: Citus refuses to do it at once.
    connection.exec_driver_sql("SET LOCAL citus.multi_shard_modify_mode = sequential")
    event.listen(Table, "before_create", _separate)
    event.listen(Table, "after_create", _follow)
    try:
        yield
    finally:
        event.remove(Table, "before_create", _separate)
        event.remove(Table, "after_create", _follow)


def _separate(table: Table, _: Connection, **__: Any) -> None:
    for key in _keys_among_distributed(table):
        AddConstraint(key)  # then it is no part of CREATE TABLE, where Citus would refuse it


def _follow(table: Table, connection: Connection, **_: Any) -> None:
    if is_distributed(table):
        _place(connection, table)
    for key in _keys_among_distributed(table):
        connection.execute(AddConstraint(key))


def _keys_among_distributed(table: Table) -> list[ForeignKeyConstraint]:
    names = {part.name for part in DIRECTORY}
    return [
        key
        for key in table.foreign_key_constraints
        if is_distributed(table) and key.elements[0].target_fullname.split(".")[0] not in names
    ]


def _refer(connection: Connection, table: Table) -> None:
    if _kinds(connection).get(table.name) != "reference":
        connection.execute(text("SELECT create_reference_table(:name)"), {"name": _quoted(table)})


def _distribute(connection: Connection, table: Table) -> None:
    """By mandate_id, without the foreign keys to and from others of its kind, which come back last."""
    if _kinds(connection).get(table.name) == "distributed":
        return
    names = {other.name for other in distributed_tables()}
    for name, key in _foreign_keys(connection):
        if table.name in {name, key["referred_table"]} and {name, key["referred_table"]} <= names:
            connection.exec_driver_sql(f'ALTER TABLE "{name}" DROP CONSTRAINT "{key["name"]}"')
    _place(connection, table)


def _place(connection: Connection, table: Table) -> None:
    _allow_triggers(connection)
    others = (name for name, kind in _kinds(connection).items() if kind == "distributed")
    connection.execute(
        text("SELECT create_distributed_table(:name, 'mandate_id', colocate_with => :other)"),
        {"name": _quoted(table), "other": next((f'"{name}"' for name in others), "default")},
    )


def _drop_local_rows(connection: Connection) -> None:
    """Removes from the coordinator the rows that have been copied to where they belong."""
    names = (
        connection.exec_driver_sql(
            "SELECT relname FROM pg_dist_partition JOIN pg_class ON pg_class.oid = logicalrelid"
            " WHERE pg_relation_size(logicalrelid) > 0"
        )
        .scalars()
        .all()
    )
    if not names:
        return
    tables = [f'"{table.name}"' for table in distributed_tables()]
    _allow_triggers(connection)
    for table in tables:  # those of the ledger refuse to empty it
        connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    for name in names:
        connection.execute(
            text("SELECT truncate_local_data_after_distributing_table(:name)"),
            {"name": f'"{name}"'},
        )
    for table in tables:
        connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE TRIGGER USER")


def _link(connection: Connection) -> None:
    """Adds the foreign keys of the model that are missing."""
    present = {(name, tuple(key["constrained_columns"])) for name, key in _foreign_keys(connection)}
    for table in distributed_tables():
        for key in table.foreign_key_constraints:
            if (table.name, tuple(key.column_keys)) not in present:
                connection.execute(AddConstraint(key, isolate_from_table=False))


def _set_up(connection: Connection) -> None:
    """Settings of the database that new sessions have."""
    name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
    for setting in (
        # To hide shards in the catalogs, Citus looks at each row of pg_class that is read: then it takes
        # seconds, for each new connection, in which the driver learns the types of arrays.
        "citus.override_table_visibility = off",
        # A transaction's SET LOCAL holds on the workers, too: there are the locks that it waits for.
        "citus.propagate_set_commands = local",
    ):
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET {setting}')


def _allow_triggers(connection: Connection) -> None:
    """Those that keep the ledger append-only look at nothing but the row: they are safe on any node."""
    connection.exec_driver_sql("SET LOCAL citus.enable_unsafe_triggers = on")


def _kinds(connection: Connection) -> dict[str, str]:
    """By the names of Citus's tables: reference, distributed, or local.

    Not from its view citus_tables, which measures each table by another connection: that waits for
    the locks of this one.
    """
    if not connection.scalar(text("SELECT 1 FROM pg_extension WHERE extname = 'citus'")):
        return {}
    rows = connection.exec_driver_sql(
        "SELECT relname, CASE WHEN partmethod = 'h' THEN 'distributed'"
        " WHEN repmodel = 't' THEN 'reference' ELSE 'local' END AS kind"
        " FROM pg_dist_partition JOIN pg_class ON pg_class.oid = logicalrelid"
    )
    return {row.relname: row.kind for row in rows}


def _foreign_keys(connection: Connection) -> list[tuple[str, Any]]:
    found = inspect(connection).get_multi_foreign_keys()
    return [(name, key) for (_, name), keys in found.items() for key in keys]


def _quoted(table: Table) -> str:
    return f'"{table.name}"'
