"""Databases on a Citus cluster, for the tests: BILLING_TEST_CITUS_URL names its coordinator.

The coordinator's own database must know the workers; its user may create databases on each node.
"""

import asyncio
import fcntl
import os
from pathlib import Path

from sqlalchemy import make_url, text

from app.database import Database
from tests.topology import at, text_of

COORDINATOR = os.environ.get("BILLING_TEST_CITUS_URL")


def create_on_nodes(server: str, name: str) -> None:
    """Creates a database on each node of the cluster and joins them."""
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would change the same role
        asyncio.run(_create(server, name))


def drop_on_nodes(server: str, name: str) -> None:
    """Drops it again."""
    asyncio.run(_drop(server, name))


async def _create(server: str, name: str) -> None:
    workers = await _workers(server)
    address = make_url(server)
    join = []
    for worker in workers:
        await execute(worker, f"CREATE DATABASE {name}")
        await execute(at(worker, name), "CREATE EXTENSION citus")
        node = make_url(worker)
        join.append(f"SELECT citus_add_node('{node.host}', {node.port})")
    await execute(
        server,
        f"CREATE DATABASE {name}",
        f"ALTER DATABASE {name} SET citus.shard_count = 4",
        # Tests switch the ledger's triggers off.
        f"ALTER DATABASE {name} SET citus.enable_unsafe_triggers = on",
        f"ALTER DATABASE {name} SET citus.override_table_visibility = off",
    )
    await execute(
        at(server, name),
        "CREATE EXTENSION citus",
        f"SELECT citus_set_coordinator_host('{address.host}', {address.port})",
        *join,
    )


async def _drop(server: str, name: str) -> None:
    for node in (server, *await _workers(server)):
        await execute(node, f"DROP DATABASE {name} WITH (FORCE)")


async def _workers(server: str) -> list[str]:
    async with Database(server) as database, database.read() as connection:
        found = await connection.execute(
            text("SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 ORDER BY nodeid")
        )
        address = make_url(server)
        return [text_of(address.set(host=host, port=port)) for host, port in found]


async def execute(address: str, *statements: str) -> None:
    """Runs statements one after the other, each by itself."""
    async with Database(address) as database, database.read() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)
