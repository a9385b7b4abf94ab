"""Servers that are killed while they write: no write is lost, and none is done twice."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.billing.models import accounts, holds, transactions
from app.database import Database
from tests.leaders import BRIEF, leader_among
from tests.servers import (
    CREATE_HOLD,
    RECORD_USAGE,
    SETTLE_HOLD,
    Request,
    Server,
    Servers,
    add_rich_mandate,
    balance_of,
    connected,
    debits,
    inhabited,
    new_hold,
    newest_holds,
    outcomes,
    proven,
    running,
    settlement,
    verify_by_command,
)
from tests.topology import Replica
from tests.world import read_rows

pytestmark = pytest.mark.anyio

KILLS = 20
WRITERS = 8
USERS = ("alice", "bob", "carol")


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
        mandates = [await add_rich_mandate(database, USERS) for _ in range(2)]
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
    assert set(outcomes([payload for _, payload in answered])) <= {"DONE", "RECORDED"}
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


class Holders:
    """Hold, look at the other server, and settle; and go on elsewhere, under the same keys, where no answer comes."""

    def __init__(self, servers: Servers, mandate_id: str) -> None:
        self._servers = servers
        self._mandate_id = mandate_id
        self._is_over = False
        self.answered: list[tuple[Request, Any]] = []
        self.moved = 0
        """How often no answer came."""

    async def hold_until(self, work: Awaitable[None]) -> None:
        """Until this work is done, and each request is answered."""
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(self._hold(USERS[number % len(USERS)], number))
            try:
                await work
            finally:
                self._is_over = True

    async def more(self, answers: int) -> None:
        """Until so many more requests are answered."""
        enough = len(self.answered) + answers
        async with asyncio.timeout(60):
            while len(self.answered) < enough:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def _hold(self, user_id: str, place: int) -> None:
        while not self._is_over:
            await asyncio.sleep(random.uniform(0, 0.1))  # who starts again needs the processor, too
            wanted = new_hold(self._mandate_id, _some(), user_id)
            held, place = await self._ask(wanted, place)
            listed, place = await self._ask(newest_holds(self._mandate_id, user_id), place + 1)
            assert held["hold"]["id"] in [hold["id"] for hold in listed["nodes"]]
            if random.random() < 0.7:
                end = settlement(self._mandate_id, held["hold"]["id"], _some())
                _, place = await self._ask(end, place)

    async def _ask(self, request: Request, place: int) -> tuple[Any, int]:
        """The answer, and who gave it."""
        async with asyncio.timeout(60):
            while True:
                try:
                    payload = await self._servers.ask(request, place)
                except httpx.TransportError:
                    self.moved += 1
                    place += 1
                    await asyncio.sleep(0.01)
                else:
                    if "userErrors" in payload:
                        self.answered.append((request, payload))
                    return payload, place


@dataclass
class Scene:
    """What the steps below are done to."""

    database: Database
    servers: Sequence[Server]
    replica: Replica


async def kill_the_leader(scene: Scene) -> None:
    await _kill(scene, await leader_among(scene.database, scene.servers))


async def kill_the_replica(scene: Scene) -> None:
    await asyncio.to_thread(scene.replica.kill)
    await asyncio.sleep(1)
    await asyncio.to_thread(scene.replica.start)


async def kill_one(scene: Scene) -> None:
    await _kill(scene, random.choice(scene.servers))


async def _kill(scene: Scene, dead: Server) -> None:
    dead.kill()
    [survivor] = [server for server in scene.servers if server is not dead]
    await leader_among(scene.database, [survivor])
    await asyncio.to_thread(dead.start_again)


STEPS: Sequence[Callable[[Scene], Awaitable[None]]] = [
    kill_the_leader,
    kill_the_replica,
    kill_one,
]
"""Each in the midst of the load, which goes on before the next."""


async def test_whoever_is_killed_every_acknowledged_write_is_there_once(
    durable_url: str, replica_url: str, replica: Replica
) -> None:
    async with inhabited(durable_url) as database:
        acme = await add_rich_mandate(database, USERS)
        with running(durable_url, 2, BRIEF, BILLING_READ_DATABASE_URL=replica_url) as servers:
            async with connected(servers, durable_url) as clients:
                scene = Scene(database, servers, replica)
                holders = Holders(clients, acme)

                async def take_all_steps() -> None:
                    for step in STEPS:
                        await holders.more(40)
                        await step(scene)
                        await holders.more(40)

                await holders.hold_until(take_all_steps())
                assert holders.moved >= 2
                await _check_answered(database, holders.answered)
                await _check_sums(database, clients, [request for request, _ in holders.answered])
                await proven(database, acme)
    assert await asyncio.to_thread(verify_by_command, durable_url) == ""
