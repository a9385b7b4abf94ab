"""What is left when a connection or a client is gone in the midst: all of a write, or nothing of it.

Sent again under the same key, each is done exactly once.
"""

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.models import accounts, audit_events, daily_usage, holds, transactions
from app.database import Database
from tests.servers import (
    Request,
    Server,
    Servers,
    add_rich_mandate,
    balance_of,
    connected,
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
)
from tests.world import credit, hold, read_rows

pytestmark = pytest.mark.anyio

on_postgresql = pytest.mark.parametrize("lasting_database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("lasting_database_url", ["sqlite"], indirect=True)


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
            sent = asyncio.gather(*(servers.post(request) for request in requests))
            while not sent.done():  # the gateway's share a backend, and the next one the rest
                await end_backends(looking, _WAITING)
                await asyncio.sleep(0.02)
            answers = await sent
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


@on_postgresql
async def test_backends_that_end_at_any_moment(database: Database, servers: Servers) -> None:
    acme = await add_rich_mandate(database)
    requests = [request for _ in range(15) for request in await everything(database, acme)]
    await database.engine.dispose()  # none of the backends that are ended is this test's own
    answers: list[httpx.Response] = []
    turn = asyncio.Lock()

    async def post_in_turn(requests: Sequence[Request], ending: AsyncConnection) -> None:
        for request in requests:
            answers.append(await servers.post(request))
            if len(answers) % 25 == 0:
                async with turn:
                    await end_backends(ending, _OTHERS)

    async with database.read() as connection, asyncio.TaskGroup() as group:
        for place in range(16):
            group.create_task(post_in_turn(requests[place::16], connection))
    found = {(status, *errors) for status, errors in codes(answers)}
    assert found == {(200,), (503, "UNAVAILABLE")}
    # Those at once may each meet a connection that has ended since it was last used; then none.
    await asyncio.gather(*(servers.post(request) for request in requests))
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


HASTY = "import app.database as d; d.PROMPT = d.Waits(busy=0.1, begin=0.2)"


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
                    async with asyncio.timeout(30):
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
            with suppress(TimeoutError, ConnectionError):
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
    await servers.ask(looks[0])
    async with asyncio.timeout(30):
        await servers.send(*requests[::9], *looks[:20])
    if not database.is_sqlite:
        async with database.read() as connection:
            await until_backends(connection, _IN_TRANSACTION, 0)
    await check_done_once(database, servers, acme, requests)
