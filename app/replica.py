"""Reads lists, statistics and exports from a replica of PostgreSQL, which follows the primary by its log.

Before each read the primary is asked how far its log is, which takes it less than most reads would; the
replica answers once it is as far. So whoever reads sees what was committed before they asked, their own
writes above all, whichever process has written them. Where the replica is behind for too long, or away,
the primary answers.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import String, func, literal_column, select, table
from sqlalchemy.exc import DBAPIError

from app.database import Database, DatabaseUnavailable, Unit, Waits
from app.faults import reason_of, took_too_long
from app.metrics import REPLICA_LAG, REPLICA_READS
from app.statements import Source, Statement

T = TypeVar("T")

MOST_BEHIND_SECONDS = 0.25
"""A read waits so long for the replica to be as far as the primary was."""
LOOK_AGAIN_SECONDS = 0.005
ASK_AGAIN_SECONDS = 1.0
"""Between two looks at a replica that was behind or away."""
CONNECT_SECONDS = 0.5


def _log(position: str, timeline: str, *, is_followed: bool) -> Statement:
    """How far a server's log is, in bytes, and whose it is: of which cluster, database and timeline.

    No row from a replica where the server should be followed, nor the other way round.
    """
    origin = f"concat_ws(' ', system_identifier, oid, ({timeline}))"
    return Statement(
        select(
            literal_column(f"pg_wal_lsn_diff({position}, '0/0')").label("position"),
            literal_column(origin, String()).label("origin"),
        )
        .select_from(func.pg_control_system(), table("pg_database"))
        .where(
            literal_column("datname") == func.current_database(),
            func.pg_is_in_recovery() != literal_column(str(is_followed)),
        )
    )


_WRITTEN = _log(
    # What is acknowledged is flushed, unless that is switched off.
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN pg_current_wal_insert_lsn()"
    " ELSE pg_current_wal_flush_lsn() END",
    "SELECT ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int",
    is_followed=True,
)
_REPLAYED = _log(
    "pg_last_wal_replay_lsn()",
    # What it receives is shown to who may read all statistics; the other is written now and then.
    "SELECT coalesce((SELECT received_tli FROM pg_stat_wal_receiver), min_recovery_end_timeline)"
    " FROM pg_control_recovery()",
    is_followed=False,
)

logger = logging.getLogger("billing.replica")


class _Unfit(Exception):
    """The replica cannot answer yet; the message says what it is."""


@asynccontextmanager
async def following(database: Database, url: str | None, waits: Waits) -> AsyncIterator[None]:
    """Meanwhile the replica at this address, if there is one, is the database's reader.

    It has as long as the primary for a statement, but not for a connection: then that is asked.
    """
    if url is None:
        yield
        return
    async with Database(url, waits=replace(waits, begin=CONNECT_SECONDS)) as replica:
        reader = database.reader = _Replica(database, replica)
        try:
            yield
        finally:
            database.reader = database
            reader.close()


class _Replica:
    """A reader in the place of the primary."""

    def __init__(self, primary: Database, replica: Database) -> None:
        self._primary = primary
        self._replica = replica
        self._returning: asyncio.Task[None] | None = None
        """Waits for a replica that is behind or away: reads of that time do not."""

    def close(self) -> None:
        if self._returning:
            self._returning.cancel()

    async def fetch(self, statement: Statement, values: dict[str, Any]) -> Sequence[Any]:
        return await self._read(lambda source: source.fetch(statement, values))

    async def consult(self, question: Unit[T], *, snapshot: bool = False) -> T:
        return await self._read(lambda source: source.consult(question, snapshot=snapshot))

    async def _read(self, read: Callable[[Database], Awaitable[T]]) -> T:
        if self._returning is None:
            try:
                written = await _WRITTEN.first(self._primary)
                await _wait(written, self._replica)
                answer = await read(self._replica)
            except _Unfit as fault:
                self._leave_alone(str(fault))
            except (DatabaseUnavailable, DBAPIError) as error:
                if took_too_long(error):  # and would again
                    raise
                self._leave_alone(f"away ({reason_of(error)})")
            else:
                REPLICA_READS.labels("replica").inc()
                return answer
        answer = await read(self._primary)
        REPLICA_READS.labels("primary").inc()
        return answer

    def _leave_alone(self, why: str) -> None:
        if self._returning is None:
            logger.warning("The replica is %s: the primary answers.", why)
            REPLICA_LAG.set(math.nan)
            # Not of the request that has found it out.
            self._returning = asyncio.create_task(self._wait_for_it(), context=Context())

    async def _wait_for_it(self) -> None:
        while self._returning:
            await asyncio.sleep(ASK_AGAIN_SECONDS)
            with suppress(Exception):  # whatever it is, it is asked again
                written = await _WRITTEN.first(self._primary)
                await self._replica.ask(partial(_wait, written))
                self._returning = None
        logger.info("The replica answers again.")


async def _wait(written: Any, replica: Source) -> None:
    """Until the replica is as far as the primary was; _Unfit if that takes too long."""
    try:
        async with asyncio.timeout(MOST_BEHIND_SECONDS):
            while True:
                found = await _REPLAYED.first(replica)
                if not (written and found) or found.origin != written.origin:
                    raise _Unfit("none of this primary")
                behind = written.position - found.position
                REPLICA_LAG.set(max(behind, 0))
                if behind <= 0:
                    return
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
    except TimeoutError:
        raise _Unfit("behind") from None
