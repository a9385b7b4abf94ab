"""The column types of the database: money, instants and ids, the same on SQLite and PostgreSQL."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import SystemRandom
from typing import Any

import orjson
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Numeric,
    String,
    TypeDecorator,
    Uuid,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from app.billing.money import from_nano, to_nano

ID_LENGTH = 128
"""Characters of an id or a name from outside. Five of them in UTF-8 fit one index row of PostgreSQL."""


class Nano(TypeDecorator[Decimal]):
    """A Decimal kept as integer nano units (10^-9), which both databases add exactly."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else to_nano(value)

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], Decimal | None] | None:
        """A plain function: of a page's values, most are amounts."""
        return _read_nano_or_halves if dialect.name == "sqlite" else _read_nano


def _read_nano(value: Any) -> Decimal | None:
    return None if value is None else from_nano(value)


def _read_nano_or_halves(value: Any) -> Decimal | None:
    if isinstance(value, str):  # exact_sum on SQLite: the sums of both halves
        whole, rest = value.split(":")
        value = int(whole) * 10**9 + int(rest)
    return _read_nano(value)


class NanoSum(Nano):
    """As Nano, of many accounts: PostgreSQL keeps any size. On SQLite it must be seen to stay an integer."""

    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return BigInteger() if dialect.name == "sqlite" else Numeric(38, 0)


class exact_sum(FunctionElement[Decimal]):
    """SUM over a Nano column that neither overflows nor rounds; 0 over no rows.

    PostgreSQL adds BIGINT as numeric. SQLite's SUM raises beyond 64 bits, so there the whole
    units and the rest are added apart and Nano joins them.
    """

    type = Nano()
    inherit_cache = True
    name = "exact_sum"


@compiles(exact_sum)
def _sum_as_numeric(element: exact_sum, compiler: SQLCompiler, **options: Any) -> str:
    return f"coalesce(sum({compiler.process(element.clauses, **options)}), 0)"


@compiles(exact_sum, "sqlite")
def _sum_by_halves(element: exact_sum, compiler: SQLCompiler, **options: Any) -> str:
    return _by_halves("sum({})", compiler.process(element.clauses, **options))


def _by_halves(total: str, nano: str) -> str:
    """Both halves as Nano reads them, each added as `total` says."""
    whole, rest = (total.format(f"({nano}) {half} 1000000000") for half in "/%")
    return f"(coalesce({whole}, 0) || ':' || coalesce({rest}, 0))"


class exact_total(exact_sum):
    """The exact_sum of all groups together, in each row of a grouped query."""

    inherit_cache = True
    name = "exact_total"


@compiles(exact_total)
def _total_as_numeric(element: exact_total, compiler: SQLCompiler, **options: Any) -> str:
    return f"coalesce(sum(sum({compiler.process(element.clauses, **options)})) over (), 0)"


@compiles(exact_total, "sqlite")
def _total_by_halves(element: exact_total, compiler: SQLCompiler, **options: Any) -> str:
    return _by_halves("sum(sum({})) over ()", compiler.process(element.clauses, **options))


class sum_order(FunctionElement[Any]):
    """What orders groups by their exact_sum: SQLite's is no number."""

    inherit_cache = True
    name = "sum_order"


@compiles(sum_order)
def _order_by_sum(element: sum_order, compiler: SQLCompiler, **options: Any) -> str:
    return f"sum({compiler.process(element.clauses, **options)})"


@compiles(sum_order, "sqlite")
def _order_by_halves(element: sum_order, compiler: SQLCompiler, **options: Any) -> str:
    """As text of one length, above 0, with the rest brought between 0 and 10^9."""
    nano = compiler.process(element.clauses, **options)
    rest = f"sum(({nano}) % 1000000000)"
    positive = f"(({rest} % 1000000000 + 1000000000) % 1000000000)"
    whole = f"sum(({nano}) / 1000000000) + ({rest} - {positive}) / 1000000000"
    return f"printf('%019d%09d', 4000000000000000000 + {whole}, {positive})"


class unindexed(FunctionElement[Any]):
    """A column to compare row by row, where SQLite, which has no statistics, would take its index."""

    inherit_cache = True


@compiles(unindexed)
def _as_it_is(element: unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(unindexed, "sqlite")
def _plus(element: unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


class Instant(TypeDecorator[datetime]):
    """A point in time with microseconds. Aware UTC in Python; SQLite keeps it as naive UTC text."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], datetime | None] | None:
        """PostgreSQL's driver gives UTC already; only SQLite's text needs the zone put back."""
        if dialect.name != "sqlite":
            return None
        parse = self.impl_instance.result_processor(dialect, coltype) or (lambda value: value)

        def aware(value: Any) -> datetime | None:
            naive = parse(value)
            return None if naive is None else naive.replace(tzinfo=UTC)

        return aware


class _List(TypeDecorator[Sequence[Any]]):
    """Values of one type in one parameter: an array, and on SQLite a text."""

    impl = String
    cache_ok = True
    joined: Callable[[list[Any]], str]
    """The values as SQLite's functions read them."""

    def __init__(self, kind: TypeEngine[Any]) -> None:
        super().__init__()
        self.kind = kind

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return String() if dialect.name == "sqlite" else dialect.type_descriptor(ARRAY(self.kind))

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        write = self.kind.dialect_impl(dialect).bind_processor(dialect)
        return self.joined(list(map(write, value)) if write else list(value))


class Thresholds(_List):
    """Sorted values for `width_bucket`, which reads lines on SQLite."""

    cache_ok = True

    joined = staticmethod("\n".join)


class Choice(_List):
    """The values of `is_among`, which SQLite reads as JSON."""

    cache_ok = True

    joined = staticmethod(lambda values: orjson.dumps(values).decode())


class is_among(FunctionElement[bool]):
    """Whether a column has one of the values that are given by a name: one statement for any number."""

    type = Boolean()
    inherit_cache = True
    name = "is_among"

    def __init__(self, column: Column[Any], values: str) -> None:
        super().__init__(column, bindparam(values, type_=Choice(column.type)))
        self.is_nullable = column.nullable
        """Then the index may be of those rows alone that have a value: it must be seen to serve."""


@compiles(is_among)
def _any(element: is_among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return _of_values(element, column, f"{column} = ANY ({values})")


@compiles(is_among, "sqlite")
def _in_json(element: is_among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return _of_values(element, column, f"{column} IN (SELECT value FROM json_each({values}))")  # noqa: S608


def _of_values(element: is_among, column: str, condition: str) -> str:
    return f"({column} IS NOT NULL AND {condition})" if element.is_nullable else condition


NOW = select(func.statement_timestamp(type_=Instant())).scalar_subquery()
"""The database's clock as the statement begins."""


class Identifier(TypeDecorator[str]):
    """An id or name given by the platform. One that cannot exist is compared as NULL: it equals nothing."""

    most = ID_LENGTH
    impl = String(most)
    cache_ok = True

    def can_be(self, value: Any) -> bool:
        """Whether a row may hold this value."""
        return isinstance(value, str) and len(value) <= self.most and "\0" not in value

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value if self.can_be(value) else None


class IdempotencyKey(Identifier):
    """As Identifier, of up to 255 characters."""

    most = 255
    impl = String(most)
    cache_ok = True


class Key(TypeDecorator[str]):
    """A UUID of our own, a string in Python. Text that is none of ours is compared as NULL: it equals nothing."""

    impl = Uuid(as_uuid=False)
    cache_ok = True

    def can_be(self, value: Any) -> bool:
        """Whether a row may hold this value."""
        return isinstance(value, str) and _KEY.fullmatch(value) is not None

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value if self.can_be(value) else None


Document = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""A small JSON value; None is SQL NULL."""


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEY = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RANDOM_BITS = 62
_random = SystemRandom().getrandbits


def new_key(at: datetime) -> str:
    """A UUIDv7 (RFC 9562, method 3) whose order is that of `at` to the microsecond.

    The libraries' generators take milliseconds and a counter of one process; the ledger needs the
    order of ids to be the order of `created_at`, whichever process wrote the row.
    """
    return _key(at, _random(_RANDOM_BITS))


def first_key(at: datetime) -> str:
    """The smallest key of an instant: rows written from then on have it or a greater one."""
    return _key(at, 0)


def last_key(at: datetime) -> str:
    """The greatest key of an instant: rows written up to then have it or a smaller one."""
    return _key(at, 2**_RANDOM_BITS - 1)


def _key(at: datetime, low: int) -> str:
    since = max(at - EPOCH, timedelta(0))  # nothing was written before, and a key has no sign
    milliseconds, rest = divmod(since // timedelta(microseconds=1), 1000)
    fraction = rest * 4096 // 1000
    number = milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << _RANDOM_BITS | low
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
