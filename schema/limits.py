"""How much one operation may ask for. It is measured before anything is validated or run.

Depth, aliases, fields and cost are what the operation comes to once its fragments are spread. Each
fragment is measured once, however often it is spread: the time is linear in the document.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import EllipsisType
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    ValueNode,
    VariableNode,
    get_named_type,
)

from app.billing.errors import RequestError
from app.billing.paging import DEFAULT_PAGE, MAX_PAGE

MAX_LENGTH = 64 * 1024
"""Of a document, in characters."""
MAX_TOKENS = 2_000
MAX_VALUES = 20_000
"""In all lists and objects of the variables: 1,000 usage events of all their fields have 12,001."""
MAX_ALIAS_LENGTH = 128
"""In characters: an alias stands in each row of the answer."""
MAX_DEPTH = 12
MAX_ALIASES = 30
MAX_FIELDS = 1_000
MAX_DIRECTIVES = 9
"""Of one node."""
MAX_MUTATIONS = 10
MAX_COST = 5_000
"""In points: an object is 1, a scalar 0, a page as many as its rows times what each of them costs.

What reads or computes much for one object counts for more: see below.
"""

KEPT_COSTS = 16
"""Of an operation, by the page sizes in its variables."""

_SIZES = int | float | None | EllipsisType
_ROWS = ("nodes", "edges")
_WEIGHTS = {
    ("Mandate", "statistics"): 50,
    ("Mandate", "transactions"): 10,
    ("Query", "ledgerCheck"): 1_000,
    ("Query", "statistics"): 50,
    ("Query", "usage"): 500,
}
"""Points of fields that ask the database on their own, for each row they are asked of."""


class TooComplex(RequestError):
    """The operation asks for more than one request may."""

    code = "OPERATION_TOO_COMPLEX"


class Size(NamedTuple):
    """What a selection comes to."""

    fields: int = 0
    own_fields: int = 0
    """Fields of the selection itself, without those within them."""
    aliases: int = 0
    depth: int = 0
    cost: int = 0
    row_cost: int = 0
    """Of a selection of a connection: what each row of the page costs."""


def measure(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    variables: Mapping[str, Any],
) -> int:
    """What the operation costs, in points; TooComplex where it is over one of the limits."""
    kept = vars(document.loc.source).setdefault("costs", {}) if document.loc else {}
    names, costs = kept.get(id(operation), ((), {}))
    sizes = tuple(variables.get(name, ...) for name in names)
    if all(isinstance(size, _SIZES) for size in sizes) and sizes in costs:
        return int(costs[sizes])
    measured = _Measure(schema, document, operation, variables)
    _check_size(measured.size, operation)
    names = tuple(measured.page_sizes)
    sizes = tuple(variables.get(name, ...) for name in names)
    if all(isinstance(size, _SIZES) for size in sizes):
        if len(costs) >= KEPT_COSTS:
            costs.clear()
        costs[sizes] = measured.size.cost
        kept[id(operation)] = names, costs
    return measured.size.cost


def _check_size(size: Size, operation: OperationDefinitionNode) -> None:
    for value, limit, what in (
        (size.depth, MAX_DEPTH, "levels of fields"),
        (size.aliases, MAX_ALIASES, "aliases"),
        (size.fields, MAX_FIELDS, "fields"),
    ):
        _check(value, limit, what)
    if operation.operation is OperationType.MUTATION:
        _check(size.own_fields, MAX_MUTATIONS, "mutations")
    if size.cost > MAX_COST:
        raise TooComplex(
            f"The operation costs {min(size.cost, 10**9):,} points, of at most {MAX_COST:,}: ask for"
            " smaller pages, or for fewer objects of each row."
        )


def check_variables(variables: Mapping[str, Any]) -> None:
    """TooComplex where they hold more values than any operation needs: each is checked on its own."""
    count = 0
    found: list[Any] = [variables]
    while found:
        part = found.pop()
        count += len(part)
        _check(count, MAX_VALUES, "values of variables")
        values = part.values() if isinstance(part, Mapping) else part
        found.extend(value for value in values if isinstance(value, dict | list))


def _check(value: int, limit: int, what: str) -> None:
    if value > limit:
        raise TooComplex(f"An operation has at most {limit:,} {what}: ask in several requests.")


class _Measure:
    """One pass over an operation and the fragments that it spreads."""

    def __init__(
        self,
        schema: GraphQLSchema,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        variables: Mapping[str, Any],
    ) -> None:
        self._types = schema.type_map
        self._variables = {**dict(_defaults(operation)), **variables}
        self._fragments = {
            definition.name.value: definition
            for definition in document.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        self._measured: dict[str, Size] = {}
        self.page_sizes: dict[str, None] = {}
        """The variables that tell one."""
        _check_directives(operation, *(operation.variable_definitions or ()))
        root = schema.get_root_type(operation.operation)
        try:
            self.size = self._selection(root, operation.selection_set.selections)
        except RecursionError:
            raise TooComplex("The operation's fragments are nested too deeply.") from None

    def _selection(self, parent: GraphQLNamedType | None, nodes: Iterable[SelectionNode]) -> Size:
        parts = [self._node(parent, node) for node in nodes]
        if not parts:
            return Size()
        fields, own_fields, aliases, depths, cost, row_cost = zip(*parts, strict=True)
        return Size(
            sum(fields), sum(own_fields), sum(aliases), max(depths), sum(cost), sum(row_cost)
        )

    def _node(self, parent: GraphQLNamedType | None, node: SelectionNode) -> Size:
        _check_directives(node)
        match node:
            case FieldNode():
                return self._field(parent, node)
            case FragmentSpreadNode():
                return self._fragment(node.name.value)
            case InlineFragmentNode(type_condition=condition):
                kind = self._types.get(condition.name.value) if condition else parent
                return self._selection(kind, node.selection_set.selections)
        raise AssertionError("unreachable")

    def _fragment(self, name: str) -> Size:
        if name not in self._measured:
            self._measured[name] = Size()  # for one that spreads itself, which validation refuses
            if fragment := self._fragments.get(name):
                _check_directives(fragment)
                kind = self._types.get(fragment.type_condition.name.value)
                self._measured[name] = self._selection(kind, fragment.selection_set.selections)
        return self._measured[name]

    def _field(self, parent: GraphQLNamedType | None, node: FieldNode) -> Size:
        name = node.name.value
        field = parent.fields.get(name) if isinstance(parent, GraphQLObjectType) else None
        kind = get_named_type(field.type) if field else None
        inner = self._selection(kind, node.selection_set.selections if node.selection_set else ())
        cost, row_cost = inner.cost, 0
        if _is_connection(kind):
            cost += self._page_size(node) * max(1, inner.row_cost)  # it is read, whatever is shown
        elif _is_connection(parent) and name in _ROWS:
            cost, row_cost = 0, inner.cost + (name == "nodes")
        elif isinstance(kind, GraphQLObjectType):
            cost += 1
        cost += _WEIGHTS.get((parent.name, name), 0) if parent else 0
        alias = node.alias.value if node.alias else None
        if alias and len(alias) > MAX_ALIAS_LENGTH:
            raise TooComplex(f"An alias has at most {MAX_ALIAS_LENGTH} characters.")
        is_introspection = name.startswith("__")
        return Size(
            fields=1 + inner.fields,
            own_fields=1,
            aliases=inner.aliases + (alias is not None),
            depth=0 if is_introspection else 1 + inner.depth,
            cost=0 if is_introspection else cost,
            row_cost=row_cost,
        )

    def _page_size(self, node: FieldNode) -> int:
        given = [
            self._value(argument.value)
            for argument in node.arguments or ()
            if argument.name.value in ("first", "last")
        ]
        sizes = [value for value in given if isinstance(value, int | float)]
        return int(min(max([0, *sizes] if sizes else [DEFAULT_PAGE]), MAX_PAGE))

    def _value(self, node: ValueNode) -> Any:
        match node:
            case IntValueNode():
                return float(node.value)
            case VariableNode():
                self.page_sizes[node.name.value] = None
                return self._variables.get(node.name.value)
        return None


def _is_connection(kind: GraphQLNamedType | None) -> bool:
    return kind is not None and kind.name.endswith("Connection")


def _defaults(operation: OperationDefinitionNode) -> Iterator[tuple[str, Any]]:
    for definition in operation.variable_definitions or ():
        if isinstance(definition.default_value, IntValueNode):
            yield definition.variable.name.value, float(definition.default_value.value)


def _check_directives(*nodes: Any) -> None:
    for node in nodes:
        if len(node.directives or ()) > MAX_DIRECTIVES:
            raise TooComplex(f"A node has at most {MAX_DIRECTIVES} directives.")
