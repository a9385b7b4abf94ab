"""What a plan is made of: columns that are read, and how the values of a type are written."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain, islice
from operator import attrgetter
from types import GeneratorType, NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

from graphql import (
    GraphQLBoolean,
    GraphQLID,
    GraphQLInt,
    GraphQLLeafType,
    GraphQLObjectType,
    GraphQLString,
)
from graphql.execution.collect_fields import FieldDetails
from graphql.pyutils import Path, Undefined
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.schema.schema_converter import CustomGraphQLEnumType

from schema.keys import Key
from schema.scalars import SCALARS

if TYPE_CHECKING:
    from schema.planning.run import Run

Values = list[Any]
Rows = list[dict[str, Any]]
Details = list[FieldDetails]
Complete = Callable[["Run", Values], Values]


class Refused(Exception):
    """A value that no plan covers."""


def check(types: Iterable[type]) -> None:
    """Refuses what is not a value of its own."""
    for kind in types:
        if (
            issubclass(kind, Exception | GeneratorType)
            or hasattr(kind, "__await__")
            or kind is type(Undefined)
        ):
            raise Refused


class Column(NamedTuple):
    """What is read of each object and written as it is."""

    name: str
    read: Callable[[Any], Any]
    complete: Complete

    def fill(self, run: "Run", items: Values, rows: Rows) -> None:
        name, read, complete = self
        for row, value in zip(rows, complete(run, list(map(read, items))), strict=True):
            row[name] = value


class LoadedColumn(NamedTuple):
    """What is loaded by key."""

    name: str
    key: Key
    complete: Complete
    is_required: bool

    def fill(self, run: "Run", items: Values, rows: Rows) -> None:
        keys: Values = list(map(attrgetter(*self.key.attributes), items))
        if len(self.key.attributes) > 1:
            keys = [None if None in key else key for key in keys]
        distinct = dict.fromkeys(keys)
        is_partial = None in distinct
        if is_partial:
            if self.is_required:
                raise Refused
            del distinct[None]

        def found(values: Values) -> None:
            answers = dict(zip(distinct, self.complete(run, values), strict=True))
            if is_partial:
                answers[None] = None
            for row, key in zip(rows, keys, strict=True):
                row[self.name] = answers[key]

        run.load(self.key.loader, list(distinct), found)


class StockColumn(NamedTuple):
    """What the stock executor resolves and completes, for each row on its own."""

    name: str
    parent: GraphQLObjectType
    details: Details

    def fill(self, run: "Run", items: Values, rows: Rows) -> None:
        executor, parent, name = run.stock, self.parent, self.name
        for source, row, row_path in zip(items, rows, run.paths, strict=True):
            path = Path(row_path, name, parent.name)
            value = executor.execute_field(parent, source, self.details, path, None)
            row[name] = value
            if executor.is_awaitable(value):
                run.late.append((row, name))


class Plan(NamedTuple):
    """What is done for each object of a type of which the same is selected."""

    blank: dict[str, None]
    """The names of the answer, in order."""
    columns: Sequence[Column | LoadedColumn | StockColumn]
    """Those of the stock executor last: only they may leave something behind when a plan fails."""

    @property
    def is_mixed(self) -> bool:
        return isinstance(self.columns[-1], StockColumn)

    def rows(self, run: "Run", items: Values) -> Rows:
        rows: Rows = [self.blank.copy() for _ in items]
        for column in self.columns:
            column.fill(run, items, rows)
        return rows


@cache
def _exact(kind: GraphQLLeafType) -> tuple[set[type], Callable[[Any], Any] | None]:
    """Python types, and what writes their values: None where they are written as they are."""
    if isinstance(kind, CustomGraphQLEnumType):
        members: Any = kind.wrapped_cls
        names = {each: kind.coerce_output_value(each) for each in members}
        return {members, str} if issubclass(members, str) else {members}, names.__getitem__
    if kind in (GraphQLString, GraphQLID) or kind.coerce_output_value is str:
        return {str}, None
    if kind is GraphQLBoolean:
        return {bool}, None
    if kind is GraphQLInt:
        return {int}, kind.coerce_output_value  # it refuses what has more than 32 bits
    types = {each for each, scalar in SCALARS.items() if scalar.name == kind.name}
    return {each for each in types if isinstance(each, type)}, kind.coerce_output_value


@cache
def leaves(kind: GraphQLLeafType, is_required: bool) -> Complete:
    exact, write_one = _exact(kind)
    optional = exact if is_required else exact | {NoneType}
    stock = StrawberryGraphQLCoreExecutionContext.complete_leaf_value

    def complete(_: "Run", values: Values) -> Values:
        types = set(map(type, values))
        if types <= exact:
            return values if write_one is None else list(map(write_one, values))
        if types <= optional:
            if write_one is None:
                return values
            return [None if value is None else write_one(value) for value in values]
        check(types)
        if is_required and NoneType in types:
            raise Refused
        return [None if value is None else stock(kind, value) for value in values]

    return complete


def lists(complete_all: Complete, is_required: bool) -> Complete:
    def complete(run: "Run", values: Values) -> Values:
        if not set(map(type, values)) <= (
            {list, tuple} if is_required else {list, tuple, NoneType}
        ):
            raise Refused
        completed = iter(complete_all(run, list(chain.from_iterable(filter(None, values)))))
        return [None if value is None else list(islice(completed, len(value))) for value in values]

    return complete


def objects(plan: Plan, is_required: bool) -> Complete:
    def complete(run: "Run", values: Values) -> Values:
        types = set(map(type, values))
        check(types)
        if NoneType not in types:
            return plan.rows(run, values)
        if is_required:
            raise Refused
        rows = iter(plan.rows(run, [value for value in values if value is not None]))
        return [None if value is None else next(rows) for value in values]

    return complete
