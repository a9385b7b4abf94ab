"""Planned execution answers what the stock executor answers: the same data, the same errors."""

import asyncio
import gc
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from graphql import DocumentNode
from hypothesis import HealthCheck, Phase, given, settings
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from app.billing.accounts import update_account
from app.billing.enums import MembershipRole, PeriodType, UserKind
from app.billing.errors import Forbidden
from app.billing.viewer import OPERATOR, Viewer
from app.database import Database
from schema import schema
from schema.context import Context
from schema.planning import COUNTS, PlannedExecution, asked
from schema.planning.plans import KEPT_COLUMNS, Plans
from schema.validation import parse_document
from tests.api import NO_LIMITS
from tests.generated_operations import Facts, Maker, find_facts, selections
from tests.world import (
    CREDIT_POSTPAY,
    PREPAY_MANDATE,
    PREPAY_USER,
    PROVIDERS,
    add_mandate,
    add_member,
    add_user,
    credit,
    debit,
    expire,
    hold,
    record,
    release,
    reverse,
    settle,
    transfer,
    usage_event,
)

STOCK = StrawberryGraphQLCoreExecutionContext
VIEWERS = (
    Viewer("root", is_sys_admin=True),
    Viewer("root", is_sys_admin=True),
    Viewer("ada", roles=dict.fromkeys(("acme", "globex", "initech"), MembershipRole.ADMIN)),
    Viewer("alice", roles=dict.fromkeys(("acme", "globex"), MembershipRole.MEMBER)),
    Viewer("gateway", is_service=True),
)
MANDATES = {
    "acme": {"model": PREPAY_USER, "default_user_credit": Decimal(3), "notify_emails": ["a@example.com"]},
    "globex": {"model": PREPAY_MANDATE, "allowed_providers": ["openai", "mistral"]},
    "initech": {"model": CREDIT_POSTPAY, "credit_limit": Decimal(500)},
    "umbrella": {},
}
PEOPLE = ("ada", "alice", "bob", "carol")
CURSORS = """query ($id: ID!) {
    transactions(mandateId: $id) { edges { cursor } }
    accounts(mandateId: $id) { edges { cursor } }
    holds(mandateId: $id) { edges { cursor } }
    auditLog(mandateId: $id) { edges { cursor } }
    mandateUsers(mandateId: $id) { edges { cursor } }
}"""


class Watched(PlannedExecution):
    """Notes where a plan was given up."""

    given_up: list[list[str | int]] = []

    def give_up(self, details: Any, path: Any, stock: Callable[[], Any]) -> Any:
        self.given_up.append(path.as_list())
        return super().give_up(details, path, stock)


@contextmanager
def executor(kind: type[Any]) -> Iterator[None]:
    usual = schema.execution_context_class
    schema.execution_context_class = kind
    try:
        yield
    finally:
        schema.execution_context_class = usual


async def run(kind: type[Any], context: Context, text: str, variables: dict[str, Any]) -> Any:
    with executor(kind):
        return await schema.execute(text, variables, context)


def told(result: Any) -> tuple[bytes, list[bytes]]:
    """What a client is told, byte by byte; errors of fields that wait for each other come in any order."""
    errors = [orjson.dumps(error.formatted) for error in result.errors or ()]
    return orjson.dumps(_without_clocks(result.data)), sorted(errors)


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: "now" if name in ("asOf", "checkedAt") else _without_clocks(below)
            for name, below in value.items()
        }
    return [*map(_without_clocks, value)] if isinstance(value, list) else value


def has_rows(value: Any) -> bool:
    """Whether there is anything in an answer: in its lists, where it has some."""
    lists = list(_lists(value))
    return any(lists) if lists else bool(value)


def _lists(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, list):
        yield value
    for below in value.values() if isinstance(value, dict) else ():
        yield from _lists(below)


async def fill(database: Database, dice: random.Random) -> None:
    """Books of mandates of each model, with all that can be in them."""
    await add_user(database, "root", is_sys_admin=True, email="root@example.com")
    await add_user(database, "gateway", kind=UserKind.SERVICE, first_name="Gate", last_name="Way")
    for mandate_id, options in MANDATES.items():
        await add_mandate(database, mandate_id, users=PEOPLE, time_zone="Europe/Zurich", **options)
        limit = {"amount": Decimal(40), "period": PeriodType.MONTH}
        await add_member(database, "bob", mandate_id, spend_limit=limit)
        await add_member(database, "ada", mandate_id, role=MembershipRole.ADMIN)
    await add_user(database, "alice", email="alice@example.com", first_name="Alice")
    for mandate_id, options in MANDATES.items():
        payers = [*PEOPLE[1:]] if mandate_id == "acme" else [None]
        if options:
            for user_id in payers:
                await credit(database, dice.randrange(60, 90), user_id, mandate_id=mandate_id)
                await debit(database, 2, user_id, mandate_id=mandate_id)
        written = await record(database, *(_event(dice, mandate_id) for _ in range(40)))
        for result in dice.sample(written, 4):
            await reverse(database, result.transaction.id, mandate_id=mandate_id)
        if mandate_id == "acme":
            await transfer(database, "1.25", "alice", "bob")
        ids = [
            await hold(
                database,
                dice.randrange(1, 4),
                mandate_id=mandate_id,
                user_id=user_id,
                aicore_provider="openai",
            )
            for user_id in PEOPLE[1:] * 2
        ]
        await settle(database, ids[0], "0.75", mandate_id=mandate_id, aicore_model="gpt-4o")
        await settle(database, ids[1], 0, mandate_id=mandate_id)
        await release(database, ids[2], mandate_id=mandate_id)
        await expire(database, ids[3], mandate_id=mandate_id)


def _event(dice: random.Random, mandate_id: str) -> Any:
    def some(*values: str) -> str | None:
        return dice.choice([*values, None])

    return usage_event(
        dice.choice(["0", "0.000000001", "0.25", "1.5"]),
        mandate_id=mandate_id,
        user_id=dice.choice(PEOPLE),
        occurred_at=datetime.now(UTC) - timedelta(minutes=dice.randrange(34 * 24 * 60)),
        aicore_provider=some("openai", "mistral"),
        aicore_model=some("gpt-4o", "small"),
        feature_code=some("chat", "search"),
        workflow_id=some("w-1", "w-2"),
    )


@dataclass
class Books:
    """A filled database, and what is in it."""

    url: str
    facts: list[Facts]


@pytest.fixture(scope="module")
def books(lasting_database_url: str) -> Books:
    async def filled() -> list[Facts]:
        async with Database(lasting_database_url) as database:
            await fill(database, random.Random(6))
            facts = []
            for mandate_id in MANDATES:
                context = Context(database, PROVIDERS, VIEWERS[0], "r", NO_LIMITS)
                found = await schema.execute(CURSORS, {"id": mandate_id}, context)
                cursors = {
                    name: [edge["cursor"] for edge in page["edges"]]
                    for name, page in found.data.items()
                }
                facts.append(await find_facts(database, mandate_id, PEOPLE, cursors))
            return facts

    return Books(lasting_database_url, asyncio.run(filled()))


@dataclass
class Tally:
    """What came of all generated operations."""

    run: int = 0
    refused: int = 0
    with_rows: int = 0
    planned: int = 0
    with_errors: int = 0
    seen: set[str] = field(default_factory=set)


async def compare(database: Database, viewer: Viewer, maker: Maker, text: str, tally: Tally) -> None:
    """Runs an operation by both executors on fresh contexts; they must tell the same."""
    Watched.given_up.clear()
    taken = COUNTS["taken"]
    answers = []
    for kind in (STOCK, Watched):
        context = Context(database, PROVIDERS, viewer, "r", NO_LIMITS)
        answers.append(await run(kind, context, text, maker.variables))
    stock, planned = answers
    assert told(planned) == told(stock), (viewer.user_id, text, maker.variables)
    for place in Watched.given_up:
        paths = [error.path or [] for error in stock.errors or ()]
        assert any(path[: len(place)] == place for path in paths), ("given up", place, text)
    if any(not error.path for error in stock.errors or ()):
        tally.refused += 1
        return
    tally.run += 1
    tally.with_errors += bool(stock.errors)
    tally.with_rows += any(map(has_rows, (stock.data or {}).values()))
    tally.planned += COUNTS["taken"] > taken
    tally.seen.add(text)


def test_generated_operations_are_answered_as_by_the_stock_executor(books: Books) -> None:
    """Each of what hypothesis selects is asked in several ways, by several viewers."""
    examples, ways = (180, 14) if books.url.startswith("sqlite") else (25, 12)
    tally, dice = Tally(), random.Random(7)
    with asyncio.Runner() as runner:
        database = Database(books.url)
        runner.run(database.__aenter__())

        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(selections())
        def check(document: DocumentNode) -> None:
            for _ in range(ways):
                maker = Maker(dice, dice.choice(books.facts))
                text = maker.operation(document)
                viewer = dice.choice(VIEWERS)
                runner.run(compare(database, viewer, maker, text, tally))

        try:
            check()
        finally:
            runner.run(database.__aexit__(None, None, None))
    assert tally.run >= 0.8 * examples * ways, tally.refused
    assert len(tally.seen) >= 0.7 * tally.run
    assert tally.with_rows >= tally.run / 2
    assert tally.planned >= tally.run / 2
    assert tally.with_errors
