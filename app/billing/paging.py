"""Keyset pages: rows in one order, cursors bound to the list they come from, nothing skipped or repeated."""

import base64
import hashlib
from asyncio import Task, create_task
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import orjson
from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    Select,
    bindparam,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.errors import BadInput
from app.billing.money import MAX_BALANCE, format_decimal, parse_decimal
from app.billing.types import ID_LENGTH, Identifier, Instant, Key, Nano
from app.database import Database
from app.statements import Statement

T = TypeVar("T")

DEFAULT_PAGE = 50
MAX_PAGE = 500


@dataclass(frozen=True, slots=True)
class PageArguments:
    """`first` rows after a cursor or `last` rows before one; 50 when neither is given."""

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None

    @property
    def size(self) -> int:
        """Rows asked for; BadInput unless 1 to 500 of one kind."""
        if self.first is not None and self.last is not None:
            raise BadInput("first and last cannot be given together: leave one out.")
        name, size = ("last", self.last) if self.last is not None else ("first", self.first)
        if size is not None and not 1 <= size <= MAX_PAGE:
            raise BadInput(f"{name} must be from 1 to {MAX_PAGE}.")
        return DEFAULT_PAGE if size is None else size


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in the list's order; the cursors and the count are made only when asked for."""

    nodes: Sequence[Any]
    has_next_page: bool
    has_previous_page: bool
    cursor: Callable[[Any], str]
    count: Callable[[], Awaitable[int]]
    """How many rows match in all, not on this page."""
    totals: Any = None
    """An async function: sums over all that match, where the list has them."""
    users: Mapping[str, Any] = field(default_factory=dict)
    """Of the rows, by id, where they were read together."""


@dataclass(frozen=True)
class Keyset:
    """An order without ties: its last column is unique within the list.

    `binding` is whatever makes two lists different (name, mandate, filter); cursors carry its hash.
    """

    columns: Sequence[Column[Any]]
    descending: bool
    binding: Sequence[object]

    def cursor(self, row: Any) -> str:
        values = [_encode(getattr(row, column.key)) for column in self.columns]
        return base64.urlsafe_b64encode(orjson.dumps([self._hash, *values])).decode()

    def values(self, name: str, cursor: str) -> list[Any]:
        """The row's place that a cursor names; BadInput where it is not one of this list's."""
        try:
            bound_to, *texts = orjson.loads(base64.b64decode(cursor, b"-_", validate=True))
            if bound_to != self._hash:
                raise ValueError("of another list")
            return [_decode(column, text) for column, text in zip(self.columns, texts, strict=True)]
        except (ValueError, TypeError, OverflowError):
            raise BadInput(
                f"{name} is not a cursor of this list: take one that the same query, with the"
                " same filter and order, returned."
            ) from None

    @cached_property
    def _hash(self) -> str:
        order = [column.name for column in self.columns]
        text = repr((order, self.descending, *self.binding))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def once(read: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], Awaitable[T]]:
    """Reads when first asked; those who ask again, or meanwhile, get the same answer."""
    task: Task[T] | None = None

    def ask() -> Task[T]:
        nonlocal task
        task = task or create_task(read())
        return task

    return ask


async def fetch_page(
    database: Database,
    connection: AsyncConnection,
    query: Select[Any],
    keyset: Keyset,
    arguments: PageArguments,
) -> Page:
    """One page of `query` (which must select the keyset's columns), by one SELECT."""
    shape, values = _shape(keyset, arguments)
    rows = (await connection.execute(_page_of(query, *shape), values)).all()
    return _page(rows, keyset, arguments, lambda: count_rows(database, query))


async def fetch_listed(
    database: Database,
    query: Select[Any],
    values: Mapping[str, Any],
    keyset: Keyset,
    arguments: PageArguments,
) -> Page:
    """As fetch_page, of a `query` that is built once and whose values have names."""
    shape, place = _shape(keyset, arguments)
    rows = await _listed(query, *shape).rows(database.reader, **values, **place)
    return _page(rows, keyset, arguments, lambda: count_rows(database, query, values))


def _shape(keyset: Keyset, arguments: PageArguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What decides how the SELECT of a page reads, and the values in it."""
    values: dict[str, Any] = {"rows": arguments.size + 1}
    cursors = {"after": arguments.after, "before": arguments.before}
    given = [name for name, cursor in cursors.items() if cursor is not None]
    for name in given:
        place = keyset.values(name, cursors[name] or "")
        values |= {f"{name}_{number}": value for number, value in enumerate(place)}
    is_backwards = arguments.last is not None
    return (tuple(keyset.columns), keyset.descending, is_backwards, *given), values


def _page_of(
    query: Select[Any],
    columns: Sequence[Column[Any]],
    descending: bool,
    is_backwards: bool,
    *given: str,
) -> Select[Any]:
    key = tuple_(*columns)
    for name in given:
        parameters = (
            bindparam(f"{name}_{number}", type_=column.type)
            for number, column in enumerate(columns)
        )
        place = tuple_(*parameters)
        query = query.where(key < place if (name == "after") == descending else key > place)
    order = [column.desc() if descending != is_backwards else column.asc() for column in columns]
    return query.order_by(*order).limit(bindparam("rows", type_=Integer))


@lru_cache(256)
def _listed(query: Select[Any], *shape: Any) -> Statement:
    return Statement(_page_of(query, *shape))


def _page(
    rows: Sequence[Any],
    keyset: Keyset,
    arguments: PageArguments,
    count: Callable[[], Awaitable[int]],
) -> Page:
    is_backwards = arguments.last is not None
    nodes = rows[: arguments.size]
    more = len(rows) > len(nodes)
    return Page(
        nodes=nodes[::-1] if is_backwards else nodes,
        has_next_page=arguments.before is not None or (more and not is_backwards),
        has_previous_page=arguments.after is not None or (more and is_backwards),
        cursor=keyset.cursor,
        count=count,
    )


async def count_rows(
    database: Database, query: Select[Any], values: Mapping[str, Any] | None = None
) -> int:
    """How many rows a query has, in a statement of its own."""
    counted = select(func.count()).select_from(query.order_by(None).subquery())

    async def count(connection: AsyncConnection) -> int:
        return (await connection.execute(counted, values)).scalar_one()

    return await database.reader.consult(count)


def check_wanted(value: str | None, name: str, most: int = ID_LENGTH) -> None:
    """Refuses a filter by text that no row can hold; an id that names nothing just finds nothing."""
    check_argument(value, f"filter.{name}", most)


def check_argument(value: str | None, name: str, most: int) -> None:
    """As check_wanted, for text that is an argument of its own."""
    if value is not None and (not 1 <= len(value) <= most or "\0" in value):
        raise BadInput(f"{name} must be 1 to {most} characters without NUL.")


def pattern_of(search: str) -> str:
    """What `contains` finds this literal text by."""
    check_argument(search, "search", 200)
    text = search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{text}%"


def contains(pattern: Any, *columns: Column[Any]) -> ColumnElement[bool]:
    """Whether one of the columns contains what the pattern is of, whatever its case."""
    lower = func.lower(pattern)  # the database's own idea of case, on both sides
    return or_(*(func.lower(column).like(lower, escape="\\") for column in columns))


def _encode(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str) else format_decimal(value)


def _decode(column: Column[Any], text: str) -> Any:
    """A value that a row of this column may have; ValueError or TypeError for any other."""
    if isinstance(column.type, Instant):
        instant = datetime.fromisoformat(text)
        if instant.utcoffset() != timedelta(0):
            raise ValueError("not UTC")
        return instant
    if isinstance(column.type, Nano):
        amount = parse_decimal(text)
        if abs(amount) > MAX_BALANCE:
            raise ValueError("out of range")
        return amount
    if isinstance(column.type, Identifier | Key) and column.type.can_be(text):
        return text
    raise ValueError("no id")
