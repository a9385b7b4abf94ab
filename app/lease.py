"""Which of all processes leads: the one that holds a lease, which ends by the database's clock.

The lease is a row and no lock of a session: it holds through a pooler, too, where a session is
anybody's, and it outlives a connection that breaks.
"""

import logging
import os
import socket
import uuid
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from sqlalchemy import String, delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import Field, SQLModel

from app.billing.types import NOW, Instant
from app.database import Database, DatabaseUnavailable
from app.metrics import LEADER

LEASE_SECONDS = 15.0
"""How long nobody leads at most, when a leader has died: what it does may wait for minutes."""
RENEW_SECONDS = 5.0
"""Two renewals may fail, and a third take as long as any request, before the leader steps down."""
_LEADER = "leader"

logger = logging.getLogger("billing.lease")


class Lease(SQLModel, table=True):
    """A part that one process at a time plays. It is no mandate's: a cluster's coordinator keeps it."""

    name: str = Field(sa_type=String, primary_key=True)
    holder: str = Field(sa_type=String)
    """For people: host and process. The rest makes it unique: both may come again."""
    until: datetime = Field(sa_type=Instant)


leases = SQLModel.metadata.tables[str(Lease.__tablename__)]
_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Leadership:
    """One process's part in it: leads while its lease lasts, by its own clock as well."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._holder = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4()}"
        self._ends_at = 0.0
        self._led = False

    @property
    def leads(self) -> bool:
        """Another process may believe the same for a moment: what a leader does must bear that."""
        return monotonic() < self._ends_at

    async def seek(self) -> None:
        """Takes the lease if it is free or over, or renews it; DatabaseUnavailable."""
        self._tell()
        # Before the database's clock is read: here the lease ends no later than there.
        asked_at = monotonic()
        try:
            is_taken = await self._database.write(self._take)
            self._ends_at = asked_at + LEASE_SECONDS if is_taken else 0.0
        finally:
            self._tell()

    async def _take(self, connection: AsyncConnection) -> bool:
        now = (await connection.execute(select(NOW))).scalar_one()
        until = now + timedelta(seconds=LEASE_SECONDS)
        upsert = _INSERTS[connection.dialect.name](leases).values(
            name=_LEADER, holder=self._holder, until=until
        )
        taken = await connection.execute(
            upsert.on_conflict_do_update(
                index_elements=["name"],
                set_={"holder": self._holder, "until": until},
                where=or_(
                    leases.c.until <= now,
                    # None ends so late: a clock has gone wrong.
                    leases.c.until > now + timedelta(seconds=2 * LEASE_SECONDS),
                    leases.c.holder == self._holder,
                ),
            ).returning(leases.c.holder)
        )
        return taken.first() is not None

    async def give_up(self) -> None:
        """Leaves it to the next one who looks. Where that fails, it ends by itself."""
        with suppress(DatabaseUnavailable, DBAPIError):
            await self._database.write(self._leave)
        self._ends_at = 0.0
        self._tell()

    async def _leave(self, connection: AsyncConnection) -> None:
        await connection.execute(
            delete(leases).where(leases.c.name == _LEADER, leases.c.holder == self._holder)
        )

    def _tell(self) -> None:
        leads = self.leads
        LEADER.set(leads)
        if leads != self._led:
            self._led = leads
            logger.info("This process leads." if leads else "This process leads no longer.")
