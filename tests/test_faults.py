"""What is left when a server, a connection or a client is gone in the midst: all of a write, or nothing of it.

Sent again under the same key, each is done exactly once.
"""

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, suppress
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url, select, text

from app.billing.models import BillingModel, accounts, holds, transactions
from app.database import Database
from tests.servers import (
    CREATE_HOLD,
    RECORD_USAGE,
    SETTLE_HOLD,
    Request,
    Server,
    Servers,
    balance_of,
    connected,
    debits,
    inhabited,
    new_credit,
    new_hold,
    new_transfer,
    outcomes,
    proven,
    release_of,
    reversal,
    running,
    settlement,
    spends,
    verify_by_command,
)
from tests.world import add_mandate, credit, dump, fresh, hold, ledger_rows, read_rows

pytestmark = pytest.mark.anyio

on_postgresql = pytest.mark.parametrize("lasting_database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("lasting_database_url", ["sqlite"], indirect=True)

KILLS = 20
WRITERS = 8
USERS = ("alice", "bob", "carol")


@pytest.fixture
async def database(lasting_database_url: str) -> AsyncIterator[Database]:
    async with inhabited(lasting_database_url) as database:
        yield database


@pytest.fixture
def server(lasting_database_url: str) -> Iterator[Server]:
    with running(lasting_database_url) as [server]:
        yield server


@pytest.fixture
async def servers(server: Server, lasting_database_url: str) -> AsyncIterator[Servers]:
    async with connected([server], lasting_database_url) as servers:
        yield servers


async def add_rich_mandate(database: Database, users: Sequence[str] = USERS) -> str:
    mandate_id = fresh("acme")
    await add_mandate(
        database,
        mandate_id,
        BillingModel.PREPAY_USER,
        users=users,
        default_user_credit=Decimal(1_000_000),
    )
    return mandate_id


class Writers:
    """Write without a pause, and remember what was answered and what was not."""

    def __init__(self, servers: Servers, mandates: Sequence[str]) -> None:
        self._servers = servers
        self._mandates = mandates
        self._unsettled: list[dict[str, Any]] = []
        self.answered: list[tuple[Request, Any]] = []
        self.unanswered: list[Request] = []
        self.stopped = False

    async def write(self) -> None:
        while not self.stopped:
            request = self._next()
            try:
                payload = await self._servers.ask(request)
            except httpx.TransportError:
                self.unanswered.append(request)
            else:
                self.answered.append((request, payload))
                if request[1] == CREATE_HOLD:
                    made = request[2]["input"] | {"holdId": payload["hold"]["id"]}
                    self._unsettled.append(made)

    def _next(self) -> Request:
        kind = random.random()
        if kind < 0.3 and self._unsettled:
            made = self._unsettled.pop(random.randrange(len(self._unsettled)))
            return settlement(made["mandateId"], made["holdId"], _some())
        if kind < 0.6:
            return new_hold(random.choice(self._mandates), _some(), random.choice(USERS))
        batches = [
            debits(mandate_id, user_id, amount=_some())
            for mandate_id in self._mandates
            for user_id in random.sample(USERS, 2)
        ]
        events = [event for batch in batches for event in batch[2]["input"]["events"]]
        return "gateway", RECORD_USAGE, {"input": {"events": events}}


def _some() -> str:
    """An amount of its own, so that no two sums of different writes are the same."""
    return f"0.{random.randrange(10**8, 10**9)}"


def _inputs(requests: Sequence[Request], document: str) -> list[Any]:
    found = [variables["input"] for _, sent, variables in requests if sent == document]
    return (
        [event for batch in found for event in batch["events"]]
        if document == RECORD_USAGE
        else found
    )


async def _keys(database: Database) -> set[str]:
    """What has been written: the keys of events and holds, the ids of settled holds."""
    async with database.read() as connection:
        found = set()
        for column in (
            transactions.c.idempotency_key,
            transactions.c.hold_id,
            holds.c.idempotency_key,
        ):
            found |= set((await connection.execute(select(column))).scalars())
    return found


async def test_a_server_that_is_killed_loses_nothing_and_repeats_nothing(
    lasting_database_url: str,
) -> None:
    async with inhabited(lasting_database_url) as database:
        mandates = [await add_rich_mandate(database) for _ in range(2)]
    # Nobody else has SQLite's file open meanwhile: each start finds what a crash has left.
    with running(lasting_database_url) as [server]:
        async with connected([server], lasting_database_url) as servers:
            writers = Writers(servers, mandates)
            for _ in range(KILLS):
                writers.stopped = False
                async with asyncio.TaskGroup() as group:
                    for _ in range(WRITERS):
                        group.create_task(writers.write())
                    await asyncio.sleep(random.uniform(0.1, 0.4))
                    writers.stopped = True
                    server.kill()
                server.start_again()
            assert len(writers.unanswered) >= KILLS
            async with inhabited(lasting_database_url) as database:
                await _check_answered(database, writers.answered)
                await _repeat(database, servers, writers.unanswered)
                await _check_sums(
                    database,
                    servers,
                    [request for request, _ in writers.answered] + writers.unanswered,
                )
    assert await asyncio.to_thread(verify_by_command, lasting_database_url) == ""


async def _check_answered(database: Database, answered: Sequence[tuple[Request, Any]]) -> None:
    """Every one of them was granted, and is there."""
    made: set[str] = set()
    for _, payload in answered:
        made |= {payload[name]["id"] for name in ("hold", "transaction") if name in payload}
        made |= {result["transaction"]["id"] for result in payload.get("results", ())}
    assert set(outcomes([payload for _, payload in answered])) == {"DONE", "RECORDED"}
    async with database.read() as connection:
        for table in (transactions, holds):
            made -= set((await connection.execute(select(table.c.id))).scalars())
    assert made == set()


async def _repeat(database: Database, servers: Servers, unanswered: Sequence[Request]) -> None:
    """What was written before is the first result now; what was not is written."""
    before = await _keys(database)
    for request in unanswered:
        payload = await servers.ask(request)
        for event, result in zip(
            _inputs([request], RECORD_USAGE), payload.get("results", ()), strict=True
        ):
            is_known = event["idempotencyKey"] in before
            assert result["outcome"] == ("DUPLICATE" if is_known else "RECORDED")
        assert payload["userErrors"] == []


async def _check_sums(database: Database, servers: Servers, requests: Sequence[Request]) -> None:
    """Each request was done once."""
    events, made, settled = (
        _inputs(requests, document) for document in (RECORD_USAGE, CREATE_HOLD, SETTLE_HOLD)
    )
    stored = {row.id: row for row in await read_rows(database, holds)}
    of_key = {row.idempotency_key: row for row in stored.values()}
    assert len(stored) == len(made)
    debited: Counter[tuple[str, str]] = Counter()
    held: Counter[tuple[str, str]] = Counter()
    for event in events:
        debited[event["mandateId"], event["userId"]] += Decimal(event["amount"])
    for new in made:
        assert of_key[new["idempotencyKey"]].amount == Decimal(new["amount"])
        held[new["mandateId"], new["userId"]] += Decimal(new["amount"])
    for end in settled:
        row = stored[end["holdId"]]
        assert row.status == "SETTLED"
        debited[row.mandate_id, row.user_id] += Decimal(end["amount"])
        held[row.mandate_id, row.user_id] -= row.amount
    assert {
        (row.mandate_id, row.user_id): row.debited for row in await read_rows(database, accounts)
    } == debited
    rows = await ledger_rows(database, reference_type="USAGE")
    assert len(rows) == len(events) + len(settled)
    for owner, amount in held.items():
        assert Decimal((await servers.ask(balance_of(*owner)))["held"]) == amount


async def everything(database: Database, mandate_id: str) -> list[Request]:
    """One request of each kind that locks alice's account."""
    ids = [await hold(database, mandate_id=mandate_id) for _ in range(2)]
    row = await credit(database, 1, "alice", mandate_id=mandate_id)
    return [
        new_hold(mandate_id),
        settlement(mandate_id, ids[0], 2),
        release_of(mandate_id, ids[1]),
        spends(mandate_id, "alice"),
        new_credit(mandate_id, "alice"),
        reversal(mandate_id, row.id),
        new_transfer(mandate_id, "alice", "bob"),
    ]


def codes(answers: Sequence[httpx.Response]) -> list[tuple[int, list[str]]]:
    """Their status, and of each top-level error the code."""
    return [
        (
            answer.status_code,
            [error["extensions"]["code"] for error in answer.json().get("errors", ())],
        )
        for answer in answers
    ]


UNAVAILABLE = (503, ["UNAVAILABLE"])
DONE: tuple[int, list[str]] = (200, [])

_WAITING = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
_OTHERS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
        AND pid <> ALL (:mine)
"""


async def end_backends(database: Database, which: str, **values: Any) -> int:
    async with database.read() as connection:
        ended = await connection.execute(
            text(f"SELECT pg_terminate_backend(pid) FROM ({which}) AS backend"), values
        )
        return len(ended.all())


async def backend(connection: Any) -> int:
    return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())


async def until_waiting(database: Database, number: int) -> None:
    """So many backends wait for a lock."""
    async with asyncio.timeout(30), database.read() as connection:
        while len((await connection.execute(text(_WAITING))).all()) < number:
            await asyncio.sleep(0.02)


@on_postgresql
async def test_a_backend_that_ends_in_the_midst_of_a_unit(
    database: Database, servers: Servers, lasting_database_url: str
) -> None:
    for _ in range(5):
        acme = await add_rich_mandate(database)
        requests = await everything(database, acme)
        before = await dump(database)
        async with database.engine.begin() as connection:
            await connection.execute(
                select(accounts).where(accounts.c.mandate_id == acme).with_for_update()
            )
            sent = [asyncio.create_task(servers.post(request)) for request in requests]
            await until_waiting(database, len(requests))
            assert await end_backends(database, _WAITING) == len(requests)
            answers = await asyncio.gather(*sent)
        assert codes(answers) == [UNAVAILABLE] * len(requests)
        assert await dump(database) == before
        payloads = await servers.send(*requests)
        assert outcomes(payloads) == {"DONE": len(requests) - 1, "RECORDED": 1}
        balances = await proven(database, acme)
        assert await servers.send(*requests) == payloads
        assert (
            await proven(database, acme)
            == balances
            == {"alice": 10**6 - 2 - 1 + 1 - 1, "bob": 10**6 + 1}
        )
    assert await asyncio.to_thread(verify_by_command, lasting_database_url) == ""
