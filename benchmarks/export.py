"""What the export of a million transactions takes, on SQLite and PostgreSQL: `python -m benchmarks.export`."""

import asyncio
import sys
import tempfile
import time

import httpx

from app.auth import issue_token
from app.config import Settings
from app.database import Database
from app.migrate import migrate
from benchmarks.server import running_server
from tests.large_mandate import fill
from tests.servers import resident, running
from tests.world import MANDATE, add_user

ROWS = 1_000_000


async def prepare(address: str, rows: int) -> None:
    """Fills an empty database."""
    async with Database(address) as database:
        await migrate(database)
        await add_user(database, "root", is_sys_admin=True)
    await fill(address, rows)


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


async def main(rows: int) -> None:
    """Prints what it takes on each database."""
    with tempfile.TemporaryDirectory() as directory:
        print("SQLite:     ", end="", flush=True)
        address = f"sqlite:///{directory}/billing.db"
        await prepare(address, rows)
        await asyncio.to_thread(measure, address)
    async with running_server() as server:
        print("PostgreSQL: ", end="", flush=True)
        address = await server.create("billing")
        await prepare(address, rows)
        await asyncio.to_thread(measure, address)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS))
