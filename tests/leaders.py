"""Which of several server processes leads, and leases that are short enough to wait for."""

import asyncio
from collections.abc import Sequence

from sqlalchemy import select

from app.billing.types import NOW
from app.database import Database
from app.lease import leases
from tests.servers import Server

BRIEF = """
from app import dispatcher, lease
lease.LEASE_SECONDS, lease.RENEW_SECONDS = 2.0, 0.2
dispatcher.HOUSEKEEPING_SECONDS = dispatcher.OBSERVE_SECONDS = 0.1
"""
"""What a server process runs first, to lead and to be replaced within moments."""


async def leader_among(database: Database, servers: Sequence[Server]) -> Server:
    """The one that leads, once one of them does."""
    query = select(leases.c.holder).where(leases.c.until > NOW)
    by_pid = {server.pid: server for server in servers}
    async with asyncio.timeout(30):
        while True:
            async with database.read() as connection:
                holder = (await connection.execute(query)).scalar()
            if holder and (leader := by_pid.get(int(holder.split()[1]))):
                return leader
            await asyncio.sleep(0.05)
