"""How plans are made, for what an operation selects, and kept with its document."""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from types import FunctionType
from typing import Any, NamedTuple

from graphql import (
    DirectiveNode,
    FragmentDefinitionNode,
    GraphQLField,
    GraphQLIncludeDirective,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    GraphQLSchema,
    GraphQLSkipDirective,
    OperationDefinitionNode,
    TypeNameMetaFieldDef,
    VariableNode,
    Visitor,
    get_named_type,
    is_leaf_type,
    visit,
)
from graphql.execution.collect_fields import FieldDetails, FragmentDetails, collect_subfields
from graphql.execution.values import VariableValues
from strawberry.resolvers import is_default_resolver
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types.fields.resolver import StrawberryResolver

from schema.keys import Key
from schema.planning.columns import (
    Column,
    Complete,
    Details,
    LoadedColumn,
    Plan,
    StockColumn,
    leaves,
    lists,
    objects,
)

KEPT_COLUMNS = 2_000
"""In all plans of one document: twice what one operation may select."""
_ORDER = (Column, LoadedColumn, StockColumn)


class Plans:
    """What was planned for a document: kept with its source, and so for as long as it is."""

    def __init__(self) -> None:
        self.made: dict[Any, Any] = {}
        self.columns = 0
        self._conditions: dict[int, tuple[str, ...] | None] = {}

    @classmethod
    def of(cls, operation: OperationDefinitionNode) -> "Plans | None":
        """None for an operation without a source."""
        if operation.loc is None:
            return None
        kept = vars(operation.loc.source)
        if "plans" not in kept:
            kept["plans"] = cls()
        found: Plans = kept["plans"]
        return found

    def choice(
        self,
        operation: OperationDefinitionNode,
        fragments: Iterable[FragmentDefinitionNode],
        variables: Mapping[str, Any],
    ) -> tuple[Any, ...] | None:
        """What decides what is selected: operation and variables; None where more than these do."""
        if id(operation) not in self._conditions:
            found = _Conditions()
            for definition in (operation, *fragments):
                visit(definition, found)
            names = tuple(sorted(found.variables)) if found.are_plain else None
            self._conditions[id(operation)] = names
        names = self._conditions[id(operation)]
        return None if names is None else (id(operation), *map(variables.get, names))

    def keep(self, key: Any, found: Any, columns: int) -> None:
        """Keeps what was made with so many columns."""
        if self.columns + columns >= KEPT_COLUMNS:
            self.made.clear()
            self.columns = 0
        self.columns += columns + 1
        self.made[key] = found


class _Conditions(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.variables: set[str] = set()
        self.are_plain = True

    def enter_directive(self, node: DirectiveNode, *_: Any) -> None:
        known = (GraphQLSkipDirective.name, GraphQLIncludeDirective.name)
        self.are_plain = self.are_plain and node.name.value in known
        for argument in node.arguments or ():
            if isinstance(argument.value, VariableNode):
                self.variables.add(argument.value.name.value)

    def enter_fragment_definition(self, node: FragmentDefinitionNode, *_: Any) -> None:
        self.are_plain = self.are_plain and not node.variable_definitions


class Selecting(NamedTuple):
    """What graphql-core needs to tell what is selected."""

    schema: GraphQLSchema
    fragments: dict[str, FragmentDetails]
    variables: VariableValues
    operation: OperationDefinitionNode

    def fields(self, kind: GraphQLObjectType, details: Details) -> dict[str, Details]:
        return collect_subfields(*self, kind, details).grouped_field_set


class Origin(NamedTuple):
    """Where the value of a field comes from, when a plan can tell."""

    read: Callable[[Any], Any] | None
    attributes: frozenset[str] | None
    key: Key | None = None


def _origin(kind: GraphQLObjectType, definition: GraphQLField | None) -> Origin | None:
    if definition is TypeNameMetaFieldDef:
        return Origin(lambda _: kind.name, frozenset())
    own: Any = definition and definition.extensions.get(GraphQLCoreConverter.DEFINITION_BACKREF)
    if definition is None or own is None or own.extensions or definition.args:
        return None
    if key := own.metadata.get("key"):
        return Origin(None, frozenset(key.attributes), key)
    if definition.resolve and is_default_resolver(definition.resolve):
        name = own.python_name
        return Origin(attrgetter(name), frozenset((name,)))
    call = _method(own.base_resolver)
    return Origin(call, None) if call else None


def _method(resolver: StrawberryResolver[Any] | None) -> Callable[[Any], Any] | None:
    """A resolver that takes nothing but the object."""
    if resolver is None or resolver.is_async or not isinstance(resolver.wrapped_func, FunctionType):
        return None
    method, names = resolver.wrapped_func, set(resolver.signature.parameters)
    if names == {"self"}:
        return method
    parent = resolver.parent_parameter
    if parent is None or not {parent.name} <= names <= {parent.name, "self"}:
        return None
    name, takes_self = parent.name, "self" in names
    return lambda source: method(*[source] * takes_self, **{name: source})


class Planner:
    def __init__(self, selecting: Selecting) -> None:
        self.selecting = selecting
        self.columns = 0

    def plan(self, kind: GraphQLObjectType, details: Details, is_own: bool) -> Plan | None:
        """None where a plan is of no use; a column of the stock executor has its place in `is_own`."""
        fields = self.selecting.fields(kind, details)
        columns: list[Column | LoadedColumn | StockColumn] = []
        for name, selected in fields.items():
            column = self._column(kind, name, selected)
            if column is None and not is_own:
                return None
            columns.append(column or StockColumn(name, kind, selected))
        self.columns += len(columns)
        columns.sort(key=lambda column: _ORDER.index(type(column)))
        if not columns or isinstance(columns[0], StockColumn):
            return None
        return Plan(dict.fromkeys(fields), columns)

    def _column(
        self, kind: GraphQLObjectType, name: str, details: Details
    ) -> Column | LoadedColumn | None:
        definition = self.selecting.schema.get_field(kind, details[0].node.name.value)
        origin = _origin(kind, definition) if definition and not kind.is_type_of else None
        if definition is None or origin is None:
            return None
        complete = self.complete(definition.type, details)
        if complete is None:
            return None
        if origin.key:
            is_required = isinstance(definition.type, GraphQLNonNull)
            return LoadedColumn(name, origin.key, complete, is_required)
        return Column(name, origin.read, complete) if origin.read else None

    def complete(self, kind: GraphQLOutputType, details: Details) -> Complete | None:
        is_required = isinstance(kind, GraphQLNonNull)
        inner = kind.of_type if isinstance(kind, GraphQLNonNull) else kind
        if isinstance(inner, GraphQLList):
            each = self.complete(inner.of_type, details)
            return lists(each, is_required) if each else None
        if is_leaf_type(inner):
            return leaves(inner, is_required)
        if isinstance(inner, GraphQLObjectType) and not inner.is_type_of:
            plan = self.plan(inner, details, is_own=False)
            return objects(plan, is_required) if plan else None
        return None


class Asked(NamedTuple):
    """What an operation reads of the rows of a field."""

    attributes: frozenset[str] | None
    """None where that cannot be told: a method reads what it likes."""
    loaders: frozenset[str]
    """By which something of them is loaded by key."""


def asked(info: Any, *paths: str) -> Asked:
    """What is asked of the rows that are found below the field of this resolver on these paths.

    Paths are of names of the schema, such as "nodes" and "edges.node".
    """
    raw: GraphQLResolveInfo[Any] = getattr(info, "_raw_info", info)
    fragments = {name: FragmentDetails(node) for name, node in raw.fragments.items()}
    variables: Any = raw.variable_values
    selecting = Selecting(raw.schema, fragments, VariableValues({}, variables), raw.operation)
    plans = Plans.of(raw.operation)
    choice = plans and plans.choice(raw.operation, raw.fragments.values(), variables)
    if plans is None or choice is None:
        return Asked(None, frozenset())
    key = (paths, choice, *map(id, raw.field_nodes))
    if key not in plans.made:
        plans.keep(key, _asked(selecting, raw, paths), 0)
    found: Asked = plans.made[key]
    return found


def _asked(selecting: Selecting, info: GraphQLResolveInfo[Any], paths: Iterable[str]) -> Asked:
    attributes, loaders, is_known = set[str](), set[str](), True
    for path in paths:
        kind: Any = get_named_type(info.return_type)
        details = [FieldDetails(node, None) for node in info.field_nodes]
        for step in (*path.split("."), None):
            definition = selecting.schema.get_field(kind, step) if step else None
            below: Details = []
            for selected in selecting.fields(kind, details).values() if details else ():
                name = selected[0].node.name.value
                if name == step:
                    below.extend(selected)
                elif step is None:
                    origin = _origin(kind, selecting.schema.get_field(kind, name))
                    is_known = is_known and origin is not None and origin.attributes is not None
                    attributes |= (origin and origin.attributes) or set()
                    loaders |= {origin.key.loader} if origin and origin.key else set()
            if definition:
                kind, details = get_named_type(definition.type), below
    return Asked(frozenset(attributes) if is_known else None, frozenset(loaders))
