"""One valid request for every root field of the schema, and each place in it where input goes.

Requests are written from the schema itself: a new field or argument is asked for, and attacked,
without a line here, but for a root field's own valid variables.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from graphql import (
    GraphQLField,
    GraphQLList,
    GraphQLNamedType,
    GraphQLObjectType,
    get_named_type,
    get_nullable_type,
    is_input_object_type,
    is_leaf_type,
    is_list_type,
    is_required_argument,
)

from app.database import Database
from schema import schema
from tests.api import add_people
from tests.world import MANDATE, credit, fresh, hold, record, transfer, usage_event

Variables = dict[str, Any]
Path = tuple[str | int, ...]

QUERIES: Mapping[str, GraphQLField] = schema._schema.query_type.fields  # type: ignore[union-attr]
MUTATIONS: Mapping[str, GraphQLField] = schema._schema.mutation_type.fields  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True)
class World:
    """Ids of what stands in MANDATE."""

    account_id: str
    transaction_id: str
    hold_id: str


async def add_world(database: Database) -> World:
    """MANDATE under PREPAY_USER with all PEOPLE, money of its own, and of alice's a credit, a call, a hold."""
    await add_people(database, model="PREPAY_USER", default_user_credit=0)
    return await add_money(database, MANDATE, "alice", "ada")


async def add_money(database: Database, mandate_id: str, user_id: str, admin_id: str) -> World:
    """Money of the mandate's own, and of the user's a credit, a call, a hold."""
    await credit(database, 20, admin_id, mandate_id=mandate_id)
    await transfer(database, 10, admin_id, None, mandate_id=mandate_id)
    row = await credit(database, 100, user_id, mandate_id=mandate_id)
    whose: dict[str, Any] = {"mandate_id": mandate_id, "user_id": user_id}
    await record(database, usage_event("0.25", aicore_provider="openai", **whose))
    return World(row.account_id, row.id, await hold(database, 3, ttl_seconds=86_400, **whose))


def _list(**arguments: Any) -> Callable[[World], Variables]:
    return lambda _: {"first": 5, **arguments}


def _input(**values: Any) -> Callable[[World], Variables]:
    return lambda _: {"input": {"mandateId": MANDATE, **values}}


_HERE = {"mandateId": MANDATE}

VALID: Mapping[str, Callable[[World], Variables]] = {
    "viewer": lambda _: {},
    "balances": lambda _: {},
    "rateLimit": lambda _: {},
    "mandate": lambda _: {"id": MANDATE},
    "mandates": _list(),
    "balance": lambda _: {**_HERE, "userId": "alice"},
    "transactions": _list(
        **_HERE, filter={"userId": "alice"}, orderBy={"field": "AMOUNT", "direction": "ASC"}
    ),
    "transaction": lambda world: {**_HERE, "id": world.transaction_id},
    "statistics": lambda _: {**_HERE, "period": "DAY", "year": 2026, "month": 2},
    "usage": lambda _: {
        **_HERE,
        "from": "2026-01-01",
        "to": "2026-02-01",
        "granularity": "DAY",
        "groupBy": ["PROVIDER", "USER"],
        "filter": {"userId": "alice"},
    },
    "providers": lambda _: dict(_HERE),
    "mandateUsers": _list(**_HERE),
    "accounts": _list(**_HERE),
    "billingSettings": lambda _: dict(_HERE),
    "spendCheck": lambda _: {**_HERE, "userId": "alice", "amount": "1", "provider": "openai"},
    "hold": lambda world: {**_HERE, "id": world.hold_id},
    "holds": _list(**_HERE, status="OPEN", userId="alice"),
    "ledgerCheck": lambda _: dict(_HERE),
    "auditLog": _list(**_HERE, subject="user:alice"),
    "addCredit": lambda _: {
        "input": {**_HERE, "userId": "alice", "amount": "5", "idempotencyKey": fresh()}
    },
    "updateBillingSettings": _input(notifyEmails=["ada@example.com"]),
    "updateAccount": lambda world: {
        "input": {**_HERE, "accountId": world.account_id, "creditLimit": "7"}
    },
    "upsertMandate": lambda _: {"input": {"id": "initech", "name": "Initech"}},
    "upsertUser": lambda _: {"input": {"id": "uma", "email": "uma@example.com"}},
    "upsertMembership": _input(
        userId="ada", role="MEMBER", spendLimit={"amount": "5", "period": "MONTH"}
    ),
    "removeMembership": _input(userId="alice"),
    "recordUsage": lambda _: {
        "input": {
            "events": [{**_HERE, "userId": "alice", "amount": "1", "idempotencyKey": fresh()}]
        }
    },
    "addDebit": lambda _: {
        "input": {
            **_HERE,
            "userId": "alice",
            "amount": "1",
            "description": "Refund",
            "idempotencyKey": fresh(),
        }
    },
    "createHold": lambda _: {
        "input": {**_HERE, "userId": "alice", "amount": "1", "idempotencyKey": fresh()}
    },
    "settleHold": lambda world: {
        "input": {**_HERE, "holdId": world.hold_id, "amount": "1"},
    },
    "releaseHold": lambda world: {"input": {**_HERE, "holdId": world.hold_id}},
    "reverseTransaction": lambda world: {
        "input": {
            **_HERE,
            "transactionId": world.transaction_id,
            "reason": "Wrong user",
            "idempotencyKey": fresh(),
        }
    },
    "transferCredit": lambda _: {
        "input": {
            **_HERE,
            "fromUserId": "alice",
            "toUserId": "ada",
            "amount": "1",
            "idempotencyKey": fresh(),
        }
    },
}


@cache
def document(name: str) -> str:
    """The request for a root field: every argument a variable, and all fields of the answer, 2 or 3 deep."""
    depth = 2 if name == "transaction" else 3  # else it has more fields than a request may
    return _document(name, lambda kind: _selection(kind, depth))


@cache
def brief(name: str) -> str:
    """The same request; of the answer only its scalars and what was refused."""

    def chosen(kind: GraphQLNamedType) -> str:
        refusals = {"userErrors", "results"} & getattr(kind, "fields", {}).keys()
        told = [f"{field} {_selection(_type_of(kind, field), 1)}" for field in sorted(refusals)]
        return f"{_selection(kind, 0)[:-1]} {' '.join(told)} }}" if told else _selection(kind, 0)

    return _document(name, chosen)


def _document(name: str, select: Callable[[GraphQLNamedType], str]) -> str:
    field = QUERIES.get(name) or MUTATIONS[name]
    kind = "query" if name in QUERIES else "mutation"
    declared = ", ".join(f"${argument}: {item.type}" for argument, item in field.args.items())
    passed = ", ".join(f"{argument}: ${argument}" for argument in field.args)
    root = f"{name}({passed})" if passed else name
    head = f"{kind}({declared})" if declared else kind
    return f"{head} {{ {root} {select(get_named_type(field.type))} }}"


def _type_of(kind: Any, field: str) -> Any:
    return get_named_type(kind.fields[field].type)


def _selection(kind: GraphQLNamedType, depth: int) -> str:
    """The fields of a type that need no argument, and theirs, so deep; nothing for a scalar.

    Of a list within a list one row is asked for: more would soon cost too much.
    """
    if not isinstance(kind, GraphQLObjectType):
        return ""
    chosen = [
        f"{name}{'(first: 1)' if 'first' in field.args else ''}"
        f" {_selection(_type_of(kind, name), depth - 1)}"
        for name, field in kind.fields.items()
        if not any(map(is_required_argument, field.args.values()))
        and (depth > 0 or is_leaf_type(_type_of(kind, name)))
    ]
    return f"{{ {' '.join(chosen)} }}"


def inputs(
    items: Mapping[str, Any], prefix: Path = ()
) -> Iterator[tuple[Path, GraphQLNamedType | GraphQLList[Any]]]:
    """Every place in the arguments that takes a scalar, an enum or a list, with its type."""
    for name, item in items.items():
        path: Path = (*prefix, name)
        kind = get_nullable_type(item.type)
        if is_list_type(kind):
            yield path, kind
            path, kind = (*path, 0), get_nullable_type(kind.of_type)
        if is_input_object_type(kind):
            yield from inputs(kind.fields, path)
        else:
            yield path, kind


def replaced(variables: Variables, path: Path, value: Any) -> Variables:
    """The variables with this value at that place."""
    changed: Any = deepcopy(variables)
    if path == ("last",):
        changed.pop("first", None)
    place = changed
    for step, following in pairwise(path):
        inner: Any = [None] if following == 0 else {}
        place = place[step] if isinstance(step, int) else place.setdefault(step, inner)
    place[path[-1]] = value
    return dict(changed)
