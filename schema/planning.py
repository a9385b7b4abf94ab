"""Planned execution: a list of objects is read column by column, not row by row and field by field.

For an object type and what an operation selects of it, a plan is made once and kept with the parsed
document. It reads each column of all rows at once, by what the field is:

- an attribute, or a method without arguments: read, awaited all together, and written by its type;
- an object or a list of objects found so: its own selection, planned, over all of them together;
- a field that is loaded by key: each key is asked for once, and the selection is planned over what
  was found; rows of one key share one answer.

An object with any other field is left to the stock executor, and its parts may have plans again.
So is a whole list as soon as anything in its plan fails, be it a value of a type that was not
foreseen: errors and their paths are always the stock ones.
"""

from asyncio import gather
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import chain, islice
from operator import attrgetter, itemgetter
from types import FunctionType, GeneratorType, NoneType
from typing import Any, NamedTuple, TypeVar

from graphql import (
    Executor,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    GraphQLSchema,
    OperationDefinitionNode,
    TypeNameMetaFieldDef,
    get_named_type,
    is_leaf_type,
)
from graphql.execution.collect_fields import FieldDetails, FragmentDetails, collect_subfields
from graphql.execution.values import VariableValues
from graphql.pyutils import Path, Undefined
from strawberry.resolvers import is_default_resolver
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types import Info

from schema.leaves import Refused, write_all

KEPT_COLUMNS = 1_000
"""In the plans of one document, before those that are made next: what one operation may select."""
COUNTS: Counter[str] = Counter()
"""Plans that were made, taken, and given up for the stock executor."""

Made = TypeVar("Made")
Values = list[Any]
Rows = list[dict[str, Any]]
Details = list[FieldDetails]
Complete = Callable[["Run", Values], Values]
Selecting = tuple[
    GraphQLSchema, dict[str, FragmentDetails], VariableValues, OperationDefinitionNode
]
"""What graphql-core needs to tell what is selected."""


class PlannedExecution(StrawberryGraphQLCoreExecutionContext):
    """Strawberry's executor, but for the objects that it has a plan for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._selecting = (self.schema, self.fragments, self.variable_values, self.operation)
        self._plans = Plans.of(self.operation)
        self._left: dict[int, Details] = {}
        """Selections that are left to the stock executor, by their ids."""

    def complete_iterable_value(self, *arguments: Any) -> Any:
        kind, details, _, path, items, _ = arguments
        stock = partial(super().complete_iterable_value, *arguments)
        if not isinstance(kind, GraphQLNonNull) or not isinstance(items, list | tuple):
            return stock()
        return self._complete(kind.of_type, details, path, list(items), list, stock)

    def complete_object_value(self, *arguments: Any) -> Any:
        kind, details, _, path, item, _ = arguments
        stock = partial(super().complete_object_value, *arguments)
        return self._complete(kind, details, path, [item], itemgetter(0), stock)

    def _complete(
        self,
        kind: GraphQLOutputType,
        details: Details,
        path: Path,
        items: Values,
        shape: Callable[[Values], Any],
        stock: Callable[[], Any],
    ) -> Any:
        if not isinstance(kind, GraphQLObjectType) or id(details) in self._left:
            return stock()
        run = Run(self, path)
        try:
            complete = self._plans.plan(self._selecting, kind, details)
            if complete is None:
                self._left[id(details)] = details
                return stock()
            COUNTS["taken"] += 1
            rows = complete(run, items)
        except Exception:
            return self.give_up(details, path, stock)
        if not run.waits:
            return shape(rows)

        async def finish() -> Any:
            try:
                await run.finish()
            except Exception:
                completed = self.give_up(details, path, stock)
                return await completed if self.is_awaitable(completed) else completed
            return shape(rows)

        return finish()

    def give_up(self, details: Details, path: Path, stock: Callable[[], Any]) -> Any:
        """Leaves what a plan has failed for to the stock executor, which finds and tells why."""
        COUNTS["given up"] += 1
        self._left[id(details)] = details
        return stock()


class Run:
    """One execution of a plan: what it waits for."""

    def __init__(self, executor: Executor[Any], path: Path) -> None:
        self.executor = executor
        self.path = path
        self.waits: list[tuple[Callable[[], Awaitable[Values]], Callable[[Values], None]]] = []
        """What is begun when all is read, and who takes what it brings."""

    def info(self, kind: GraphQLObjectType, details: Details) -> GraphQLResolveInfo[Any]:
        """What the methods of a column are told, all of them the same."""
        nodes = [each.node for each in details]
        definition = kind.fields[nodes[0].name.value]
        path = Path(self.path, nodes[0].name.value, kind.name)
        return self.executor.build_resolve_info(definition, nodes, kind, path)

    def load(self, name: str, keys: Values, found: Callable[[Values], None]) -> None:
        """Asks for the keys; what is known already is found at once, the rest in `finish`."""
        loader = getattr(self.executor.context_value.load, name)
        if all(key in loader.known for key in keys):
            found([loader.known[key] for key in keys])
            return
        futures = [loader.load(key) for key in keys]

        async def wait() -> Values:
            values = await gather(*futures, return_exceptions=True)
            for key, value in zip(keys, values, strict=True):
                if isinstance(value, Exception):
                    loader.prime(key, value)  # the stock executor need not ask for it again
            return values

        if all(future.done() for future in futures):
            found([future.result() for future in futures])
        else:
            self.waits.append((wait, found))

    async def finish(self) -> None:
        """Waits for what was asked for, and then for what that asks for, a round at a time."""
        while self.waits:
            waits, self.waits = self.waits, []
            brought = await gather(*(begin() for begin, _ in waits))
            for (_, found), values in zip(waits, brought, strict=True):
                for value in values:
                    if isinstance(value, BaseException):
                        raise value
                found(values)


class Plans:
    """What was planned for a document: kept with its source, and so for as long as it is."""

    def __init__(self) -> None:
        self.made: dict[Any, Any] = {}
        self.columns = 0

    @classmethod
    def of(cls, operation: OperationDefinitionNode) -> "Plans":
        source = operation.loc and operation.loc.source
        found: Plans = vars(source).setdefault("plans", cls()) if source else cls()
        return found

    def plan(
        self, selecting: Selecting, kind: GraphQLObjectType, details: Details
    ) -> Complete | None:
        """How these objects are completed; None where the stock executor has to."""

        def make() -> Complete | None:
            COUNTS["made"] += 1
            return self._objects(selecting, kind, details)

        return self.kept(selecting, kind.name, details, make)

    def kept(
        self, selecting: Selecting, name: Any, details: Details, make: Callable[[], Made]
    ) -> Made:
        """What is made once for the same selection: only variables that are true or false change it."""
        chosen = (
            pair
            for pair in selecting[2].coerced.items()
            if pair[1] is None or isinstance(pair[1], bool)
        )
        key = (name, *(id(each.node) for each in details), *chosen)
        if key not in self.made:
            if self.columns >= KEPT_COLUMNS:
                self.made.clear()
                self.columns = 0
            self.columns += 1
            self.made[key] = make()
        found: Made = self.made[key]
        return found

    def _objects(
        self, selecting: Selecting, kind: GraphQLObjectType, details: Details
    ) -> Complete | None:
        fields = collect_subfields(*selecting, kind, details).grouped_field_set
        self.columns += len(fields)
        columns: list[tuple[str, _Origin, Complete]] = []
        for name, selected in fields.items():
            origin = _origin(kind, selected)
            complete = origin and self._values(selecting, origin.kind, selected)
            if origin is None or complete is None:
                return None
            columns.append((name, origin, complete))
        # Those that are waited for last: none is asked for in vain.
        columns.sort(key=lambda column: column[1].is_async or column[1].loader is not None)
        blank = dict.fromkeys(fields)

        def complete_all(run: Run, items: Values) -> Values:
            for each in set(map(type, items)):
                _check(each)
            rows: Rows = [blank.copy() for _ in items]
            for name, origin, complete in columns:
                origin.fill(run, name, complete, items, rows)
            return rows

        return complete_all

    def _values(
        self, selecting: Selecting, kind: GraphQLOutputType, details: Details
    ) -> Complete | None:
        is_required = isinstance(kind, GraphQLNonNull)
        inner = kind.of_type if isinstance(kind, GraphQLNonNull) else kind
        if is_leaf_type(inner):
            return write_all(inner, is_required)
        complete: Complete | None = None
        if isinstance(inner, GraphQLList):
            each = self._values(selecting, inner.of_type, details)
            complete = _lists(each) if each else None
        elif isinstance(inner, GraphQLObjectType):
            complete = self._objects(selecting, inner, details)
        return complete if is_required or complete is None else _nullable(complete)


class _Origin(NamedTuple):
    """Where the value of a field comes from, when a plan can tell."""

    kind: GraphQLOutputType
    reader: Callable[[Run], Callable[[Any], Any]]
    attributes: tuple[str, ...] | None
    """None for a method, which reads what it likes."""
    loader: str | None = None
    """What answers the key that is read."""
    is_async: bool = False

    def fill(self, run: Run, name: str, complete: Complete, items: Values, rows: Rows) -> None:
        read = self.reader(run)

        def found(values: Values) -> None:
            for row, value in zip(rows, complete(run, values), strict=True):
                row[name] = value

        if self.loader:
            keys = list(map(read, items))
            if len(self.attributes or ()) > 1:
                keys = [None if None in key else key for key in keys]
            distinct = dict.fromkeys(keys)
            wanted = [key for key in distinct if key is not None]

            def found_by_key(values: Values) -> None:
                loaded = dict(zip(wanted, values, strict=True))
                completed = complete(run, list(map(loaded.get, distinct)))
                answers = dict(zip(distinct, completed, strict=True))
                for row, key in zip(rows, keys, strict=True):
                    row[name] = answers[key]

            run.load(self.loader, wanted, found_by_key)
        elif self.is_async:
            run.waits.append((lambda: gather(*map(read, items), return_exceptions=True), found))
        else:
            found(list(map(read, items)))


def _origin(kind: GraphQLObjectType, details: Details) -> _Origin | None:
    name = details[0].node.name.value
    if name == "__typename":
        return _Origin(TypeNameMetaFieldDef.type, lambda _: lambda _: kind.name, ())
    definition = kind.fields[name]
    own: Any = definition.extensions.get(GraphQLCoreConverter.DEFINITION_BACKREF)
    if own is None or own.extensions or definition.args or kind.is_type_of:
        return None
    if key := own.metadata.get("key"):
        read = attrgetter(*key.attributes)
        return _Origin(definition.type, lambda _: read, key.attributes, key.loader)
    if definition.resolve and is_default_resolver(definition.resolve):
        read = attrgetter(own.python_name)
        return _Origin(definition.type, lambda _: read, (own.python_name,))
    resolver = own.base_resolver
    parent, info = (
        each and each.name for each in (resolver.parent_parameter, resolver.info_parameter)
    )
    names, method = set(resolver.signature.parameters), resolver.wrapped_func
    if not names <= {"self", parent, info} or not isinstance(method, FunctionType):
        return None

    def reader(run: Run) -> Callable[[Any], Any]:
        told = {info: Info(run.info(kind, details), own)} if info else {}
        if not parent:
            return partial(method, **told)
        selves = int("self" in names)
        return lambda source: method(*[source] * selves, **{parent: source}, **told)

    return _Origin(definition.type, reader, None, is_async=resolver.is_async)


def _check(kind: type) -> None:
    """Refuses what is no object of its own."""
    if (
        issubclass(kind, Exception | GeneratorType | NoneType)
        or hasattr(kind, "__await__")
        or kind is type(Undefined)
    ):
        raise Refused


def _lists(complete_all: Complete) -> Complete:
    def complete(run: Run, values: Values) -> Values:
        if not set(map(type, values)) <= {list, tuple}:
            raise Refused
        completed = iter(complete_all(run, list(chain.from_iterable(values))))
        return [list(islice(completed, len(value))) for value in values]

    return complete


def _nullable(complete_all: Complete) -> Complete:
    def complete(run: Run, values: Values) -> Values:
        completed = iter(complete_all(run, [value for value in values if value is not None]))
        return [None if value is None else next(completed) for value in values]

    return complete


class Asked(NamedTuple):
    """What an operation reads of the rows of a field."""

    attributes: frozenset[str]
    are_all: bool
    """Not where a method or a resolver reads what it likes."""


def asked(info: Any, *paths: str) -> Asked:
    """What is asked of the rows that are found below the field of this resolver on these paths.

    Paths are of names of the schema, such as "nodes" and "edges.node".
    """
    raw: GraphQLResolveInfo[Any] = getattr(info, "_raw_info", info)
    fragments = {name: FragmentDetails(node) for name, node in raw.fragments.items()}
    variables: Any = raw.variable_values
    selecting = (raw.schema, fragments, VariableValues({}, variables), raw.operation)
    details = [FieldDetails(node, None) for node in raw.field_nodes]

    def make() -> Asked:
        origins = [
            _origin(kind, selected)
            for path in paths
            for kind, selected in _below(selecting, raw.return_type, details, path.split("."))
        ]
        known = [origin for origin in origins if origin and origin.attributes is not None]
        attributes = frozenset(chain.from_iterable(origin.attributes or () for origin in known))
        return Asked(attributes, len(known) == len(origins))

    return Plans.of(raw.operation).kept(selecting, paths, details, make)


def _below(
    selecting: Selecting, returned: GraphQLOutputType, details: Details, path: list[str]
) -> Iterator[tuple[GraphQLObjectType, Details]]:
    """The fields that are selected at the end of the path."""
    kind: Any = get_named_type(returned)
    for selected in collect_subfields(*selecting, kind, details).grouped_field_set.values():
        if not path:
            yield kind, selected
        elif selected[0].node.name.value == path[0]:
            yield from _below(selecting, kind.fields[path[0]].type, selected, path[1:])
