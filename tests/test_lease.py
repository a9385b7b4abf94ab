"""One of several processes leads: whoever dies is replaced when its lease is over, whoever ends at once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from app import dispatcher, lease
from app.billing import outbox
from app.billing.enums import HoldStatus
from app.billing.models import daily_totals, holds
from app.config import Settings
from app.database import Database, DatabaseUnavailable
from app.dispatcher import dispatching
from app.lease import Leadership, leases
from tests.leaders import BRIEF, leader_among
from tests.outbox import WEBHOOK, put, waiting
from tests.servers import add_rich_mandate, inhabited, running
from tests.world import (
    GATEWAY,
    MANDATE,
    PREPAY_USER,
    add_mandate,
    expire,
    hold,
    read_rows,
    record,
    usage_event,
)

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


@pytest.fixture
async def other(database: Database, database_url: str) -> AsyncIterator[Database]:
    """Another process's way to the same database."""
    async with Database(database_url) as other:
        yield other


async def let_it_end(database: Database) -> None:
    """As if the time of whoever has the lease had passed."""
    async with database.engine.begin() as connection:
        await connection.execute(update(leases).values(until=datetime.now(UTC) - HOUR))


async def test_one_of_two_leads(database: Database, other: Database) -> None:
    first, second = Leadership(database), Leadership(other)
    assert not first.leads
    for _ in range(2):
        await first.seek()
        await second.seek()
        assert (first.leads, second.leads) == (True, False)
    [row] = await read_rows(database, leases)
    assert row.name == "leader"


async def test_a_lease_that_ends_too_late_is_none(database: Database) -> None:
    """The database's clock has gone wrong for a while, when somebody took it."""
    await Leadership(database).seek()
    async with database.engine.begin() as connection:
        await connection.execute(update(leases).values(until=datetime.now(UTC) + HOUR))
    heir = Leadership(database)
    await heir.seek()
    assert heir.leads


async def test_a_lease_lasts_while_it_is_renewed(
    database: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1)
    first, second = Leadership(database), Leadership(other)
    for _ in range(8):
        await first.seek()
        await second.seek()
        assert (first.leads, second.leads) == (True, False)
        await asyncio.sleep(0.2)


async def test_a_dead_leader_is_replaced(
    database: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.5)
    dead, heir = Leadership(database), Leadership(other)
    await dead.seek()
    await heir.seek()
    assert not heir.leads
    while not heir.leads:
        await heir.seek()
    assert not dead.leads
    await dead.seek()  # it was not dead after all
    assert not dead.leads


async def test_a_leader_that_ends_is_replaced_at_once(
    database: Database,
    other: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tidied: list[Database] = []

    async def expire_holds(of: Database) -> int:
        tidied.append(of)
        return 0

    async def until(who: Database) -> None:
        tidied.clear()
        async with asyncio.timeout(10):
            while tidied.count(who) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert set(tidied) == {who}

    caplog.set_level("INFO", "billing.lease")
    monkeypatch.setattr(dispatcher, "expire_holds", expire_holds)
    monkeypatch.setattr(dispatcher, "HOUSEKEEPING_SECONDS", 0.01)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3600)
    async with AsyncExitStack() as ends_later:
        async with dispatching(Settings(), database):
            await until(database)
            await ends_later.enter_async_context(dispatching(Settings(), other))
            await until(database)
        await until(other)
    assert [record.getMessage() for record in caplog.records] == [
        "This process leads.",
        "This process leads no longer.",
    ] * 2
    assert await read_rows(database, leases) == []


async def test_no_more_than_one_of_many_takes_it(database: Database, database_url: str) -> None:
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(Database(database_url)) for _ in range(8)]
        for _ in range(5):  # free at first, then over
            processes = [Leadership(other) for other in others]
            await asyncio.gather(*(process.seek() for process in processes))
            assert [process.leads for process in processes].count(True) == 1
            await let_it_end(database)


@pytest.mark.parametrize("skew", [-HOUR, HOUR])
async def test_clocks_of_processes_do_not_matter(
    database: Database, other: Database, monkeypatch: pytest.MonkeyPatch, skew: timedelta
) -> None:
    class Skewed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + skew

    @contextmanager
    def on_another_machine() -> Iterator[None]:
        with monkeypatch.context() as there:
            there.setattr(lease, "datetime", Skewed)
            there.setattr(lease, "monotonic", lambda: monotonic() + skew.total_seconds())
            yield

    here, there = Leadership(database), Leadership(other)
    await here.seek()
    with on_another_machine():
        await there.seek()
        assert not there.leads
    await let_it_end(database)
    with on_another_machine():
        await there.seek()
        assert there.leads
    here = Leadership(database)
    await here.seek()
    assert not here.leads


async def test_who_cannot_renew_steps_down_in_time(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(*_: Any) -> Any:
        raise DatabaseUnavailable

    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.5)
    leader = Leadership(database)
    await leader.seek()
    monkeypatch.setattr(database, "write", away)
    with pytest.raises(DatabaseUnavailable):
        await leader.seek()
    assert leader.leads
    caplog.set_level("INFO", "billing.lease")
    await asyncio.sleep(0.5)
    assert not leader.leads
    with pytest.raises(DatabaseUnavailable):
        await leader.seek()
    assert [record.getMessage() for record in caplog.records] == ["This process leads no longer."]
    await leader.give_up()


async def test_an_answer_that_was_long_on_its_way_is_worth_less(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = database.write

    async def slow(unit: Any) -> Any:
        taken = await write(unit)
        await asyncio.sleep(0.5)
        return taken

    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(database, "write", slow)
    leader = Leadership(database)
    await leader.seek()
    assert not leader.leads


async def test_nobody_gives_up_what_another_one_has(database: Database, other: Database) -> None:
    late, leader = Leadership(database), Leadership(other)
    await late.seek()
    await let_it_end(database)
    await leader.seek()
    assert (late.leads, leader.leads) == (True, True)  # for a moment
    await late.give_up()
    await Leadership(database).seek()
    [row] = await read_rows(database, leases)
    assert row.holder == leader._holder


async def test_two_leaders_at_once_do_all_once(database: Database, other: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, default_user_credit=100)
    await record(database, usage_event(5, occurred_at=datetime.now(UTC) - timedelta(days=3)))
    overdue = [await hold(database, viewer=GATEWAY) for _ in range(20)]
    await expire(database, *overdue)
    for _ in range(20):
        await put(database, WEBHOOK, age=outbox.MAX_WEBHOOK_AGE * 2)
    first, second = Leadership(database), Leadership(other)
    await first.seek()
    await let_it_end(database)
    await second.seek()
    assert (first.leads, second.leads) == (True, True)
    await asyncio.gather(
        dispatcher._tidy(Settings(), database, first), dispatcher._tidy(Settings(), other, second)
    )
    rows = await read_rows(database, holds, mandate_id=MANDATE)
    assert {row.status for row in rows} == {HoldStatus.EXPIRED}
    assert [row.cost for row in await read_rows(database, daily_totals)] == [5]
    assert await waiting(database) == []


async def test_a_killed_server_is_replaced(database_url: str, tmp_path: Path) -> None:
    def led(server: Any) -> float:
        lines = httpx.get(f"{server.address}/metrics").text.splitlines()
        [line] = [line for line in lines if line.startswith("billing_leader ")]
        return float(line.split()[1])

    output = tmp_path / "log"
    async with inhabited(database_url) as database:
        acme = await add_rich_mandate(database)
        with running(database_url, 2, BRIEF, output=output, BILLING_METRICS="on") as servers:
            leader = await leader_among(database, servers)
            [heir] = [server for server in servers if server is not leader]
            assert (led(leader), led(heir)) == (1, 0)
            leader.kill()
            assert await leader_among(database, [heir]) is heir
            overdue = await hold(database, mandate_id=acme)
            await expire(database, overdue, mandate_id=acme)
            async with asyncio.timeout(30):
                while not await is_tidied(database, acme):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert led(heir) == 1
    assert output.read_text().count("This process leads.") == 2


async def is_tidied(database: Database, mandate_id: str) -> bool:
    """Whether the rows say what is so already."""
    rows = await read_rows(database, holds, mandate_id=mandate_id)
    return {row.status for row in rows} == {HoldStatus.EXPIRED}
