"""Long exports: complete while others write, no memory, and what becomes of one that ends early."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.types import Message

from app.auth import issue_token
from app.billing.directory import remove_membership, upsert_user
from app.billing.enums import BillingModel
from app.billing.errors import Forbidden, Unauthenticated
from app.billing.transactions import list_transactions
from app.billing.viewer import OPERATOR, load_viewer
from app.config import Settings
from app.database import Database, DatabaseUnavailable
from app.export import ExportKind, open_export
from app.server import create_app
from tests.api import add_people
from tests.exports import TRANSACTIONS, failing_at, read
from tests.large_mandate import fill
from tests.servers import Server, resident, running
from tests.world import (
    MANDATE,
    add_mandate,
    ledger_rows,
    record,
    usage_event,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("field", ["CREATED_AT", "OCCURRED_AT", "AMOUNT"])
@pytest.mark.parametrize("direction", ["ASC", "DESC"])
async def test_what_is_written_meanwhile_is_not_in_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, field: str, direction: str
) -> None:
    """Not a part of it either: a file has no hole in an account's history."""
    monkeypatch.setattr("app.export.MAX_PAGE", 3)
    await add_mandate(database, model=BillingModel.UNLIMITED)
    await record(database, *(usage_event(place) for place in range(11)))
    there = {row.id for row in await ledger_rows(database)}
    asked = [("mandateId", MANDATE), ("orderBy", field), ("direction", direction)]
    file = await open_export(database, OPERATOR, ExportKind.TRANSACTIONS, asked)
    text = ""
    async for chunk in file.chunks():
        text += chunk.decode()
        long_ago = datetime.now(UTC) - timedelta(days=30)
        await record(database, usage_event(0), usage_event(9), usage_event(5, occurred_at=long_ago))
    assert {row["id"] for row in read(text)} == there


@pytest.mark.parametrize("lost", ["account", "membership"])
async def test_who_loses_the_right_loses_the_rest(
    database: Database, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr("app.export.MAX_PAGE", 3)
    await add_people(database, model=BillingModel.UNLIMITED)
    await record(database, *(usage_event(1) for _ in range(11)))
    async with database.read() as connection:
        ada = await load_viewer(connection, "ada")
    asked = [("mandateId", MANDATE)]
    chunks = (await open_export(database, ada, ExportKind.TRANSACTIONS, asked)).chunks()
    for _ in range(3):
        await anext(chunks)
    if lost == "account":
        await upsert_user(database, OPERATOR, "ada", {"enabled": False})
    else:
        await remove_membership(database, OPERATOR, MANDATE, "ada")
    with pytest.raises(Unauthenticated if lost == "account" else Forbidden):
        await anext(chunks)


async def test_downloads_take_turns(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, one page is read at a time."""
    await add_mandate(database, model=BillingModel.UNLIMITED)
    await record(database, *(usage_event(1) for _ in range(5)))
    monkeypatch.setattr("app.export.MAX_PAGE", 2)
    reading, most = 0, 0

    async def note(*arguments: Any, **options: Any) -> Any:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        try:
            return await list_transactions(*arguments, **options)
        finally:
            reading -= 1

    monkeypatch.setattr("app.export.list_transactions", note)

    async def download() -> None:
        asked = [("mandateId", MANDATE)]
        file = await open_export(database, OPERATOR, ExportKind.TRANSACTIONS, asked)
        assert len([chunk async for chunk in file.chunks()]) == 4

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(download())
    assert most == 1


async def ask(
    app: Any, settings: Settings, receive: Callable[[], Awaitable[Message]]
) -> list[Message]:
    """One request, as a server hands it on; what was sent for it."""
    token = issue_token(settings, "root", 60)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "path": TRANSACTIONS,
        "query_string": f"mandateId={MANDATE}".encode(),
        "headers": [(b"authorization", f"Bearer {token}".encode())],
    }
    await app(scope, receive, send)
    return sent


@pytest.fixture
async def app(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """The server on the test's own pools, with pages of 2 rows and 20 rows to read."""
    monkeypatch.setattr("app.export.MAX_PAGE", 2)
    monkeypatch.setattr("app.server.Database", lambda *_, **__: database)
    await add_people(database, model=BillingModel.UNLIMITED)
    await record(database, *(usage_event(1) for _ in range(20)))
    yield create_app(Settings(database_url=database_url))


def taken(database: Database) -> int:
    """Connections that are in use."""
    return sum(database.connections_in_use.values())


async def test_a_client_that_leaves_leaves_nothing_behind(
    app: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, gone = asyncio.Event(), asyncio.Event()
    pages = 0

    async def read_slowly(*arguments: Any, **options: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages == 3:
            async with database.read():
                reading.set()
                await gone.wait()
        return await list_transactions(*arguments, **options)

    async def leave() -> Message:
        await reading.wait()
        return {"type": "http.disconnect"}

    monkeypatch.setattr("app.export.list_transactions", read_slowly)
    before = asyncio.all_tasks()
    sent = await ask(app, Settings(), leave)
    gone.set()
    assert not any(message.get("more_body") is False for message in sent)
    for _ in range(100):
        if asyncio.all_tasks() <= before:
            break
        await asyncio.sleep(0.01)
    assert asyncio.all_tasks() <= before  # what told of the rows above may have ended
    assert (pages, taken(database)) == (3, 0)


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


@pytest.mark.parametrize("failure", [DatabaseUnavailable(), RuntimeError("secret")])
async def test_a_failure_in_the_middle_is_no_whole_answer(
    app: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    monkeypatch.setattr("app.export.list_transactions", failing_at(4, failure))
    sent = await ask(app, Settings(), never)
    assert sent[0]["status"] == 200
    assert [message["more_body"] for message in sent[1:]] == [True] * 4
    assert b"secret" not in b"".join(message["body"] for message in sent[1:])
    [line] = [entry.getMessage() for entry in caplog.records if entry.name == "billing.server"]
    assert line.startswith("the export transactions-acme.csv broke off: ")
    unexpected = [entry for entry in caplog.records if entry.exc_info]
    assert len(unexpected) == isinstance(failure, RuntimeError)


FAIL_LATER = """
import app.export
list_transactions = app.export.list_transactions
pages = 0
async def fail(*arguments, **options):
    global pages
    pages += 1
    if pages == 3:
        raise RuntimeError
    return await list_transactions(*arguments, **options)
app.export.list_transactions = fail
"""


def stream(server: Server, database_url: str) -> Any:
    token = issue_token(Settings(database_url=database_url), "root", 600)
    return httpx.stream(
        "GET",
        f"{server.address}{TRANSACTIONS}?mandateId={MANDATE}",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
    )


async def test_a_client_sees_that_a_file_broke_off(database: Database, database_url: str) -> None:
    await add_people(database)
    await fill(database_url, 3_000)
    lines = 0
    with running(database_url, before=FAIL_LATER) as [server]:
        with (
            pytest.raises(httpx.RemoteProtocolError),
            stream(server, database_url) as response,
        ):
            for chunk in response.iter_raw():
                lines += chunk.count(b"\n")
        assert lines == 1001
        with stream(server, database_url) as response:
            assert response.read().count(b"\n") == 3_001


async def test_a_long_file_takes_no_memory(database: Database, database_url: str) -> None:
    await add_people(database)
    await fill(database_url, 100_000)
    with running(database_url) as [server]:
        for _ in range(30):  # more clients than connections: each leaves after a while
            with stream(server, database_url) as response:
                for _ in zip(range(5), response.iter_raw(), strict=False):
                    pass
        before = highest = resident(server.pid)
        lines = 0
        with stream(server, database_url) as response:
            for chunk in response.iter_raw():
                lines += chunk.count(b"\n")
                highest = max(highest, resident(server.pid))
        assert lines == 100_001
        assert highest - before < 20
        # A client that has stopped reading costs no more than what is on its way.
        with socket.create_connection(("127.0.0.1", int(server.address.rsplit(":", 1)[1]))) as idle:
            token = issue_token(Settings(database_url=database_url), "root", 600)
            idle.sendall(
                f"GET {TRANSACTIONS}?mandateId={MANDATE} HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            await asyncio.sleep(2)
            assert resident(server.pid) - before < 25
