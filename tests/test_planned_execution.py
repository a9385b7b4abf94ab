"""Planned execution answers what the stock executor answers: the same data, the same errors."""

import asyncio
import gc
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, ClassVar

import orjson
import pytest
from graphql import DocumentNode
from hypothesis import HealthCheck, Phase, given, settings
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from app.billing.directory import mandates_by_id
from app.billing.enums import MembershipRole, PeriodType, UserKind
from app.billing.errors import Forbidden
from app.billing.viewer import Viewer
from app.database import Database
from schema import schema
from schema.context import Context
from schema.planning import COUNTS, KEPT_COLUMNS, Asked, PlannedExecution, Plans, asked
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
MANDATES: dict[str, dict[str, Any]] = {
    "acme": {
        "model": PREPAY_USER,
        "default_user_credit": Decimal(3),
        "notify_emails": ["a@example.com"],
    },
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

    given_up: ClassVar[list[list[str | int]]] = []

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
                found: Any = await schema.execute(CURSORS, {"id": mandate_id}, context)
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


async def compare(
    database: Database, viewer: Viewer, maker: Maker, text: str, tally: Tally
) -> None:
    """Runs an operation by both executors on fresh contexts; they must tell the same."""
    Watched.given_up.clear()
    taken = COUNTS["taken"]
    with pytest.MonkeyPatch.context() as patch:  # to read every column, and nothing beforehand
        patch.setattr("schema.transaction_page.asked", lambda *_: Asked(frozenset(), False))
        context = Context(database, PROVIDERS, viewer, "r", NO_LIMITS)
        stock = await run(STOCK, context, text, maker.variables)
    known = {mandate.id: mandate for mandate in await mandates_by_id(database, list(viewer.roles))}
    context = Context(database, PROVIDERS, replace(viewer, mandates=known), "r", NO_LIMITS)
    planned = await run(Watched, context, text, maker.variables)
    assert told(planned) == told(stock), (viewer.user_id, text, maker.variables)
    assert all(error.extensions["code"] != "INTERNAL" for error in stock.errors or ())
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
    examples, ways = (106, 20) if books.url.startswith("sqlite") else (25, 12)
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
    assert tally.run >= 0.95 * examples * ways, tally.refused
    assert len(tally.seen) >= 0.7 * tally.run
    assert tally.with_rows >= tally.run / 2
    assert tally.planned >= tally.run / 2
    assert tally.with_errors


# What the generated operations do not come upon -------------------------------------------------

PAGE = """query Page($more: Boolean = false, $less: Boolean = false, $first: Int) {
    transactions(mandateId: "acme", first: $first) {
        nodes {
            id amount transactionType
            user @include(if: $more) { displayName }
            mandate @skip(if: $less) { name }
        }
    }
}"""


@pytest.fixture
async def acme(database: Database) -> Database:
    """Three transactions of alice and bob in "acme"."""
    await add_user(database, "root", is_sys_admin=True)
    await add_mandate(database, "acme", PREPAY_USER, users=("alice", "bob"))
    for user_id in ("alice", "bob", "alice"):
        await credit(database, 5, user_id, mandate_id="acme")
    return database


def context_of(database: Database) -> Context:
    return Context(database, PROVIDERS, VIEWERS[0], "r", NO_LIMITS)


async def both(
    database: Database,
    text: str,
    prepare: Callable[[Context], Any] = lambda _: None,
    viewer: Viewer = VIEWERS[0],
) -> Any:
    """The answer of both executors, which must be the same."""
    answers = []
    for kind in (STOCK, Watched):
        context = Context(database, PROVIDERS, viewer, "r", NO_LIMITS)
        prepare(context)
        answers.append(await run(kind, context, text, {}))
    assert told(answers[0]) == told(answers[1])
    return answers[1]


@pytest.fixture(autouse=True)
def forget_documents() -> None:
    parse_document.cache_clear()
    Watched.given_up.clear()


sqlite_alone = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.anyio
@sqlite_alone
async def test_a_loader_that_refuses_a_key_is_an_error_of_each_of_its_rows(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(context: Context) -> None:
        context.load.user.prime("alice", Forbidden("Not hers."))

    monkeypatch.setattr("schema.transaction_page.asked", lambda *_: Asked(frozenset(), False))
    page = '{ transactions(mandateId: "acme") { nodes { id user { id } } edges { node { user { id } } } } }'
    answer = await both(acme, page, refuse)
    assert [node["user"] for node in answer.data["transactions"]["nodes"]].count(None) > 1
    assert {error.message for error in answer.errors} == {"Not hers."}
    assert ["transactions", "nodes"] in Watched.given_up


@pytest.mark.anyio
@sqlite_alone
async def test_what_the_stock_executor_finds_wrong_in_a_row_is_an_error_of_that_row(
    acme: Database,
) -> None:
    await add_mandate(acme, "globex", PREPAY_MANDATE, users=("alice", "bob"))
    text = '{ mandates { nodes { name balance(userId: "bob") { held } id } } }'
    answer = await both(acme, text, viewer=VIEWERS[3])
    assert [error.path for error in answer.errors] == [
        ["mandates", "nodes", place, "balance"] for place in (0, 1)
    ]
    assert [list(node) for node in answer.data["mandates"]["nodes"]] == [
        ["name", "balance", "id"]
    ] * 2
    assert Watched.given_up == []


@pytest.mark.anyio
@sqlite_alone
async def test_what_the_stock_executor_cannot_leave_null_is_its_error(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Any, keys: list[Any]) -> list[Any]:
        return [Forbidden("Not then."), *[Decimal(1)] * (len(keys) - 1)]

    monkeypatch.setattr("schema.loaders.balances_at", fail)
    at = '"2026-01-01T00:00:00Z"'
    text = f'{{ accounts(mandateId: "acme") {{ nodes {{ id balanceAt(at: {at}) }} }} }}'
    answer = await both(acme, text)
    assert (answer.data, len(answer.errors)) == ({"accounts": None}, 1)


@pytest.mark.anyio
@sqlite_alone
async def test_a_batch_that_fails_is_an_error_and_is_asked_for_once(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    async def fail(_: Any, keys: list[Any]) -> list[Any]:
        batches.append(keys)
        raise Forbidden("No mandates today.")

    monkeypatch.setattr("schema.loaders.mandates_by_id", fail)
    answer = await both(acme, '{ transactions(mandateId: "acme") { nodes { mandate { id } } } }')
    assert answer.data == {"transactions": None}
    assert answer.errors[0].path == ["transactions", "nodes", 0, "mandate"]
    assert batches == [["acme"], ["acme"]]  # one of each executor


@pytest.mark.anyio
@sqlite_alone
@pytest.mark.parametrize(
    ("selection", "value"),
    [
        ("amount", None),
        ("amount", "12"),
        ("amount", float("nan")),
        ("sequence", 2**31),
        ("sequence", 1.5),
        ("description", None),
        ("description", b"bytes"),
        ("transactionType", "NEITHER"),
        ("createdAt", "yesterday"),
        ("featureCode", Forbidden("Hidden.")),
        ("featureCode", object()),
        ("id", None),
        ("account { id }", None),
    ],
)
async def test_a_value_that_cannot_be_written_is_the_stock_error(
    acme: Database, monkeypatch: pytest.MonkeyPatch, selection: str, value: Any
) -> None:
    @dataclass
    class Row:
        id: Any = "1"
        mandate_id: str = "acme"
        account_id: Any = "2"
        amount: Any = Decimal(1)
        sequence: Any = 1
        description: Any = "text"
        transaction_type: Any = "DEBIT"
        created_at: Any = datetime(2026, 1, 1, tzinfo=UTC)
        feature_code: Any = None

    names = {
        "transactionType": "transaction_type",
        "createdAt": "created_at",
        "featureCode": "feature_code",
        "account { id }": "account_id",
    }

    async def list_rows(*_: Any, **__: Any) -> Any:
        odd = Row(**{names.get(selection, selection): value})
        return SimpleNamespace(users={}, nodes=[Row(), odd, Row()])

    monkeypatch.setattr("app.billing.transactions.list_transactions", list_rows)
    text = f'{{ transactions(mandateId: "acme") {{ nodes {{ description {selection} }} }} }}'
    answer = await both(
        acme, text, lambda context: context.load.account.prime(("acme", "2"), Row())
    )
    assert answer.errors
    assert Watched.given_up


@pytest.mark.anyio
@sqlite_alone
async def test_what_the_stock_executor_writes_of_another_type_is_written_alike(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Text(str):
        pass

    @dataclass
    class Row:
        id: Any
        sequence: Any
        feature_code: Any

    async def list_rows(*_: Any, **__: Any) -> Any:
        rows = [Row("1", 1, None), Row(7, True, Text("x")), Row(Text("y"), 3.0, 12)]
        return SimpleNamespace(users={}, nodes=rows)

    monkeypatch.setattr("app.billing.transactions.list_transactions", list_rows)
    text = '{ transactions(mandateId: "acme") { nodes { id sequence featureCode } } }'
    answer = await both(acme, text)
    assert answer.data["transactions"]["nodes"][1] == {"id": "7", "sequence": 1, "featureCode": "x"}
    assert Watched.given_up[-1] == ["transactions", "nodes"]


@pytest.mark.anyio
@sqlite_alone
async def test_a_plan_is_made_once_for_a_document(acme: Database) -> None:
    async def made(text: str, **variables: Any) -> int:
        before = COUNTS["made"]
        answer = await run(PlannedExecution, context_of(acme), text, variables)
        assert answer.errors is None
        return COUNTS["made"] - before

    assert await made(PAGE) > 0
    assert await made(PAGE) == await made(PAGE, first=2) == 0
    assert await made(PAGE, more=True) > 0
    assert await made(PAGE, more=True) == await made(PAGE, more=False) == 0


@pytest.mark.anyio
@sqlite_alone
async def test_each_choice_of_what_is_selected_has_its_own_plan(acme: Database) -> None:
    for more, less in [(False, False), (True, False), (True, True), (False, True)] * 2:
        variables = {"more": more, "less": less}
        answer = await run(PlannedExecution, context_of(acme), PAGE, variables)
        for node in answer.data["transactions"]["nodes"]:
            assert ("user" in node, "mandate" in node) == (more, not less)


@pytest.mark.anyio
@sqlite_alone
async def test_operations_of_one_document_share_fragments_and_no_plans(acme: Database) -> None:
    text = """
        query A($a: Boolean!, $x: Boolean!) { ...F ... @include(if: $a) { __typename } }
        query B($x: Boolean!, $z: Boolean!) { ...F ... @include(if: $z) { __typename } }
        fragment F on Query {
            transactions(mandateId: "acme") { nodes { id sequence @include(if: $x) } }
        }
    """
    for name, variables in (("A", {"a": True, "x": False}), ("B", {"x": True, "z": False})):
        with executor(PlannedExecution):
            answer: Any = await schema.execute(
                text, variables, context_of(acme), operation_name=name
            )
        for node in answer.data["transactions"]["nodes"]:
            assert ("sequence" in node) == variables["x"]


@pytest.mark.anyio
@sqlite_alone
async def test_plans_are_bounded_and_end_with_their_document(acme: Database) -> None:
    names = [f"v{place}" for place in range(12)]
    fields = " ".join(f"{name}: amount @include(if: ${name})" for name in names)
    head = ", ".join(f"${name}: Boolean!" for name in names)
    text = f'query ({head}) {{ transactions(mandateId: "acme") {{ nodes {{ id {fields} }} }} }}'
    for number in range(400):
        chosen = {name: bool(number >> place & 1) for place, name in enumerate(names)}
        answer = await run(PlannedExecution, context_of(acme), text, chosen)
        assert answer.errors is None
    [operation] = parse_document(text).definitions
    plans = Plans.of(operation)  # type: ignore[arg-type]
    assert 0 < plans.columns <= 2 * KEPT_COLUMNS
    ended = weakref.ref(plans)
    del plans, operation, answer
    parse_document.cache_clear()
    gc.collect()
    assert ended() is None


@pytest.mark.anyio
@sqlite_alone
async def test_what_is_asked_of_rows_can_be_told(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    async def note(info: Any, *_: Any) -> None:
        found.append(asked(info, "nodes", "edges.node"))

    monkeypatch.setattr("schema.transactions.transaction_page", note)
    for selection, attributes, are_all in (
        ("nodes { id }", {"id"}, True),
        ("totalCount", set(), True),
        (
            "nodes { a: id ...F } edges { cursor node { amount } }",
            {"id", "amount", "user_id"},
            True,
        ),
        (
            "nodes { account { id } hold { id } }",
            {"mandate_id", "account_id", "hold_id"},
            True,
        ),
        ("nodes { id @skip(if: true) __typename sequence }", {"sequence"}, True),
        ("nodes { balanceBefore mandate { id } }", {"mandate_id"}, False),
        ("nodes { counterpart { id } }", set(), False),
    ):
        text = f'{{ transactions(mandateId: "acme") {{ {selection} }} }}'
        text += " fragment F on Transaction { user { id } }" if "...F" in selection else ""
        answer = await run(PlannedExecution, context_of(acme), text, {})
        assert answer.errors is None
        assert found.pop() == (frozenset(attributes), are_all), selection
