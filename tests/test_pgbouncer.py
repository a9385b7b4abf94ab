"""Through PgBouncer in transaction mode: no statement, setting or lock outlives its transaction."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.locked import read_held
from app.billing.settings import lock_settings
from app.database import PROMPT, Database, Waits
from tests.conftest import Billing
from tests.topology import Topology, pgbouncer
from tests.world import MANDATE, PREPAY_USER, add_mandate, balances, outcomes, record, spend

pytestmark = pytest.mark.anyio

TIMEOUTS = text(
    "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),"
    " current_setting('idle_in_transaction_session_timeout')"
)


@pytest.fixture(scope="module")
def bouncer(postgresql_server: str) -> Iterator[Topology]:
    with pgbouncer(postgresql_server) as address:
        yield Topology(address)


@pytest.fixture
def bounced_url(bouncer: Topology, postgresql_migrated: str, postgresql_emptied: str) -> str:
    return bouncer.front(postgresql_migrated)


@pytest.fixture
async def database(bounced_url: str, postgresql_migrated: str) -> AsyncIterator[Database]:
    async with Database(bounced_url, waits=PROMPT, direct_url=postgresql_migrated) as database:
        yield database


async def ask_timeouts(connection: AsyncConnection) -> tuple[str, ...]:
    return tuple((await connection.execute(TIMEOUTS)).one())


async def test_timeouts_hold_in_every_transaction_and_not_beyond(
    database: Database, bounced_url: str, postgresql_migrated: str
) -> None:
    wanted = ("30s", "1500ms", "10s")
    for _ in range(3):
        assert await database.consult(ask_timeouts) == wanted
        assert await database.consult(ask_timeouts, snapshot=True) == wanted
        assert await database.write(ask_timeouts) == wanted
    async with Database(
        bounced_url, direct_url=postgresql_migrated
    ) as patient:  # on the same sessions of the server
        assert await patient.consult(ask_timeouts) == ("0", "0", "0")


async def test_a_lock_is_not_waited_for_for_ever(
    database: Database, bounced_url: str, postgresql_migrated: str
) -> None:
    async def lock(connection: AsyncConnection) -> None:
        await connection.execute(text("LOCK TABLE mandate IN ACCESS EXCLUSIVE MODE"))

    hasty = Waits(busy=1, begin=0.1, lock=0.2)
    async with (
        Database(bounced_url, waits=hasty, direct_url=postgresql_migrated) as other,
        database.engine.begin() as connection,
    ):
        await lock(connection)
        with pytest.raises(DBAPIError, match="lock timeout"):
            async with asyncio.timeout(10), other.engine.begin() as waiting:
                await lock(waiting)


async def test_nothing_is_kept_prepared(database: Database) -> None:
    """What is would be in the way of another process that gets the same session of the server."""

    async def unit(connection: AsyncConnection) -> list[Any]:
        found = await connection.execute(text("SELECT name FROM pg_prepared_statements"))
        await read_held(connection, MANDATE, [])
        await lock_settings(connection, MANDATE, change=False)
        return list(found)

    await add_mandate(database)
    for ask in (database.write, database.consult):
        assert await asyncio.gather(*(ask(unit) for _ in range(30))) == [[]] * 30


async def test_spends_at_once_stay_within_the_funds(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, default_user_credit=Decimal(10))
    results = await asyncio.gather(*(record(database, spend(1)) for _ in range(30)))
    assert Counter(outcomes(result)[0] for result in results) == {
        "RECORDED": 10,
        "INSUFFICIENT_FUNDS": 20,
    }
    assert await balances(database) == {"alice": 0}


def test_commands_go_past_it(
    command: Billing, monkeypatch: pytest.MonkeyPatch, postgresql_url: str
) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/billing")
    monkeypatch.setenv("BILLING_DATABASE_POOLED", "on")
    monkeypatch.setenv("BILLING_DIRECT_DATABASE_URL", postgresql_url)
    assert command("migrate")[0] == 0
    assert command("user-add", "root", "--sysadmin") == (0, "User root is saved.\n", "")
    assert command("verify-ledger")[0] == 0


def test_a_server_that_was_not_told_of_it_says_what_to_set(
    command: Billing, monkeypatch: pytest.MonkeyPatch, bounced_url: str
) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", bounced_url)
    code, out, err = command("serve")
    assert (code, out) == (1, "")
    assert err.startswith("billing: The database cannot be reached:")
    assert "unsupported startup parameter: statement_timeout. If that is PgBouncer" in err
