"""Many mandates on one platform, and what is asked of them: spends, batches, dashboards, the hottest mandate."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from graphql import FieldNode, NameNode, SelectionSetNode, Visitor, parse, print_ast, visit
from graphql.language import DocumentNode, FragmentDefinitionNode, OperationDefinitionNode
from sqlalchemy import case, insert, select

from app.billing.credits import add_credit
from app.billing.directory import upsert_mandate, upsert_membership
from app.billing.enums import BillingModel, MembershipRole, ReferenceType
from app.billing.models import accounts, daily_usage, mandates, memberships, transactions, users
from app.billing.roll_up import total_days
from app.billing.settings import update_settings
from app.billing.viewer import OPERATOR
from app.database import Database
from benchmarks.client import Unsound
from benchmarks.load import (
    GATEWAY,
    MANDATE,
    PROVIDERS,
    USERS,
    ZONE,
    Advance,
    load,
    without_indexes,
)
from benchmarks.work import Step, hold_and_settle, record

BATCH = 100
"""Events of one recordUsage."""
POOLED, BY_USER = "hot-pooled", "hot-by-user"
"""The hottest mandate: all its users on one account, and on one each."""
_COPY = "copy-"
_ADMIN = USERS[0]
_PAGE_ROWS = 50
_DASHBOARD = Path(__file__).parent.parent / "dashboard" / "src"
_DOCUMENT = re.compile(r"graphql\(`(.*?)`\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Operation:
    """What is measured: requests that take turns, each of steps that one viewer takes."""

    name: str
    label: str
    asked: Sequence[tuple[str, Sequence[Step]]]
    expected: tuple[bytes, int]
    """What stands how often in the last answer."""
    connections: int
    """Of all processes together."""
    events: int = 1
    """Operations in one unit of requests."""

    def requests(self, tokens: dict[str, str]) -> tuple[tuple[bytes, ...], ...]:
        return tuple(
            tuple(step.asked_of_schema(tokens[viewer]) for step in steps)
            for viewer, steps in self.asked
        )


async def fill(
    database: Database, rows: int, count: int, now: datetime, advance: Advance
) -> list[str]:
    """Fills an empty database with `count` mandates alike, `rows` transactions in all; their ids."""
    await load(database, rows // count, now, advance)
    copies = [f"{_COPY}{place:03}" for place in range(count)]
    for place, mandate_id in enumerate(copies):
        advance("mandates", place, count)
        await upsert_mandate(database, OPERATOR, mandate_id, {"name": "Copy", "time_zone": ZONE})
        await _set_terms(database, mandate_id)
    async with without_indexes(database, advance), database.engine.begin() as connection:
        for table in (users, memberships, accounts, transactions, daily_usage):
            await connection.execute(_copies_of(table))
    for mandate_id in copies:
        roles = {"role": MembershipRole.ADMIN}
        await upsert_membership(database, OPERATOR, mandate_id, user_of(mandate_id, _ADMIN), roles)
    await total_days(database, now)
    await _add_hottest(database)
    async with database.read() as connection:
        await connection.exec_driver_sql("VACUUM (ANALYZE)")
    return copies


def user_of(mandate_id: str, user_id: str) -> str:
    """The user of a copied mandate that this one was copied to."""
    return f"{mandate_id}-{user_id}"


def _copies_of(table: Any) -> Any:
    """Inserts the rows of the first mandate for each of the others; its users become theirs."""
    of_users = table is users
    row_of_user = table.c.id if of_users else table.c.user_id
    renamed = case((row_of_user != "", mandates.c.id + "-" + row_of_user), else_=row_of_user)
    values = {column.name: column for column in table.c} | {
        "id" if of_users else "user_id": renamed
    }
    if of_users:
        is_first = table.c.id.in_(USERS)
    else:
        values["mandate_id"] = mandates.c.id
        is_first = table.c.mandate_id == MANDATE
    every = table.join(mandates, mandates.c.id.startswith(_COPY))
    rows = select(*values.values()).select_from(every).where(is_first)
    return insert(table).from_select(list(values), rows)


async def _set_terms(database: Database, mandate_id: str, **terms: object) -> None:
    terms = {
        "billing_model": BillingModel.PREPAY_USER,
        "default_user_credit": Decimal(1_000_000),
        "block_on_zero_balance": False,
    } | terms
    await update_settings(
        database, OPERATOR, mandate_id, terms, expected_version=0, registered=PROVIDERS
    )


async def _add_hottest(database: Database) -> None:
    for mandate_id, model in (
        (POOLED, BillingModel.PREPAY_MANDATE),
        (BY_USER, BillingModel.PREPAY_USER),
    ):
        await upsert_mandate(database, OPERATOR, mandate_id, {"name": "Hot", "time_zone": ZONE})
        await _set_terms(database, mandate_id, billing_model=model, block_on_zero_balance=True)
        for user_id in USERS:
            await upsert_membership(database, OPERATOR, mandate_id, user_id, {})
    await add_credit(
        database,
        OPERATOR,
        POOLED,
        user_id=None,
        amount=Decimal(1_000_000),
        description="Top-up",
        reference_type=ReferenceType.PAYMENT,
        idempotency_key="top-up",
    )


def operations(copies: Sequence[str], now: datetime) -> list[Operation]:
    """In the order of the table."""
    settled, recorded = (b'"status":"SETTLED"', 1), (b'"outcome":"RECORDED"', BATCH)
    return [
        Operation(
            "spend",
            "a spend: hold and settle",
            [
                (GATEWAY, hold_and_settle(copy, user_of(copy, USERS[place % len(USERS)])))
                for place, copy in enumerate(copies)
            ],
            settled,
            connections=16,
        ),
        Operation(
            "record",
            f"a spend: recordUsage of {BATCH}",
            [
                (GATEWAY, [record(copy, [user_of(copy, user) for user in USERS], BATCH)])
                for copy in copies
            ],
            recorded,
            connections=4,
            events=BATCH,
        ),
        Operation(
            "dashboard",
            "a dashboard",
            [_dashboard(copy, place, now) for place, copy in enumerate(copies)],
            (b'"hasNextPage":', 1),
            connections=8,
        ),
        *(
            Operation(
                mandate_id,
                f"hottest mandate, {accounts_of}",
                [(GATEWAY, hold_and_settle(mandate_id, user_id)) for user_id in USERS],
                settled,
                connections=64,
            )
            for mandate_id, accounts_of in ((POOLED, "one account"), (BY_USER, "an account a user"))
        ),
        Operation(
            "hot-record",
            f"hottest mandate, recordUsage of {BATCH}",
            [(GATEWAY, [record(POOLED, USERS, BATCH)])],
            recorded,
            connections=8,
            events=BATCH,
        ),
    ]


def viewers(copies: Sequence[str]) -> list[str]:
    """All who ask."""
    return [GATEWAY, *(_viewer(copy, place) for place, copy in enumerate(copies))]


def _is_admin(place: int) -> bool:
    return place % 10 == 0


def _viewer(mandate_id: str, place: int) -> str:
    """Who opens the dashboard of this mandate: in one of ten its admin, else a member."""
    return user_of(mandate_id, _ADMIN if _is_admin(place) else USERS[1 + place % 10])


def _dashboard(mandate_id: str, place: int, now: datetime) -> tuple[str, list[Step]]:
    """The queries that the page sends as it is opened, without what it watches then."""
    today = now.astimezone(ZoneInfo(ZONE)).date()
    mandate = {"mandateId": mandate_id}
    asked: dict[str, dict[str, Any]] = {
        "Viewer": {},
        "Mandate": {"id": mandate_id},
        "Balance": mandate | {"userId": None, "isAdmin": _is_admin(place)},
        "OpenHolds": mandate | {"userId": None, "first": _PAGE_ROWS, "after": None},
        "Usage": mandate | _month(today) | {"groupBy": ["PROVIDER"], "filter": None},
        "UsedModels": mandate
        | {"from": str(today - timedelta(730)), "to": str(today + timedelta(1))},
        "Transactions": mandate | {"filter": None, "first": _PAGE_ROWS, "after": None},
    }
    documents = _documents()
    steps = [Step(documents[name], variables, "") for name, variables in asked.items()]
    return _viewer(mandate_id, place), steps


def _month(today: date) -> dict[str, str]:
    first = today.replace(day=1)
    following = (first + timedelta(31)).replace(day=1)
    return {"from": str(first), "to": str(following), "granularity": "DAY"}


def _documents() -> dict[str, str]:
    """The dashboard's own queries by name, as its client sends them: with __typename everywhere."""
    found = [
        parse(written)
        for path in sorted(_DASHBOARD.glob("*.ts*"))
        for written in _DOCUMENT.findall(path.read_text())
    ]
    definitions = [
        visit(definition, _Typenames()) for each in found for definition in each.definitions
    ]
    fragments = [d for d in definitions if isinstance(d, FragmentDefinitionNode)]
    return {
        operation.name.value: print_ast(
            DocumentNode(definitions=(operation, *_spread(operation, fragments)))
        )
        for operation in definitions
        if isinstance(operation, OperationDefinitionNode) and operation.name
    }


def _spread(
    operation: OperationDefinitionNode, fragments: Sequence[FragmentDefinitionNode]
) -> Iterator[FragmentDefinitionNode]:
    """Those it names itself: the dashboard's fragments name no others."""
    text = print_ast(operation)
    return (each for each in fragments if f"...{each.name.value}\n" in text)


class _Typenames(Visitor):
    """What urql adds to each selection but the outermost."""

    def leave_selection_set(
        self, node: SelectionSetNode, _key: object, parent: Any, *_: object
    ) -> SelectionSetNode | None:
        if isinstance(parent, OperationDefinitionNode):
            return None
        typename = FieldNode(name=NameNode(value="__typename"))
        return SelectionSetNode(selections=(*node.selections, typename))


def check_answers(bodies: Sequence[bytes]) -> None:
    """Unsound where one of them tells of an error."""
    for body in bodies:
        if b'"errors":' in body or b'"userErrors":[{' in body:
            raise Unsound(body[:2000].decode(errors="replace"))
