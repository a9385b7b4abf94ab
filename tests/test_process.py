"""How a server ends: it tells so first, goes on serving, and leaves nobody without an answer."""

import asyncio
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import psutil
import pytest
from sqlalchemy import make_url

from tests.conftest import Billing
from tests.servers import Server, add_rich_mandate, connected, inhabited, new_credit, running

pytestmark = pytest.mark.anyio

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
with_workers = pytest.mark.parametrize("workers", [1, 2])


@contextmanager
def draining(database_url: str, workers: int, seconds: float) -> Iterator[Server]:
    options = ("--workers", str(workers), "--drain", str(seconds))
    with running(database_url, 1, None, *options) as [server]:
        wait_for(server, 200)  # the port of several workers is open before they are
        yield server


def ready(server: Server) -> int:
    return httpx.get(f"{server.address}/readyz", timeout=30).status_code


def wait_for(server: Server, status: int) -> None:
    deadline = time.monotonic() + 30
    while ready(server) != status:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@on_sqlite
@with_workers
def test_a_server_that_ends_says_so_and_serves_meanwhile(database_url: str, workers: int) -> None:
    with draining(database_url, workers, 3) as server:
        begun = time.monotonic()
        assert "Connection" not in httpx.get(f"{server.address}/readyz").headers
        server.signal(signal.SIGTERM)
        wait_for(server, 503)
        assert time.monotonic() - begun < 2
        answers = [httpx.get(f"{server.address}/readyz") for _ in range(10)]
        assert [answer.status_code for answer in answers] == [503] * 10
        assert answers[0].json() == {"status": "unavailable", "reason": "The process is ending."}
        assert httpx.get(f"{server.address}/livez").status_code == 200
        asked = httpx.post(f"{server.address}/graphql", json={"query": "{ __typename }"})
        assert asked.json()["data"] == {"__typename": "Query"}
        assert asked.headers["Connection"] == "close"
        assert server.exit_code() == 0
        assert time.monotonic() - begun > 3


@on_sqlite
@pytest.mark.parametrize(
    ("workers", "signals"),
    [
        (1, [signal.SIGINT]),
        (1, [signal.SIGTERM, signal.SIGTERM]),
        (1, [signal.SIGTERM, signal.SIGINT]),
        (2, [signal.SIGINT]),
        (2, [signal.SIGTERM, signal.SIGTERM]),
    ],
)
def test_the_wait_is_cut_short(
    database_url: str, workers: int, signals: list[signal.Signals]
) -> None:
    with draining(database_url, workers, 60) as server:
        first, *others = signals
        server.signal(first)
        for number in others:
            wait_for(server, 503)
            time.sleep(0.6)  # sooner it might be the same, told twice
            server.signal(number)
        begun = time.monotonic()
        assert server.exit_code() == 0
        assert time.monotonic() - begun < 20


@on_sqlite
def test_a_signal_to_the_group_is_one(database_url: str) -> None:
    with draining(database_url, 2, 3) as server:
        begun = time.monotonic()
        for worker in psutil.Process(server.pid).children():
            worker.terminate()
        wait_for(server, 503)
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert time.monotonic() - begun > 3


@on_sqlite
@with_workers
def test_sigterm_never_cuts_a_request(database_url: str, workers: int) -> None:
    with draining(database_url, workers, 0) as server:
        url = httpx.URL(server.address)
        body = b'{"query": "{ __typename }"}'
        with socket.create_connection((url.host, url.port or 0)) as client:
            client.sendall(
                b"POST /graphql HTTP/1.1\r\nHost: billing\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body)
            )
            time.sleep(0.2)
            for _ in range(3):
                server.signal(signal.SIGTERM)
                time.sleep(0.7)
            client.sendall(body)
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert server.exit_code() == 0


@on_sqlite
def test_a_busy_worker_hears_both_of_two_signals(database_url: str) -> None:
    with draining(database_url, 2, 60) as server:
        workers = psutil.Process(server.pid).children()
        for worker in workers:
            worker.suspend()
        for _ in range(2):
            server.signal(signal.SIGTERM)
            time.sleep(0.2)
        begun = time.monotonic()
        for worker in workers:
            worker.resume()
        assert server.exit_code() == 0
        assert time.monotonic() - begun < 20


@on_sqlite
@with_workers
async def test_a_request_under_way_is_answered_in_full(database_url: str, workers: int) -> None:
    async with inhabited(database_url) as database:
        acme = await add_rich_mandate(database)
    with draining(database_url, workers, 0) as server:
        async with connected([server], database_url) as servers:
            with closing(sqlite3.connect(str(make_url(database_url).database))) as other:
                other.isolation_level = None
                other.execute("BEGIN IMMEDIATE")
                asked = asyncio.create_task(servers.post(new_credit(acme, "alice")))
                await asyncio.sleep(0.5)
                assert not asked.done()
                server.signal(signal.SIGTERM)
                await until_refused(server)
                assert not asked.done()
            answer = await asked
        assert answer.status_code == 200
        assert answer.json()["data"]["addCredit"]["transaction"]["id"]
        assert await asyncio.to_thread(server.exit_code) == 0


@on_sqlite
def test_what_is_not_done_by_the_deadline_is_told_so(database_url: str) -> None:
    brief = "from app import process; process._DEADLINE_SECONDS = 1"
    with running(database_url, 1, brief, "--drain", "0") as [server]:
        url = httpx.URL(server.address)
        with socket.create_connection((url.host, url.port or 0)) as client:
            client.sendall(
                b"POST /graphql HTTP/1.1\r\nHost: billing\r\nX-Request-Id: abc\r\n"
                b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
            time.sleep(0.5)
            server.signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"UNAVAILABLE" in answer
        assert b"x-request-id: abc" in answer.lower()
        assert b"retry-after: 2" in answer.lower()
        assert server.exit_code() == 0


async def until_refused(server: Server) -> None:
    """No connection is taken any more."""
    url = httpx.URL(server.address)
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection(url.host, url.port)
        except ConnectionRefusedError:
            return
        writer.close()
        await asyncio.sleep(0.01)
    raise AssertionError("it goes on listening")


def test_no_start_on_a_database_that_says_nothing(
    command: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        address = f"postgresql://billing:hunter2@127.0.0.1:{port}/billing?ssl=disable"
        monkeypatch.setenv("BILLING_DATABASE_URL", address)
        begun = time.monotonic()
        assert command("serve") == (
            1,
            "",
            "billing: The database cannot be reached: no connection in time\n",
        )
        assert time.monotonic() - begun < 5
