"""What is left when a server, a connection or a client is gone in the midst: all of a write, or nothing of it.

Sent again under the same key, each is done exactly once.
"""

import asyncio
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, suppress
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.models import (
    BillingModel,
    accounts,
    audit_events,
    daily_usage,
    holds,
    transactions,
)
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
from tests.world import add_mandate, credit, fresh, hold, read_rows

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


@pytest.fixture(scope="module")
def processes(lasting_database_url: str) -> Iterator[list[Server]]:
    with running(lasting_database_url) as processes:
        yield processes


@pytest.fixture
async def servers(processes: list[Server], lasting_database_url: str) -> AsyncIterator[Servers]:
    async with connected(processes, lasting_database_url) as servers:
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
        self._wanted = 0
        self._enough = asyncio.Event()
        self._stopped = False

    async def write_until(self, answers: int, end: Callable[[], None]) -> None:
        """Lets the server end some moments after so many answers."""
        self._wanted = len(self.answered) + answers
        self._enough.clear()
        self._stopped = False
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(self._write())
            await self._enough.wait()
            await asyncio.sleep(random.uniform(0, 0.02))
            end()
            self._stopped = True

    async def _write(self) -> None:
        while not self._stopped:
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
                if len(self.answered) >= self._wanted:
                    self._enough.set()

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


async def test_a_server_that_is_killed_loses_nothing_and_repeats_nothing(database_url: str) -> None:
    async with inhabited(database_url) as database:
        mandates = [await add_rich_mandate(database) for _ in range(2)]
    # Nobody else has SQLite's file open meanwhile: each start finds what a crash has left.
    with running(database_url) as [server]:
        async with connected([server], database_url) as servers:
            writers = Writers(servers, mandates)
            for _ in range(KILLS):
                await writers.write_until(random.randrange(1, 40), server.kill)
                server.start_again()
            assert len(writers.unanswered) >= KILLS
            async with inhabited(database_url) as database:
                await _check_answered(database, writers.answered)
                await _repeat(database, servers, writers.unanswered)
                done = [request for request, _ in writers.answered] + writers.unanswered
                await _check_sums(database, servers, done)
    assert await asyncio.to_thread(verify_by_command, database_url) == ""


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
    payloads = await servers.send(*unanswered, at_once=WRITERS)
    for request, payload in zip(unanswered, payloads, strict=True):
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
    spent: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    held: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for event in events:
        spent[event["mandateId"], event["userId"]] += Decimal(event["amount"])
    for new in made:
        held[new["mandateId"], new["userId"]] += Decimal(new["amount"])
    stored = {row.id: row for row in await read_rows(database, holds)}
    for end in settled:
        row = stored[end["holdId"]]
        assert row.status == "SETTLED"
        spent[row.mandate_id, row.user_id] += Decimal(end["amount"])
        held[row.mandate_id, row.user_id] -= row.amount
    assert len(stored) == len(made)
    usage = await read_rows(database, transactions, reference_type="USAGE")
    assert len(usage) == len(events) + len(settled)
    opened = await read_rows(database, accounts)
    assert {(account.mandate_id, account.user_id): account.debited for account in opened} == spent
    for owner, amount in held.items():
        assert Decimal((await servers.ask(balance_of(*owner)))["held"]) == amount


async def books(database: Database, mandate_id: str) -> list[Any]:
    """All that is written of a mandate."""
    tables = (accounts, transactions, holds, daily_usage, audit_events)
    return [await read_rows(database, table, mandate_id=mandate_id) for table in tables]


KINDS = 7


async def everything(database: Database, mandate_id: str) -> list[Request]:
    """A write of each of the KINDS, all of which lock alice's account."""
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
        AND pid <> pg_backend_pid()
"""
_IN_TRANSACTION = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'
"""


async def backends(connection: AsyncConnection, which: str) -> int:
    return len((await connection.execute(text(which))).all())


async def until_backends(connection: AsyncConnection, which: str, number: int) -> None:
    for _ in range(600):
        found = await backends(connection, which)
        if found == number:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{found} and not {number}")


async def end_backends(connection: AsyncConnection, which: str) -> int:
    return await backends(connection, f"SELECT pg_terminate_backend(pid) FROM ({which}) AS backend")


@on_postgresql
async def test_a_backend_that_ends_in_the_midst_of_a_unit(
    database: Database, servers: Servers
) -> None:
    for _ in range(5):
        acme = await add_rich_mandate(database)
        requests = await everything(database, acme)
        before = await books(database, acme)
        async with database.engine.begin() as locking, database.read() as looking:
            await locking.execute(
                select(accounts).where(accounts.c.mandate_id == acme).with_for_update()
            )
            sent = [asyncio.create_task(servers.post(request)) for request in requests]
            await until_backends(looking, _WAITING, len(requests))
            assert await end_backends(looking, _WAITING) == len(requests)
            answers = await asyncio.gather(*sent)
        assert codes(answers) == [UNAVAILABLE] * len(requests)
        assert await books(database, acme) == before
        await check_done_once(database, servers, acme, requests)


async def check_done_once(
    database: Database, servers: Servers, mandate_id: str, requests: Sequence[Request]
) -> None:
    """Sent again, all of everything() succeed, and each has been done once."""
    times = len(requests) // KINDS
    found = outcomes(await servers.send(*requests))
    assert found["DONE"] + found["RECORDED"] + found["DUPLICATE"] == len(requests)
    balances = {"alice": 10**6 + times * (-2 - 1 + 1 - 1), "bob": 10**6 + times}
    assert await proven(database, mandate_id) == balances
    made = Counter(row.status for row in await read_rows(database, holds, mandate_id=mandate_id))
    assert made == dict.fromkeys(["OPEN", "SETTLED", "RELEASED"], times)


async def post_in_turn(servers: Servers, requests: Sequence[Request]) -> list[httpx.Response]:
    return [await servers.post(request) for request in requests]


@on_postgresql
async def test_backends_that_end_at_any_moment(database: Database, servers: Servers) -> None:
    acme = await add_rich_mandate(database)
    requests = [request for _ in range(20) for request in await everything(database, acme)]
    await database.engine.dispose()  # none of the backends that are ended is this test's own
    async with database.read() as connection:
        sent = [
            asyncio.create_task(post_in_turn(servers, requests[place::16])) for place in range(16)
        ]
        ended = 0
        while not all(task.done() for task in sent):
            ended += await end_backends(connection, _OTHERS)
            await asyncio.sleep(random.uniform(0, 0.1))
    found = {(status, *errors[:1]) for task in sent for status, errors in codes(task.result())}
    assert found == {(200,), (503, "UNAVAILABLE")}
    assert ended > 50
    await check_done_once(database, servers, acme, requests)


@on_postgresql
async def test_no_request_but_one_meets_what_has_ended(
    database: Database, servers: Servers
) -> None:
    acme = await add_rich_mandate(database)
    for _ in range(3):
        await servers.send(*(new_hold(acme) for _ in range(20)))
        await database.engine.dispose()
        async with database.read() as connection:
            assert await end_backends(connection, _OTHERS) > 5
        answers = [await servers.post(new_hold(acme)) for _ in range(10)]
        assert codes(answers) in ([DONE] * 10, [UNAVAILABLE] + [DONE] * 9)


HASTY = "import app.database as d; d.BUSY_SECONDS = 0.05; d.ATTEMPTS = 2"


@on_sqlite
async def test_a_file_that_another_process_writes_to(
    database: Database, lasting_database_url: str
) -> None:
    acme = await add_rich_mandate(database)
    requests = await everything(database, acme)
    before = await books(database, acme)
    path = str(make_url(lasting_database_url).database)
    with running(lasting_database_url, before=HASTY) as hasty:
        async with connected(hasty, lasting_database_url) as servers:
            for _ in range(2):
                with closing(sqlite3.connect(path, isolation_level=None)) as other:
                    other.execute("BEGIN IMMEDIATE")
                    async with asyncio.timeout(20):
                        answers = await asyncio.gather(*map(servers.post, requests))
                    assert codes(answers) == [UNAVAILABLE] * len(requests)
                    assert codes([await servers.post(balance_of(acme, "alice"))]) == [DONE]
                assert await books(database, acme) == before
            await check_done_once(database, servers, acme, requests)


async def leave_early(request: httpx.Request) -> None:
    """Sends a request, or a part of it, and goes before the answer is there, or while it comes."""
    lines = [f"{request.method} {request.url.path} HTTP/1.1".encode()]
    lines += [name + b": " + value for name, value in request.headers.raw]
    whole = b"\r\n".join(lines) + b"\r\n\r\n" + request.content
    sent = whole if random.random() < 0.5 else whole[: random.randrange(len(whole))]
    reader, writer = await asyncio.open_connection(request.url.host, request.url.port)
    try:
        writer.write(sent)
        await writer.drain()
        if random.random() < 0.2:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reader.read(random.randrange(1, 200))
        await asyncio.sleep(random.choice([0, random.uniform(0, 0.05)]))
    finally:
        if random.random() < 0.5:
            writer.transport.abort()  # resets the connection
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_clients_that_leave_take_no_connection_with_them(
    database: Database, servers: Servers
) -> None:
    acme = await add_rich_mandate(database)
    requests = [request for _ in range(25) for request in await everything(database, acme)]
    looks = [balance_of(acme, "alice")] * 25
    turns = asyncio.Semaphore(30)

    async def take_turn(request: Request) -> None:
        async with turns:
            await leave_early(servers.build(request))

    await asyncio.gather(*map(take_turn, random.sample(requests + looks, 200)))
    async with asyncio.timeout(20):
        await servers.send(*requests[::9], *looks[:20])
    if not database.is_sqlite:
        async with database.read() as connection:
            await until_backends(connection, _IN_TRANSACTION, 0)
    await check_done_once(database, servers, acme, requests)
