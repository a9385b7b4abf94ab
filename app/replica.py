"""Reads lists, statistics and exports from a replica of PostgreSQL, which follows the primary by its log.

Before each read the primary is asked how far its log is, which takes it less than most reads would; the
replica answers once it is as far. So whoever reads sees what was committed before they asked, their own
writes above all, whichever process has written them. Where the replica is behind for too long, or away,
the primary answers.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import column, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import Database, DatabaseUnavailable, Ready, Unit, Waits
from app.faults import took_too_long
from app.metrics import REPLICA_LAG, REPLICA_READS
from app.statements import Statement

T = TypeVar("T")

MOST_BEHIND_SECONDS = 0.25
"""A read waits so long for the replica to be as far as the primary was."""
LOOK_AGAIN_SECONDS = 0.005
ASK_AGAIN_SECONDS = 1.0
"""Between two looks at a replica that was behind or away."""
CONNECT_SECONDS = 0.5

# What is acknowledged is flushed; what others have only inserted may take its time.
_FLUSHED = Statement(
    select(
        func.pg_wal_lsn_diff(func.pg_current_wal_flush_lsn(), text("'0/0'")).label("position"),
        column("system_identifier"),
    ).select_from(func.pg_control_system())
)
_REPLAYED = """
    SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), system_identifier
    FROM pg_control_system() WHERE pg_is_in_recovery()
"""

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
        return await self._read(lambda source, ready: source.fetch(statement, values, ready))

    async def consult(self, question: Unit[T], *, snapshot: bool = False) -> T:
        return await self._read(
            lambda source, ready: source.consult(question, snapshot=snapshot, ready=ready)
        )

    async def _read(self, read: Callable[[Database, Ready | None], Awaitable[T]]) -> T:
        if self._returning is None:
            ready = await self._once_as_far()
            try:
                answer = await read(self._replica, ready)
            except _Unfit as fault:
                self._leave_alone(str(fault))
            except DatabaseUnavailable as error:
                if took_too_long(error.__cause__):  # and would again
                    raise
                self._leave_alone("away")
            else:
                REPLICA_READS.labels("replica").inc()
                return answer
        REPLICA_READS.labels("primary").inc()
        return await read(self._primary, None)

    async def _once_as_far(self) -> Ready:
        """What waits, on a connection to the replica, until that is as far as the primary is now."""
        [(position, system)] = await self._primary.fetch(_FLUSHED, {})
        end = time.monotonic() + MOST_BEHIND_SECONDS

        async def is_as_far(driver: Any) -> bool:
            found = await driver.fetchrow(_REPLAYED)
            if found is None or found["system_identifier"] != system:
                raise _Unfit("none of this primary")
            behind = position - found["pg_wal_lsn_diff"]
            REPLICA_LAG.set(max(behind, 0))
            return bool(behind <= 0)

        async def ready(driver: Any) -> None:
            try:
                async with asyncio.timeout(max(end - time.monotonic(), 0)):
                    while not await is_as_far(driver):  # noqa: ASYNC110  (another server's log)
                        await asyncio.sleep(LOOK_AGAIN_SECONDS)
            except TimeoutError:
                raise _Unfit("behind") from None
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                raise DatabaseUnavailable from error

        return ready

    def _leave_alone(self, why: str) -> None:
        if self._returning is None:
            logger.warning("The replica is %s: the primary answers.", why)
            self._returning = asyncio.create_task(self._wait_for_it())

    async def _wait_for_it(self) -> None:
        is_back = False
        while not is_back:
            await asyncio.sleep(ASK_AGAIN_SECONDS)
            with suppress(Exception):  # whatever it is, it is asked again
                is_back = await self._is_back()
        logger.info("The replica answers again.")
        self._returning = None

    async def _is_back(self) -> bool:
        ready = await self._once_as_far()

        async def question(connection: AsyncConnection) -> bool:
            await ready((await connection.get_raw_connection()).driver_connection)
            return True

        return await self._replica.ask(question)
