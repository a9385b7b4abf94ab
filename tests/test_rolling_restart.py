"""Servers that are restarted one after the other under load: whatever one has accepted is answered."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from itertools import cycle
from typing import Any

import httpx
import pytest

from app.billing.enums import HoldStatus
from app.billing.models import holds, transactions
from app.config import Settings
from tests.servers import (
    Request,
    Server,
    Servers,
    add_rich_mandate,
    inhabited,
    new_hold,
    proven,
    running,
    settlement,
    verify_by_command,
)
from tests.world import read_rows

pytestmark = pytest.mark.anyio

DRAIN_SECONDS = 2.0
"""Many times LOOK_SECONDS, on a busy machine, too."""
LOOK_SECONDS = 0.1
ON_THE_WAY_SECONDS = 0.2
"""Of each request, from the connection it goes on: a server must not close that meanwhile."""
ROUNDS = 2
CALLERS = 8
USERS = ("alice", "bob", "carol")


class LoadBalancer:
    """Sends requests to the servers in turn, but to none that is not ready.

    It sends one again only where no connection was made: nobody can have begun with it.
    """

    def __init__(self, servers: Sequence[Server], clients: Servers) -> None:
        self._servers = servers
        self._clients = clients
        self._ready = dict.fromkeys(range(len(servers)), True)
        self._turns = cycle(range(len(servers)))
        self.answers: Counter[int] = Counter()
        """By server."""
        self.lost: list[str] = []
        """What became of requests that were accepted and not answered."""

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Asks every server again and again whether it is ready, meanwhile."""
        tasks = [asyncio.create_task(self._look(place)) for place in self._ready]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, place: int) -> None:
        # A connection for each look: one that is kept would be that of one worker.
        limits = httpx.Limits(max_keepalive_connections=0)
        address = self._servers[place].address
        async with httpx.AsyncClient(base_url=address, timeout=5, limits=limits) as client:
            while True:
                try:
                    self._ready[place] = (await client.get("/readyz")).status_code == 200
                except httpx.TransportError:
                    self._ready[place] = False
                await asyncio.sleep(LOOK_SECONDS)

    async def until_ready(self) -> None:
        """Until all of them are."""
        async with asyncio.timeout(60):
            while not all(self._ready.values()):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)

    async def ask(self, request: Request) -> Any:
        """The answer, of whoever gives one; None where it is lost."""
        while True:
            place = next(self._turns)
            if not self._ready[place]:
                await asyncio.sleep(LOOK_SECONDS / 10)
                continue
            try:
                answer = await self._clients.post(request, place)
            except httpx.ConnectError:
                self._ready[place] = False
            except httpx.TransportError as error:
                self.lost.append(f"{type(error).__name__} of server {place}")
                return None
            else:
                self.answers[place] += 1
                if answer.status_code != 503:  # told to come again, under the same key
                    return next(iter(answer.json()["data"].values()))


async def delay(request: httpx.Request) -> None:
    """A network that takes its time, once there is a connection."""

    async def trace(event: str, _: Any) -> None:
        if event == "http11.send_request_headers.started":
            await asyncio.sleep(ON_THE_WAY_SECONDS)

    request.extensions = request.extensions | {"trace": trace}


@asynccontextmanager
async def balancing(servers: Sequence[Server], database_url: str) -> AsyncIterator[LoadBalancer]:
    """With connections that are kept, as those of load balancers are, but for less long than by servers."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=server.address,
                    timeout=60,
                    limits=limits,
                    event_hooks={"request": [delay]},
                )
            )
            for server in servers
        ]
        yield LoadBalancer(servers, Servers(clients, Settings(database_url=database_url)))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_rolling_restart_loses_nothing(database_url: str) -> None:
    made: list[Any] = []
    settled: list[Any] = []
    is_over = False

    async def call(balancer: LoadBalancer, mandate_id: str, user_id: str) -> None:
        while not is_over:
            if held := await balancer.ask(new_hold(mandate_id, 2, user_id)):
                made.append(held["hold"])
                if done := await balancer.ask(settlement(mandate_id, held["hold"]["id"])):
                    settled.append(done["transaction"])

    async with inhabited(database_url) as database:
        acme = await add_rich_mandate(database, USERS)
        drain = ("--drain", str(DRAIN_SECONDS))
        with ExitStack() as stack:
            servers = [
                *stack.enter_context(running(database_url, 1, None, *drain)),
                *stack.enter_context(running(database_url, 1, None, *drain, "--workers", "2")),
            ]
            async with (
                balancing(servers, database_url) as balancer,
                asyncio.TaskGroup() as group,
                balancer.looking(),
            ):
                await balancer.until_ready()
                for number in range(CALLERS):
                    group.create_task(call(balancer, acme, USERS[number % len(USERS)]))
                for server in servers * ROUNDS:
                    before = balancer.answers.copy()
                    server.signal(signal.SIGTERM)
                    assert await asyncio.to_thread(server.exit_code) == 0
                    await asyncio.to_thread(server.start_again)
                    await balancer.until_ready()
                    while len(balancer.answers - before) < 2:  # noqa: ASYNC110
                        await asyncio.sleep(LOOK_SECONDS)
                is_over = True
        assert balancer.lost == []
        stored = {row.id: row for row in await read_rows(database, holds, mandate_id=acme)}
        assert {held["id"] for held in made} == stored.keys()
        assert {row.status for row in stored.values()} == {HoldStatus.SETTLED}
        booked = await read_rows(database, transactions, mandate_id=acme, reference_type="USAGE")
        assert len(settled) == len(made)
        assert {row["id"] for row in settled} == {str(row.id) for row in booked}
        await proven(database, acme)
    assert await asyncio.to_thread(verify_by_command, database_url) == ""
