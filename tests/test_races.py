"""What many clients do at once through two server processes. Each test fails with its lock taken out."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from app.auth import issue_token
from app.billing.models import BillingModel, UserKind, accounts, daily_usage, transactions
from app.config import Settings
from app.database import Database
from tests.world import (
    add_mandate,
    add_user,
    balances,
    change_settings,
    credit,
    fresh,
    ledger_rows,
    read_rows,
)

pytestmark = pytest.mark.anyio

RECORD_USAGE = """
    mutation ($events: [UsageEventInput!]!) {
      recordUsage(input: {events: $events}) {
        results { outcome transaction { id } error { code } }
        userErrors { code }
      }
    }
"""
ADD_CREDIT = """
    mutation ($input: AddCreditInput!) {
      addCredit(input: $input) { transaction { id } userErrors { code } }
    }
"""
UPDATE_SETTINGS = """
    mutation ($input: UpdateBillingSettingsInput!) {
      updateBillingSettings(input: $input) { userErrors { code } }
    }
"""

Request = tuple[str, str, dict[str, Any]]
"""Who asks, the mutation and its variables."""


@pytest.fixture(scope="module")
def addresses(lasting_database_url: str) -> Iterator[list[str]]:
    """Two server processes on one database."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("BILLING_")
    } | {"BILLING_DATABASE_URL": lasting_database_url}
    ports = [free_port() for _ in range(2)]
    servers = [
        subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", str(port)],
            env=environment,
            stdout=subprocess.DEVNULL,  # a line for each request
        )
        for port in ports
    ]
    try:
        for server, port in zip(servers, ports, strict=True):
            wait_for(server, port)
        yield [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(10)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        assert server.poll() is None, "the server did not start"
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, "the server does not listen"
        time.sleep(0.05)


@pytest.fixture
async def database(lasting_database_url: str) -> AsyncIterator[Database]:
    async with Database(lasting_database_url) as database:
        await add_user(database, "gateway", kind=UserKind.SERVICE)
        await add_user(database, "root", is_sys_admin=True)
        yield database


class Servers:
    """Sends requests to both at once, in turn, each on a connection of its own."""

    def __init__(self, clients: Sequence[httpx.AsyncClient], settings: Settings) -> None:
        self._clients = clients
        self._tokens = {name: issue_token(settings, name, 600) for name in ("gateway", "root")}

    async def send(self, *requests: Request) -> list[Any]:
        """The payload of each mutation, in the order given."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._post(self._clients[place % 2], *request))
                for place, request in enumerate(requests)
            ]
        return [task.result() for task in tasks]

    async def _post(
        self, client: httpx.AsyncClient, user_id: str, query: str, variables: dict[str, Any]
    ) -> Any:
        answer = await client.post(
            "/graphql",
            json={"query": query, "variables": variables},
            headers={"Authorization": f"Bearer {self._tokens[user_id]}"},
        )
        body = answer.json()
        assert "errors" not in body, body
        return next(iter(body["data"].values()))


@pytest.fixture
async def servers(addresses: list[str], lasting_database_url: str) -> AsyncIterator[Servers]:
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=addresses[0], timeout=60, limits=limits) as one,
        httpx.AsyncClient(base_url=addresses[1], timeout=60, limits=limits) as other,
    ):
        yield Servers([one, other], Settings(database_url=lasting_database_url))


def debits(mandate_id: str, *users: str, **fields: Any) -> Request:
    """One call with an event of 1 for each of the users."""
    events = [
        {"mandateId": mandate_id, "userId": user, "amount": "1", "idempotencyKey": fresh()} | fields
        for user in users
    ]
    return "gateway", RECORD_USAGE, {"events": events}


def spends(mandate_id: str, *users: str) -> Request:
    return debits(mandate_id, *users, mode="REQUIRE_FUNDS")


def new_credit(mandate_id: str, user_id: str | None = None) -> Request:
    credited = {"mandateId": mandate_id, "userId": user_id, "amount": "1"}
    return "root", ADD_CREDIT, {"input": credited | {"idempotencyKey": fresh()}}


def outcomes(payloads: Sequence[Any]) -> Counter[str]:
    return Counter(
        result["error"]["code"] if result["error"] else result["outcome"]
        for payload in payloads
        for result in payload["results"]
    )


async def proven(database: Database, mandate_id: str) -> dict[str | None, Decimal]:
    """The balances, once they are proven from the history and the roll-up."""
    history: dict[str, list[Any]] = {}
    for row in await ledger_rows(database, mandate_id=mandate_id):
        history.setdefault(row.account_id, []).append(row)
    for account in await read_rows(database, accounts, mandate_id=mandate_id):
        balance, rows = Decimal(0), history.pop(account.id)
        for place, row in enumerate(rows, start=1):
            balance += row.amount if row.transaction_type == "CREDIT" else -row.amount
            assert (row.sequence, row.balance_after) == (place, balance)
        assert (account.sequence, account.balance) == (len(rows), balance)
        days = await read_rows(database, daily_usage, account_id=account.id)
        assert sum(day.transaction_count for day in days) == sum(
            row.reference_type == "USAGE" for row in rows
        )
        assert sum(day.cost for day in days) == account.debited
    assert history == {}
    return await balances(database, mandate_id)


@asynccontextmanager
async def watched(database: Database, mandate_id: str) -> AsyncIterator[None]:
    """Whenever a reader looks meanwhile, an account has moved by exactly the rows of its history."""
    whole = (
        select(accounts.c.sequence, func.count(transactions.c.id))
        .outerjoin_from(
            accounts,
            transactions,
            (transactions.c.mandate_id == accounts.c.mandate_id)
            & (transactions.c.account_id == accounts.c.id),
        )
        .where(accounts.c.mandate_id == mandate_id)
        .group_by(accounts.c.id, accounts.c.sequence)
    )
    done = False

    async def look() -> int:
        looks = 0
        while not done:
            async with database.read() as connection:
                for sequence, rows in await connection.execute(whole):
                    assert sequence == rows
            looks += 1
            await asyncio.sleep(0.005)
        return looks

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        done = True
    assert await task > 1


@pytest.mark.parametrize(
    ("model", "user_id", "funds", "refusal"),
    [
        (BillingModel.PREPAY_USER, "alice", 100, "INSUFFICIENT_FUNDS"),
        (BillingModel.CREDIT_POSTPAY, None, 20, "CREDIT_LIMIT_EXCEEDED"),
    ],
)
async def test_nobody_overspends_by_calling_at_once(
    database: Database,
    servers: Servers,
    model: BillingModel,
    user_id: str | None,
    funds: int,
    refusal: str,
) -> None:
    acme = fresh("acme")
    await add_mandate(
        database, acme, model, default_user_credit=Decimal(0), credit_limit=Decimal(0)
    )
    await credit(database, funds, user_id, mandate_id=acme)
    async with watched(database, acme):
        payloads = await servers.send(*(spends(acme, "alice") for _ in range(2 * funds)))
    assert outcomes(payloads) == {"RECORDED": funds, refusal: funds}
    assert await proven(database, acme) == {user_id: 0}
    assert len(await ledger_rows(database, mandate_id=acme)) == funds + 1


async def test_a_credit_sent_a_hundred_times_at_once_is_one(
    database: Database, servers: Servers
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_MANDATE)
    # Opens the account, and connections: the first transactions must not wait for one.
    await servers.send(*(debits(acme, "alice") for _ in range(30)))
    async with watched(database, acme):
        payloads = await servers.send(*[new_credit(acme)] * 100)
    *_, row = await ledger_rows(database, mandate_id=acme)
    assert [payload["userErrors"] for payload in payloads] == [[]] * 100
    assert {payload["transaction"]["id"] for payload in payloads} == {row.id}
    assert await proven(database, acme) == {None: -29}


async def test_an_event_sent_fifty_times_at_once_is_one(
    database: Database, servers: Servers
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_USER)
    payloads = await servers.send(*[spends(acme, "alice")] * 50)
    assert outcomes(payloads) == {"RECORDED": 1, "DUPLICATE": 49}
    assert len({payload["results"][0]["transaction"]["id"] for payload in payloads}) == 1
    assert await proven(database, acme) == {"alice": 9}


async def test_one_key_for_two_users_at_once_is_one_event(
    database: Database, servers: Servers
) -> None:
    """Their accounts have locks of their own: only the key itself can stop the second."""
    acme, users = fresh("acme"), ["alice", "bob"]
    await add_mandate(database, acme, BillingModel.PREPAY_USER, users=users)
    await servers.send(debits(acme, *users))
    for _ in range(10):
        key = fresh()
        payloads = await servers.send(
            *(debits(acme, user_id, idempotencyKey=key) for user_id in users)
        )
        assert outcomes(payloads) == {"RECORDED": 1, "IDEMPOTENCY_CONFLICT": 1}
    assert sum((await proven(database, acme)).values()) == 8


@pytest.mark.parametrize(
    ("model", "owner", "balance"),
    [(BillingModel.PREPAY_USER, "alice", -30), (BillingModel.PREPAY_MANDATE, None, -40)],
)
async def test_an_account_is_opened_once(
    database: Database, servers: Servers, model: BillingModel, owner: str | None, balance: int
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, model)
    payloads = await servers.send(*(debits(acme, "alice") for _ in range(40)))
    assert outcomes(payloads) == {"RECORDED": 40}
    assert await proven(database, acme) == {owner: balance}
    rows = await ledger_rows(database, mandate_id=acme)
    assert [row.reference_type for row in rows].count("SYSTEM") == (1 if owner else 0)


async def test_a_default_credit_is_spent_once(database: Database, servers: Servers) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_USER)
    payloads = await servers.send(*(spends(acme, "alice") for _ in range(40)))
    assert outcomes(payloads) == {"RECORDED": 10, "INSUFFICIENT_FUNDS": 30}
    assert await proven(database, acme) == {"alice": 0}


async def test_batches_that_name_users_in_opposite_order(
    database: Database, servers: Servers
) -> None:
    acme, users = fresh("acme"), [f"user-{n}" for n in range(8)]
    await add_mandate(database, acme, BillingModel.PREPAY_USER, users=users)
    payloads = await servers.send(
        *(debits(acme, *(users if n % 2 else reversed(users))) for n in range(10))
    )
    assert outcomes(payloads) == {"RECORDED": 80}
    assert await proven(database, acme) == dict.fromkeys(users, 0)


async def test_credits_and_debits_at_once_all_count(database: Database, servers: Servers) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_MANDATE)
    requests = [request for _ in range(40) for request in (new_credit(acme), debits(acme, "alice"))]
    await servers.send(*requests, *(debits(acme, "alice") for _ in range(20)))
    assert await proven(database, acme) == {None: -20}
    assert len(await ledger_rows(database, mandate_id=acme)) == 100


async def test_a_model_never_changes_under_a_credit(database: Database, servers: Servers) -> None:
    """Whichever comes second is refused; both together would leave money where nobody can spend it."""
    mandates = [fresh("acme") for _ in range(20)]
    for mandate_id in mandates:
        await add_mandate(
            database, mandate_id, BillingModel.PREPAY_USER, default_user_credit=Decimal(0)
        )
    changes = [
        (
            "root",
            UPDATE_SETTINGS,
            {"input": {"mandateId": mandate_id, "billingModel": "PREPAY_MANDATE"}},
        )
        for mandate_id in mandates
    ]
    credits_ = [new_credit(mandate_id, "alice") for mandate_id in mandates]
    pairs = [request for pair in zip(changes, credits_, strict=True) for request in pair]
    payloads = await servers.send(*pairs)
    for mandate_id, changed, credited in zip(mandates, payloads[::2], payloads[1::2], strict=True):
        codes = [
            error["code"] for payload in (changed, credited) for error in payload["userErrors"]
        ]
        assert codes in (["BALANCE_NOT_ZERO"], ["BILLING_MODEL_MISMATCH"])
        assert await balances(database, mandate_id) in ({}, {"alice": 1})


async def test_settings_changed_at_once_lose_no_change(
    database: Database, servers: Servers
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme)
    await change_settings(database, acme, notify_on_warning=False)
    change = {"mandateId": acme, "expectedVersion": 1}
    payloads = await servers.send(
        *(
            ("root", UPDATE_SETTINGS, {"input": change | {"defaultUserCredit": str(100 + n)}})
            for n in range(20)
        )
    )
    codes = Counter(error["code"] for payload in payloads for error in payload["userErrors"])
    assert codes == {"VERSION_CONFLICT": 19}


async def test_a_busy_mandate_can_still_be_changed(database: Database, servers: Servers) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_MANDATE)
    done = False

    async def keep_spending() -> None:
        while not done:
            await servers.send(debits(acme, "alice"))

    change = {"mandateId": acme, "warningThresholdPercent": "20"}
    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(keep_spending())
        await asyncio.sleep(1)
        try:
            async with asyncio.timeout(10):
                for _ in range(3):
                    [payload] = await servers.send(("root", UPDATE_SETTINGS, {"input": change}))
                    assert payload["userErrors"] == []
        finally:
            done = True
    await proven(database, acme)
