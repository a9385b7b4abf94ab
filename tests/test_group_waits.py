"""Who waits for a group: for how long, for whom, and who leaves before or in its midst."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing import group
from app.billing.group import in_group
from app.billing.ledger import Ledger
from app.billing.models import accounts, transactions
from app.database import PROMPT, Database, Waits, request_begun
from tests.groups import ALICE, codes, commits, post, told
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    PREPAY_USER,
    add_mandate,
    hold,
    read_rows,
    record,
    usage_event,
)

pytestmark = pytest.mark.anyio

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
"""SQLite has one writer, who holds up all the others whatever they write."""


def at_commit(database: Database, work: Callable[[], Any]) -> None:
    """Does this once, as the next transaction is about to be committed."""
    event.listen(database.engine.sync_engine, "commit", lambda _: work(), once=True)


async def test_who_leaves_before_its_turn_is_dropped(database: Database) -> None:
    await add_mandate(database)
    calls = [asyncio.create_task(record(database, usage_event(n))) for n in range(1, 5)]
    await asyncio.sleep(0)
    calls[0].cancel()
    calls[2].cancel()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [told(outcome) for outcome in found] == ["CancelledError", "OK", "CancelledError", "OK"]
    assert [row.amount for row in await read_rows(database, transactions)] == [2, 4]


async def test_who_leaves_a_group_breaks_it_off_for_nobody_else(database: Database) -> None:
    await add_mandate(database)
    calls = [asyncio.create_task(record(database, usage_event(n))) for n in range(1, 4)]
    at_commit(database, calls[0].cancel)
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [told(outcome) for outcome in found] == ["CancelledError", "OK", "OK"]
    assert [row.amount for row in await read_rows(database, transactions)] == [1, 2, 3]


async def test_what_nobody_waits_for_is_broken_off(database: Database) -> None:
    await add_mandate(database)

    def leave(ledger: Ledger) -> Any:
        row = post()(ledger)
        call.cancel()
        return row

    call = asyncio.create_task(in_group(database, MANDATE, ALICE, leave))
    assert await codes(call) == ["CancelledError"]
    await asyncio.gather(*database.under_way, return_exceptions=True)
    assert not await read_rows(database, transactions)
    assert await codes(record(database, usage_event())) == ["OK"]


async def test_the_end_waits_for_what_is_under_way(database_url: str) -> None:
    async with Database(database_url) as database:
        await add_mandate(database)
        calls = [asyncio.create_task(record(database, usage_event(n))) for n in range(1, 3)]
        begun = asyncio.Event()
        at_commit(database, begun.set)
        await begun.wait()
    assert await codes(*calls) == ["OK", "OK"]
    async with Database(database_url) as database:
        assert len(await read_rows(database, transactions)) == 2


async def test_a_queue_is_gone_once_nobody_waits(database: Database) -> None:
    await add_mandate(database)
    await codes(record(database, usage_event()), hold(database, 1, mandate_id="nowhere"))
    assert not group._queues[database]


async def test_whose_time_is_over_waits_no_longer_and_others_go_on(database_url: str) -> None:
    waits = Waits(busy=5, begin=5)
    async with Database(database_url, pool_size=1, waits=waits) as database:
        await add_mandate(database)
        free = asyncio.Event()

        async def occupy(_: AsyncConnection) -> None:
            await free.wait()

        # Beside its pool of one, PostgreSQL has one connection more.
        busy = [asyncio.create_task(database.write(occupy)) for _ in range(2)]
        await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        long_ago = copy_context()
        long_ago.run(request_begun.set, begun - 60)
        early = loop.create_task(record(database, usage_event(2)))
        late = loop.create_task(record(database, usage_event(1)), context=long_ago)
        assert await codes(late) == ["DatabaseUnavailable"]
        assert loop.time() - begun < 2
        free.set()
        assert await codes(early) == ["OK"]
        await asyncio.gather(*busy, return_exceptions=True)
        assert [row.amount for row in await read_rows(database, transactions)] == [2]


@contextmanager
def bounds(monkeypatch: pytest.MonkeyPatch, **values: int) -> Iterator[None]:
    with monkeypatch.context() as patched:
        for name, value in values.items():
            patched.setattr(group, name, value)
        yield


async def test_a_group_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await add_mandate(database)
    with bounds(monkeypatch, MAX_CALLS=4), commits(database) as seen:
        await asyncio.gather(*(record(database, usage_event()) for _ in range(10)))
    assert len(seen) == 3
    with bounds(monkeypatch, MAX_SIZE=9), commits(database) as seen:
        batches = [[usage_event() for _ in range(4)] for _ in range(4)]
        batches.append([usage_event() for _ in range(20)])
        await asyncio.gather(*(record(database, *batch) for batch in batches))
    assert len(seen) == 3
    assert len(await read_rows(database, transactions)) == 46


async def lock(connection: AsyncConnection, mandate_id: str, user_id: str) -> None:
    query = select(accounts.c.id).where(
        accounts.c.mandate_id == mandate_id, accounts.c.user_id == user_id
    )
    await connection.execute(query.with_for_update())


@on_postgresql
async def test_who_waits_for_a_lock_holds_up_no_others(database: Database) -> None:
    users = ("alice", "bob")
    await add_mandate(database, MANDATE, PREPAY_USER, users=users)
    await add_mandate(database, OTHER_MANDATE, PREPAY_USER)
    for user_id in users:
        await record(database, usage_event(user_id=user_id))
    async with database.engine.begin() as connection:
        await lock(connection, MANDATE, "alice")
        stuck = asyncio.create_task(record(database, usage_event()))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(2):
            await record(database, usage_event(mandate_id=OTHER_MANDATE))
            await record(database, usage_event(user_id="bob"))
        assert not stuck.done()
    assert await codes(stuck) == ["OK"]


@on_postgresql
async def test_a_lock_that_is_not_had_is_one_calls_own_failure(
    database: Database, database_url: str
) -> None:
    users = ("alice", "bob")
    await add_mandate(database, MANDATE, PREPAY_USER, users=users)
    for user_id in users:
        await record(database, usage_event(user_id=user_id))
    waits = Waits(busy=1, begin=0.5, lock=0.3)
    async with Database(database_url, waits=waits) as prompt, database.engine.begin() as connection:
        await lock(connection, MANDATE, "alice")
        found = await codes(
            *(record(prompt, usage_event(user_id=user_id)) for user_id in users for _ in range(2))
        )
    assert found == ["DatabaseUnavailable"] * 2 + ["OK"] * 2


@on_postgresql
async def test_who_waits_for_a_connection_and_then_a_lock_is_told_in_time(
    database_url: str,
) -> None:
    async with (
        Database(database_url, waits=PROMPT) as database,
        Database(database_url) as other,
    ):
        await add_mandate(database, MANDATE, PREPAY_USER)
        await record(database, usage_event())
        async with other.engine.begin() as connection:
            await lock(connection, MANDATE, "alice")
            busy = [
                asyncio.create_task(database.write(lambda _: asyncio.sleep(2.4))) for _ in range(20)
            ]
            await asyncio.sleep(0.05)
            begun = time.monotonic()
            found = await codes(*(record(database, usage_event()) for _ in range(2)))
            assert time.monotonic() - begun < 5
            assert set(found) == {"DatabaseUnavailable"}
            await asyncio.gather(*busy)


async def test_a_database_is_closed_when_all_who_wait_are_done(database_url: str) -> None:
    async with Database(database_url) as database:
        await add_mandate(database)
        calls = [asyncio.create_task(record(database, usage_event())) for _ in range(130)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert all(call.done() for call in calls)
    assert not database.under_way
