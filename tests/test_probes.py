"""What an orchestrator asks: whether the process lives, and whether it is ready."""

import asyncio
import socket
import time

import httpx
import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.routing import Route

from app.config import Settings
from app.database import PROMPT, Database
from app.server.probes import Probes
from tests.api import Api, serving, statements

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loop_outlives_sqlite")]

UNREACHABLE = {"status": "unavailable", "reason": "The database cannot be reached."}


async def probe(database_url: str, path: str) -> httpx.Response:
    """The answer of probes on a database on which no server would start."""
    async with Database(database_url, waits=PROMPT) as database:
        probes = Probes(database)
        app = Starlette(routes=[Route("/livez", probes.livez), Route("/readyz", probes.readyz)])
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://billing") as client:
            return await client.get(path)


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_all_is_well(api: Api, path: str) -> None:
    for method in ("GET", "HEAD"):
        answer = await api.client.request(method, path)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert answer.content == (b'{"status":"ok"}' if method == "GET" else b"")
    assert (await api.client.post(path)).status_code == 405


async def test_a_process_lives_without_its_database(api: Api) -> None:
    with statements() as sent:
        assert (await api.client.get("/livez")).status_code == 200
    assert sent == []
    assert (await probe("postgresql://a@127.0.0.1:1/b", "/livez")).status_code == 200


@pytest.mark.parametrize(
    "database_url",
    ["sqlite:////nowhere/at/all.db", "postgresql://nobody:hunter2@127.0.0.1:1/none"],
)
async def test_a_database_that_is_away(database_url: str) -> None:
    answer = await probe(database_url, "/readyz")
    assert (answer.status_code, answer.json()) == (503, UNREACHABLE)


async def test_a_worker_that_starts_while_the_database_is_away() -> None:
    async with serving(Settings(database_url="postgresql://a@127.0.0.1:1/b")) as api:
        assert (await api.client.get("/livez")).status_code == 200
        assert (await api.client.get("/readyz")).json() == UNREACHABLE


async def test_a_database_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begun = time.monotonic()
        answer = await probe(f"postgresql://a@127.0.0.1:{port}/b?ssl=disable", "/readyz")
    assert (answer.status_code, answer.json()) == (503, UNREACHABLE)
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_database_of_another_version(database: Database, api: Api) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    answer = await api.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["reason"] == "The database is not at the revision that this program needs."


async def test_a_blank_database_is_not_ready(blank_database_url: str) -> None:
    answer = await probe(blank_database_url, "/readyz")
    assert answer.status_code == 503
    assert answer.json()["reason"] == "The database is not at the revision that this program needs."


async def test_many_who_ask_are_one_look(api: Api) -> None:
    with statements() as sent:
        await api.client.get("/readyz")
        one = len(sent)
        answers = await asyncio.gather(*(api.client.get("/readyz") for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(sent) == one > 0


async def test_readiness_follows_the_database(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.server.probes._FRESH_SECONDS", 0)
    assert (await api.client.get("/readyz")).status_code == 200
    monkeypatch.setattr("app.server.probes.revision_needed", lambda: "9999")
    assert (await api.client.get("/readyz")).status_code == 503
    monkeypatch.undo()
    await asyncio.sleep(1.1)
    assert (await api.client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_pool_that_is_used_up_is_no_reason(api: Api, database: Database) -> None:
    """Others wait for the same pool everywhere: to send them elsewhere would help nobody."""
    taken = [await database.engine.connect() for _ in range(20)]
    try:
        assert await Probes(database)._what_is_wrong() is None
    finally:
        for connection in taken:
            await connection.close()
