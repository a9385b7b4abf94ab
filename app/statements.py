"""Statements that are written once, compiled once, and go to the driver by the shortest way.

SQLAlchemy builds, keys and reads a small statement anew each time, which takes it longer than the
database takes to answer. A Statement leaves it the writing of the SQL, the types and the pool; the
driver keeps it prepared, and rows are read column by column into named tuples.

Whoever listens to SQLAlchemy's statements (traces, tests) sees these, too: then it runs them itself.
"""

from collections import namedtuple
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, cast

from sqlalchemy import BindParameter, Connection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import visitors


class Lender(Protocol):
    """What lends a statement a connection: a Database."""

    async def fetch(self, statement: "Statement", values: dict[str, Any]) -> Sequence[Any]: ...


Source = Lender | AsyncConnection
"""Where a statement is asked: on a connection of its own, or on this one."""


class Statement:
    """A SQLAlchemy query whose columns have names, and its values by `bindparam`; lists by `is_among`."""

    def __init__(self, query: Any) -> None:
        self.query = query
        self.varies = any(
            part.literal_execute and part.required
            for part in visitors.iterate(query)
            if isinstance(part, BindParameter)
        )
        """Whether a value is written into the SQL: then it cannot be compiled once."""
        self._compiled: dict[str, _Compiled] = {}

    async def rows(self, source: Source, **values: Any) -> Sequence[Any]:
        """The rows that it finds with these values."""
        if isinstance(source, AsyncConnection):
            return await self._rows_on(source, values)
        return await source.fetch(self, values)

    async def first(self, source: Source, **values: Any) -> Any:
        """The first row, or None."""
        rows = await self.rows(source, **values)
        return rows[0] if rows else None

    async def _rows_on(self, connection: AsyncConnection, values: dict[str, Any]) -> Sequence[Any]:
        sync = connection.sync_connection
        if sync is None or self.varies or is_watched(sync) or not _has_begun(sync):
            found = await connection.execute(self.query, values)
            return found.all() if found.returns_rows else []
        return await self.run(sync.connection, sync.dialect, values)

    async def run(self, connection: Any, dialect: Dialect, values: dict[str, Any]) -> Sequence[Any]:
        """The rows, by the driver of a connection of SQLAlchemy's pool; its errors are DBAPIErrors."""
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _Compiled(self.query, dialect)
        driver = connection.driver_connection
        try:
            if dialect.name == "sqlite":
                found = await driver.execute_fetchall(compiled.text, compiled.arguments(values))
            else:
                found = await driver.fetch(compiled.text, *compiled.arguments(values))
        except Exception as error:
            raise _translated(error, connection, dialect) from error
        return compiled.read(found)


class _Compiled:
    """A query in the words of one database."""

    def __init__(self, query: Any, dialect: Dialect) -> None:
        compiled = query.compile(dialect=dialect)
        self.text = str(compiled)
        self._arguments = [
            _argument(bind, bind.type.dialect_impl(dialect).bind_processor(dialect))
            for bind in map(compiled.binds.__getitem__, compiled.positiontup)
        ]
        columns = query.exported_columns
        self._make_row = _row_of(*(column.key for column in columns))
        kinds = (column.type.dialect_impl(dialect) for column in columns)
        processors = (kind.result_processor(dialect, None) for kind in kinds)
        self._readers = [(place, read) for place, read in enumerate(processors) if read]

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        return [argument(values) for argument in self._arguments]

    def read(self, records: Iterable[Sequence[Any]]) -> list[Any]:
        columns: list[Iterable[Any]] = list(zip(*records, strict=True))
        if not columns:
            return []
        for place, reader in self._readers:
            columns[place] = map(reader, columns[place])
        return list(map(self._make_row, zip(*columns, strict=True)))


def _row_of(*names: str) -> Callable[[Iterable[Any]], Any]:
    row = cast("Any", namedtuple)("Row", names)
    return cast("Callable[[Iterable[Any]], Any]", row._make)


def _argument(
    parameter: Any, write: Callable[[Any], Any] | None
) -> Callable[[dict[str, Any]], Any]:
    """What reads one argument for the driver: a value that is given each time, or one that never changes."""
    name, value = parameter.key, parameter.effective_value
    if not parameter.required:
        constant = write(value) if write else value
        return lambda _: constant
    if write is None:
        return lambda values: values[name]
    return lambda values: write(values[name])


def is_watched(source: Any) -> bool:
    """Whether anybody listens to the statements of an engine or a connection."""
    return bool(source.dispatch.before_cursor_execute)


def _has_begun(connection: Connection) -> bool:
    """SQLAlchemy begins PostgreSQL's transaction with its own first statement."""
    driver: Any = connection.connection.driver_connection
    return connection.dialect.name == "sqlite" or bool(driver.is_in_transaction())


def as_sqlalchemy(error: Exception, dialect: Dialect, connection: Any = None) -> BaseException:
    """What SQLAlchemy raises for an error of its driver, on a connection of its pool or on none."""
    base = dialect.loaded_dbapi.Error
    is_lost = isinstance(error, base) and dialect.is_disconnect(error, connection, None)
    return DBAPIError.instance(
        None, None, error, base, hide_parameters=True, connection_invalidated=is_lost
    )


def _translated(error: Exception, connection: Any, dialect: Dialect) -> BaseException:
    adapter = connection.dbapi_connection
    try:
        adapter._handle_exception(error)  # as for its own statements: there is no public way
    except Exception as translated:
        return as_sqlalchemy(translated, dialect, adapter)
    return error
