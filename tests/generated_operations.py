"""Operations over the real schema that nobody has thought of, about what is in the books.

hypothesis-graphql chooses what is selected; here more is asked of the rows, in more ways, and every
argument is taken from the data.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from graphql import (
    ArgumentNode,
    BooleanValueNode,
    DirectiveNode,
    DocumentNode,
    EnumValueNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLEnumType,
    GraphQLField,
    GraphQLObjectType,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    NamedTypeNode,
    NameNode,
    ObjectFieldNode,
    ObjectValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    SelectionSetNode,
    StringValueNode,
    ValueNode,
    VariableDefinitionNode,
    VariableNode,
    get_named_type,
    is_composite_type,
    is_required_argument,
    parse_type,
    print_ast,
)
from hypothesis import strategies as st
from hypothesis_graphql import nodes, queries

from app.billing.models import accounts, audit_events, holds, transactions
from app.database import Database
from schema import schema
from tests.world import PROVIDERS, read_rows

SCHEMA = schema._schema
QUERY: GraphQLObjectType = SCHEMA.query_type  # type: ignore[assignment]
LISTS = ("transactions", "accounts", "mandateUsers", "mandates", "holds", "auditLog", "usage")
_SCALARS = {
    name: st.just(nodes.String("1"))
    for name in ("Date", "DateTime", "Decimal", "TimeZone", "CurrencyCode")
}
_CLOCKS = ("asOf", "checkedAt")


def selections() -> st.SearchStrategy[DocumentNode]:
    """What is selected, of one root field; of a list more often than not."""
    names = [*QUERY.fields, *LISTS, *LISTS]
    return st.sampled_from(names).flatmap(
        lambda name: queries(
            SCHEMA, fields=(name,), custom_scalars=_SCALARS, print_ast=lambda document: document
        )
    )


@dataclass(frozen=True)
class Facts:
    """What is in the books of one mandate."""

    mandate_id: str
    users: Sequence[str]
    transactions: Sequence[Any]
    accounts: Sequence[Any]
    holds: Sequence[Any]
    audit: Sequence[Any]
    cursors: Mapping[str, Sequence[str]]


async def find_facts(
    database: Database, mandate_id: str, users: Sequence[str], cursors: Mapping[str, Sequence[str]]
) -> Facts:
    tables = (transactions, accounts, holds, audit_events)
    written, opened, held, audit = [
        await read_rows(database, table, mandate_id=mandate_id) for table in tables
    ]
    return Facts(mandate_id, users, written, opened, held, audit, cursors)


class Name(str):
    """Of an enum's value."""


@dataclass
class Maker:
    """Makes one operation of what was selected."""

    dice: random.Random
    facts: Facts
    variables: dict[str, Any] = field(default_factory=dict)
    fragments: list[FragmentDefinitionNode] = field(default_factory=list)
    definitions: list[VariableDefinitionNode] = field(default_factory=list)
    _count: int = 0

    def operation(self, document: DocumentNode) -> str:
        [chosen] = document.definitions
        assert isinstance(chosen, OperationDefinitionNode)
        selected = self._selection(QUERY, chosen.selection_set.selections, 0)
        operation = OperationDefinitionNode(
            operation=OperationType.QUERY,
            name=NameNode(value="Generated"),
            variable_definitions=tuple(self.definitions),
            selection_set=selected,
        )
        return print_ast(DocumentNode(definitions=(operation, *self.fragments)))

    def _chance(self, share: float) -> bool:
        return self.dice.random() < share

    def _fresh(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _selection(
        self, kind: GraphQLObjectType, chosen: Sequence[SelectionNode], depth: int
    ) -> SelectionSetNode:
        names = [node.name.value for node in chosen if isinstance(node, FieldNode)]
        names = [name for name in dict.fromkeys(names) if name in kind.fields]
        inner = {node.name.value: node for node in chosen if isinstance(node, FieldNode)}
        if depth and depth < 6:
            names += [name for name in self._more(kind, names, depth) if name not in names]
        made: list[SelectionNode] = []
        for name in names or ["__typename"]:
            node = inner.get(name)
            below = node.selection_set.selections if node and node.selection_set else ()
            made.append(self._field(kind, name, below, depth))
            if depth and self._chance(0.04) and name not in _CLOCKS:
                made.append(self._field(kind, name, below, depth, self._fresh("again")))
        if self._chance(0.1):
            made.append(FieldNode(name=NameNode(value="__typename")))
        if depth and self._chance(0.12):
            cut = self.dice.randrange(len(made))
            made[cut:] = [self._fragment(kind, made[cut:])]
        return SelectionSetNode(selections=tuple(made))

    def _more(self, kind: GraphQLObjectType, names: Sequence[str], depth: int) -> list[str]:
        """Names of fields that are asked for, too: the rows of a list, and what is in them."""
        if "nodes" in kind.fields:
            return [] if {"nodes", "edges"} & {*names} else [self.dice.choice(["nodes", "edges"])]
        more = ["node"] if "node" in kind.fields and "node" not in names else []
        for name, definition in kind.fields.items():
            is_nested = is_composite_type(get_named_type(definition.type))
            share = 0.3 if not is_nested else 0.15 if depth < 4 else 0.03
            if name not in (*names, *more) and self._chance(share) and not _is_dear(name):
                more.append(name)
        return more or [name for name in ("id", "cost", "amount") if name in kind.fields][:1]

    def _field(
        self,
        parent: GraphQLObjectType,
        name: str,
        below: Sequence[SelectionNode],
        depth: int,
        alias: str | None = None,
    ) -> FieldNode:
        if name == "__typename":
            return FieldNode(name=NameNode(value=name))
        definition = parent.fields[name]
        kind = get_named_type(definition.type)
        if alias is None and self._chance(0.1) and name not in _CLOCKS:
            alias = self._fresh("a")
        is_object = isinstance(kind, GraphQLObjectType)
        return FieldNode(
            alias=NameNode(value=alias) if alias else None,
            name=NameNode(value=name),
            arguments=tuple(self._arguments(parent, name, definition)),
            directives=self._directives() if depth else (),
            selection_set=self._selection(kind, below, depth + 1) if is_object else None,
        )

    def _directives(self) -> tuple[DirectiveNode, ...]:
        if not self._chance(0.08):
            return ()
        name = self.dice.choice(["skip", "include"])
        value: ValueNode = BooleanValueNode(value=self._chance(0.5))
        if self._chance(0.7):
            value = self._variable("Boolean!", self._chance(0.5 if name == "skip" else 0.7))
        argument = ArgumentNode(name=NameNode(value="if"), value=value)
        return (DirectiveNode(name=NameNode(value=name), arguments=(argument,)),)

    def _variable(self, kind: str, value: Any) -> VariableNode:
        variable = VariableNode(name=NameNode(value=self._fresh("v")))
        self.variables[variable.name.value] = value
        self.definitions.append(VariableDefinitionNode(variable=variable, type=parse_type(kind)))
        return variable

    def _fragment(self, kind: GraphQLObjectType, nodes: Sequence[SelectionNode]) -> SelectionNode:
        condition = NamedTypeNode(name=NameNode(value=kind.name))
        selected = SelectionSetNode(selections=tuple(nodes))
        if self._chance(0.5):
            return InlineFragmentNode(
                type_condition=condition if self._chance(0.7) else None,
                directives=self._directives(),
                selection_set=selected,
            )
        name = NameNode(value=self._fresh("F"))
        self.fragments.append(
            FragmentDefinitionNode(name=name, type_condition=condition, selection_set=selected)
        )
        return FragmentSpreadNode(name=name, directives=self._directives())

    def _arguments(
        self, parent: GraphQLObjectType, name: str, definition: GraphQLField
    ) -> Iterator[ArgumentNode]:
        given = self._given(parent.name, name)
        for argument, asked in definition.args.items():
            if argument not in given:
                assert not is_required_argument(asked), (name, argument)
                continue
            value = given[argument]
            literal = (
                self._variable(str(asked.type), value)
                if self._chance(0.3)
                else _literal(value, get_named_type(asked.type))
            )
            yield ArgumentNode(name=NameNode(value=argument), value=literal)

    def _given(self, parent: str, name: str) -> dict[str, Any]:
        facts, dice = self.facts, self.dice
        mandate_id = facts.mandate_id if self._chance(0.95) else "nowhere"
        given: dict[str, Any] = {"mandateId": mandate_id}
        now = datetime.now(UTC)
        somebody = dice.choice(facts.users)
        match name:
            case "mandate":
                given["id"] = mandate_id
            case "transaction" | "hold":
                rows = facts.transactions if name == "transaction" else facts.holds
                given["id"] = dice.choice(rows).id if rows else "none"
            case "balance" | "spendCheck":
                given |= {"userId": somebody} if self._chance(0.5) else {}
                given["amount"] = dice.choice(["0", "0.5", "1000"])
                given |= {"provider": dice.choice(PROVIDERS)} if self._chance(0.5) else {}
            case "balanceAt":
                given["at"] = (now - timedelta(hours=dice.randrange(48))).isoformat()
            case "statistics":
                given["period"] = Name(dice.choice(["DAY", "MONTH", "YEAR"]))
                given |= {"year": now.year}
                given |= {"month": now.month} if given["period"] == "DAY" else {}
            case "usage":
                today = now.date()
                given |= {"from": str(today - timedelta(40)), "to": str(today + timedelta(1))}
                given["granularity"] = Name(dice.choice(["DAY", "MONTH"]))
                given["groupBy"] = dice.sample(
                    [Name(each) for each in ("PROVIDER", "MODEL", "FEATURE", "USER", "WORKFLOW")],
                    dice.randrange(3),
                )
                given["first"] = dice.randrange(1, 9)
            case "auditLog":
                event = dice.choice(facts.audit)
                given |= {"subject": event.subject} if self._chance(0.3) else {}
                given |= {"actorId": event.actor_id} if event.actor_id and self._chance(0.3) else {}
                given |= self._page(name)
            case "accounts" | "holds" | "transactions" | "mandates" | "mandateUsers":
                given |= self._page(name)
                given |= self._narrowed(name) if "after" not in given else {}
        return given

    def _page(self, name: str) -> dict[str, Any]:
        size = self.dice.choice([1, 2, 3, 5, 8])
        cursors = self.facts.cursors.get(name, ())
        if cursors and self._chance(0.2):
            return {"first": size, "after": self.dice.choice(cursors)}
        return {self.dice.choice(["first", "first", "last"]): size} if self._chance(0.9) else {}

    def _narrowed(self, name: str) -> dict[str, Any]:
        dice, facts = self.dice, self.facts
        if name in ("mandates", "mandateUsers"):
            return {"search": "a"} if self._chance(0.2) else {}
        rows = {"accounts": facts.accounts, "holds": facts.holds}.get(name, facts.transactions)
        if not rows or self._chance(0.4):
            return {}
        row = dice.choice(rows)
        if name == "accounts":
            return {"enabled": row.enabled} | ({"userId": row.user_id} if row.user_id else {})
        if name == "holds":
            return {"userId": row.user_id} if self._chance(0.5) else {"accountId": row.account_id}
        values = {
            "transactionType": Name(row.transaction_type),
            "referenceType": Name(row.reference_type),
            "userId": row.user_id,
            "accountId": row.account_id,
            "workflowId": row.workflow_id,
            "featureCode": row.feature_code,
            "aicoreProvider": row.aicore_provider,
            "aicoreModel": row.aicore_model,
            "minAmount": str(Decimal(row.amount)),
            "createdTo": (row.created_at + timedelta(seconds=1)).isoformat(),
            "occurredFrom": row.occurred_at.isoformat(),
            "idempotencyKey": row.idempotency_key,
        }
        known = [item for item in values.items() if item[1] is not None]
        given: dict[str, Any] = {"filter": dict(dice.sample(known, dice.randrange(1, 3)))}
        if self._chance(0.3):
            order = {"field": Name("AMOUNT"), "direction": Name(dice.choice(["ASC", "DESC"]))}
            given["orderBy"] = order
        return given


def _is_dear(name: str) -> bool:
    return name in ("statistics", "transactions")


def _literal(value: Any, kind: Any) -> ValueNode:
    match value:
        case bool():
            return BooleanValueNode(value=value)
        case int():
            return IntValueNode(value=str(value))
        case Name():
            return EnumValueNode(value=str(value))
        case list():
            return ListValueNode(values=tuple(_literal(each, kind) for each in value))
        case dict():
            return ObjectValueNode(
                fields=tuple(
                    ObjectFieldNode(
                        name=NameNode(value=name),
                        value=_literal(each, get_named_type(kind.fields[name].type)),
                    )
                    for name, each in value.items()
                )
            )
    assert not isinstance(kind, GraphQLEnumType)
    return StringValueNode(value=str(value))
