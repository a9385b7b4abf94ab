"""Keyset pages: rows in one order, cursors bound to the list they come from, nothing skipped or repeated."""

import base64
import hashlib
from asyncio import Task, create_task
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar

import orjson
from sqlalchemy import Column, ColumnElement, Select, func, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.errors import BadInput
from app.billing.money import MAX_BALANCE, format_decimal, parse_decimal
from app.billing.types import ID_LENGTH, Identifier, Instant, Key, Nano
from app.database import Database

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
    size = arguments.size
    backwards = arguments.last is not None
    page = query
    for name, cursor, later in (
        ("after", arguments.after, True),
        ("before", arguments.before, False),
    ):
        if cursor is not None:
            place = tuple_(
                *(
                    literal(value, column.type)
                    for column, value in zip(
                        keyset.columns, keyset.values(name, cursor), strict=True
                    )
                )
            )
            key = tuple_(*keyset.columns)
            page = page.where(key < place if later == keyset.descending else key > place)
    order = [
        column.desc() if keyset.descending != backwards else column.asc()
        for column in keyset.columns
    ]
    rows = (await connection.execute(page.order_by(*order).limit(size + 1))).all()
    nodes = rows[:size]
    more = len(rows) > size
    return Page(
        nodes=nodes[::-1] if backwards else nodes,
        has_next_page=arguments.before is not None or (more and not backwards),
        has_previous_page=arguments.after is not None or (more and backwards),
        cursor=keyset.cursor,
        count=lambda: count_rows(database, query),
    )


async def count_rows(database: Database, query: Select[Any]) -> int:
    """How many rows a query has, in a statement of its own."""
    async with database.read() as connection:
        counted = select(func.count()).select_from(query.order_by(None).subquery())
        return (await connection.execute(counted)).scalar_one()


def check_wanted(value: str | None, name: str, most: int = ID_LENGTH) -> None:
    """Refuses a filter by text that no row can hold; an id that names nothing just finds nothing."""
    check_argument(value, f"filter.{name}", most)


def check_argument(value: str | None, name: str, most: int) -> None:
    """As check_wanted, for text that is an argument of its own."""
    if value is not None and (not 1 <= len(value) <= most or "\0" in value):
        raise BadInput(f"{name} must be 1 to {most} characters without NUL.")


def contains(search: str, *columns: Column[Any]) -> ColumnElement[bool]:
    """Whether one of the columns contains the literal text, whatever its case."""
    check_argument(search, "search", 200)
    text = search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    pattern = func.lower(f"%{text}%")  # the database's own idea of case, on both sides
    return or_(*(func.lower(column).like(pattern, escape="\\") for column in columns))


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
