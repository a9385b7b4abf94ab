"""What a replica answers, and what becomes of reads while it is behind, hung or gone: by real streaming replication."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.directory import list_mandates
from app.billing.models import users
from app.billing.paging import PageArguments
from app.billing.viewer import OPERATOR
from app.config import Settings
from app.database import PROMPT, Database, DatabaseUnavailable
from app.metrics import REPLICA_READS
from app.replica import following
from tests.api import Api, add_people, serving
from tests.topology import Replica, at, replica_of, text_of
from tests.world import MANDATE, PREPAY_USER, add_mandate, add_user, credit, run_sql

pytestmark = pytest.mark.anyio

ARGUMENTS = f'mandateId: "{MANDATE}"'
READ_AT_THE_REPLICA = {
    "transactions": f"{{ transactions({ARGUMENTS}) {{ nodes {{ id }} }} }}",
    "accounts": f"{{ accounts({ARGUMENTS}) {{ nodes {{ id }} }} }}",
    "holds": f"{{ holds({ARGUMENTS}) {{ nodes {{ id }} }} }}",
    "auditLog": f"{{ auditLog({ARGUMENTS}) {{ nodes {{ id }} }} }}",
    "mandates": "{ mandates { nodes { id } } }",
    "mandateUsers": f"{{ mandateUsers({ARGUMENTS}) {{ nodes {{ user {{ id }} }} }} }}",
    "statistics": f"{{ statistics({ARGUMENTS}, period: YEAR, year: 2026) {{ totalCost }} }}",
    "usage": f'{{ usage({ARGUMENTS}, from: "2026-01-01", to: "2026-02-01", granularity: DAY) {{ totalCost }} }}',
}
READ_AT_THE_PRIMARY = {
    "balance": f'{{ balance({ARGUMENTS}, userId: "alice") {{ balance }} }}',
    "spendCheck": f'{{ spendCheck({ARGUMENTS}, userId: "alice", amount: "1") {{ allowed }} }}',
    "billingSettings": f"{{ billingSettings({ARGUMENTS}) {{ version }} }}",
    "ledgerCheck": f"{{ ledgerCheck({ARGUMENTS}) {{ ok }} }}",
    "balances": "{ balances { balance } }",
}
NEWEST = f"{{ transactions({ARGUMENTS}, first: 1) {{ nodes {{ description }} }} }}"
ADD_CREDIT = """
    mutation ($input: AddCreditInput!) {
      addCredit(input: $input) { transaction { id } userErrors { code } }
    }
"""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica may be behind for longer: this machine may have much else to do."""
    monkeypatch.setattr("app.replica.MOST_BEHIND_SECONDS", 10)
    monkeypatch.setattr("app.replica.CONNECT_SECONDS", 10)


@pytest.fixture
async def database(durable_url: str, replica_url: str) -> AsyncIterator[Database]:
    async with (
        Database(durable_url, waits=PROMPT) as database,
        following(database, replica_url, PROMPT),
    ):
        yield database


@pytest.fixture
async def api(database: Database, durable_url: str, replica_url: str) -> AsyncIterator[Api]:
    await add_people(database, model=PREPAY_USER)
    settings = Settings(database_url=durable_url, read_database_url=replica_url, rate_limits=False)
    async with serving(settings) as api:
        yield api


def reads() -> dict[str, float]:
    """How many reads each has answered until now."""
    return {who: REPLICA_READS.labels(who)._value.get() for who in ("replica", "primary")}


def since(before: dict[str, float]) -> dict[str, float]:
    return {who: count - before[who] for who, count in reads().items() if count > before[who]}


async def where(connection: AsyncConnection) -> str:
    """Who answers."""
    found = await connection.execute(text("SELECT pg_is_in_recovery()"))
    return "replica" if found.scalar_one() else "primary"


async def is_back(database: Database) -> bool:
    for _ in range(100):
        if await database.reader.consult(where) == "replica":
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("field", READ_AT_THE_REPLICA)
async def test_lists_and_statistics_are_read_at_the_replica(api: Api, field: str) -> None:
    before = reads()
    await api.read("root", READ_AT_THE_REPLICA[field])
    assert since(before) == {"replica": 1}


@pytest.mark.parametrize("field", READ_AT_THE_PRIMARY)
async def test_money_and_roles_are_read_at_the_primary(api: Api, field: str) -> None:
    before = reads()
    await api.read("root", READ_AT_THE_PRIMARY[field])
    assert since(before) == {}


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("kind", ["transactions", "usage"])
async def test_exports_are_read_at_the_replica(api: Api, kind: str) -> None:
    days = "&from=2026-01-01&to=2026-02-01&granularity=DAY" if kind == "usage" else ""
    before = reads()
    response = await api.client.get(
        f"/export/{kind}.csv?mandateId={MANDATE}{days}", headers=api.bearer("root")
    )
    assert response.status_code == 200
    assert since(before) == {"replica": 1}


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("snapshot", [False, True])
async def test_the_replica_is_who_answers(database: Database, snapshot: bool) -> None:
    assert await database.reader.consult(where, snapshot=snapshot) == "replica"
    assert await database.consult(where, snapshot=snapshot) == "primary"


@pytest.mark.usefixtures("patient")
async def test_who_has_just_written_reads_it(api: Api, replica: Replica) -> None:
    replica.ask("ALTER SYSTEM SET recovery_min_apply_delay = '30ms'")
    replica.ask("SELECT pg_reload_conf()")
    try:
        before = reads()
        for number in range(10):
            given = {"mandateId": MANDATE, "userId": "alice", "amount": "1"}
            given |= {"description": f"credit {number}", "idempotencyKey": f"key {number}"}
            await api.read("root", ADD_CREDIT, input=given)
            page = await api.read("root", NEWEST)
            assert page["nodes"] == [{"description": f"credit {number}"}]
        assert since(before) == {"replica": 10}
    finally:
        replica.ask("ALTER SYSTEM RESET recovery_min_apply_delay")
        replica.ask("SELECT pg_reload_conf()")


async def test_a_replica_that_is_behind_is_left_alone(
    api: Api, database: Database, replica: Replica
) -> None:
    assert await is_back(database)
    replica.ask("SELECT pg_wal_replay_pause()")
    await credit(database, 1, "alice", description="unseen")
    before = reads()
    begun = time.monotonic()
    for _ in range(5):
        assert (await api.read("root", NEWEST))["nodes"] == [{"description": "unseen"}]
    assert time.monotonic() - begun < 2
    assert since(before) == {"primary": 5}
    replica.ask("SELECT pg_wal_replay_resume()")
    assert await is_back(database)


@pytest.mark.parametrize("is_killed", [True, False])
async def test_a_replica_that_is_gone_or_hangs_is_left_alone(
    database: Database, replica: Replica, is_killed: bool
) -> None:
    assert await is_back(database)
    if is_killed:
        replica.kill()
    else:
        replica.signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        told = await asyncio.gather(*(database.reader.consult(where) for _ in range(20)))
        assert set(told) == {"primary"}
        assert time.monotonic() - begun < 1.5
        begun = time.monotonic()
        assert await database.reader.consult(where) == "primary"
        assert time.monotonic() - begun < 0.2
    finally:
        if is_killed:
            await asyncio.to_thread(replica.start)
        else:
            replica.signal(signal.SIGCONT)
    assert await is_back(database)


async def test_what_a_dying_replica_was_asked_the_primary_answers(
    database: Database, replica: Replica
) -> None:
    assert await is_back(database)
    asked: list[str] = []
    begun = asyncio.Event()

    async def question(connection: AsyncConnection) -> str:
        asked.append(await where(connection))
        begun.set()
        if asked == ["replica"]:
            await connection.execute(text("SELECT pg_sleep(10)"))
        return asked[-1]

    task = asyncio.create_task(database.reader.consult(question))
    await begun.wait()
    replica.kill()
    try:
        assert await task == "primary"
        assert asked == ["replica", "primary"]
    finally:
        await asyncio.to_thread(replica.start)


@pytest.fixture
def promoted(postgresql_server: str, durable_url: str) -> Iterator[str]:
    """The address of what was that database, on a server of its own that goes another way by now."""
    with replica_of(postgresql_server) as other:
        other.wait_for(at(other.address, make_url(durable_url).database))
        assert other.ask("SELECT pg_promote()")
        yield at(other.address, make_url(durable_url).database)


@pytest.mark.parametrize("case", ["the primary", "another database", "another timeline"])
async def test_what_is_no_replica_of_this_database_is_not_read(
    request: pytest.FixtureRequest,
    durable_url: str,
    replica: Replica,
    replica_url: str,
    caplog: pytest.LogCaptureFixture,
    case: str,
) -> None:
    primary, followed = durable_url, replica_url
    if case == "the primary":
        followed = durable_url
    elif case == "another database":
        followed = replica.address
    else:
        primary = request.getfixturevalue("promoted")
    async with Database(primary) as database, following(database, followed, PROMPT):
        assert database.reader is not database
        assert await database.reader.consult(where) == "primary"
        assert await database.reader.consult(where) == "primary"
    assert caplog.messages == ["The replica is none of this primary: the primary answers."]


@pytest.mark.usefixtures("patient")
async def test_a_statement_that_takes_too_long_is_not_run_twice(
    durable_url: str, replica_url: str
) -> None:
    hasty = replace(PROMPT, statement=0.2)
    asked: list[Any] = []

    async def question(connection: AsyncConnection) -> None:
        asked.append(connection)
        await connection.execute(text("SELECT pg_sleep(5)"))

    async with Database(durable_url) as database, following(database, replica_url, hasty):
        with pytest.raises(DatabaseUnavailable):
            await database.reader.consult(question)
    assert len(asked) == 1


@pytest.mark.usefixtures("patient")
async def test_a_write_that_is_not_flushed_is_read_too(
    durable_url: str, replica_url: str, database: Database
) -> None:
    name = make_url(durable_url).database
    await run_sql(database, f"ALTER DATABASE {name} SET synchronous_commit = off")
    async with Database(durable_url) as hasty, following(hasty, replica_url, PROMPT):
        await add_mandate(hasty)
        before = reads()
        for number in range(20):
            await add_user(hasty, "alice", first_name=f"name {number}")

            async def read(connection: AsyncConnection) -> Any:
                return await connection.scalar(
                    select(users.c.first_name).where(users.c.id == "alice")
                )

            assert await hasty.reader.consult(read) == f"name {number}"
        assert since(before) == {"replica": 20}


async def test_what_the_replica_refuses_the_primary_answers(
    durable_url: str,
    replica_url: str,
    replica: Replica,
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await run_sql(database, "CREATE ROLE narrow LOGIN")
    while not replica.ask("SELECT 1 FROM pg_roles WHERE rolname = 'narrow'"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    address = text_of(make_url(replica_url).set(username="narrow"))
    try:
        async with Database(durable_url) as owner, following(owner, address, PROMPT):
            page = await list_mandates(owner, OPERATOR, search=None, page=PageArguments(first=1))
        assert page.nodes == []
        assert caplog.messages == [
            "The replica is away (InsufficientPrivilegeError 42501): the primary answers."
        ]
    finally:
        await run_sql(database, "DROP ROLE narrow")
