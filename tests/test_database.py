import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

import app.database
from app.database import Database, DatabaseUnavailable, Waits
from app.faults import reason_of
from tests.topology import at, past_pgbouncer
from tests.world import fresh

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loop_outlives_sqlite")]

IDS = text("SELECT id FROM mandate ORDER BY id")


async def insert(connection: AsyncConnection, mandate_id: str) -> None:
    await connection.exec_driver_sql(
        "INSERT INTO mandate (id, name, currency, time_zone, created_at)"
        f" VALUES ('{mandate_id}', 'Name', 'CHF', 'UTC', '2026-01-01 00:00:00')"
    )


async def stored(database: Database) -> list[Any]:
    async with database.read() as connection:
        return list((await connection.execute(IDS)).scalars())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts, one soon after the other."""
    monkeypatch.setattr(app.database, "ATTEMPTS", 3)
    monkeypatch.setattr("random.uniform", lambda least, most: 0.02)


@pytest.fixture
async def second(database_url: str, quick: None) -> AsyncIterator[Database]:
    """The pools of another process on the same database."""
    async with Database(database_url, pool_size=1, waits=Waits(busy=0.05)) as database:
        yield database


async def test_a_unit_is_committed_and_returns_its_result(database: Database) -> None:
    async def unit(connection: AsyncConnection) -> str:
        await insert(connection, "acme")
        return "done"

    assert await database.write(unit) == "done"
    assert await stored(database) == ["acme"]


async def test_a_unit_that_fails_writes_nothing_and_runs_once(database: Database) -> None:
    runs = []

    async def unit(connection: AsyncConnection) -> None:
        runs.append(1)
        await insert(connection, "acme")
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(unit)
    assert (len(runs), await stored(database)) == (1, [])


async def test_a_unique_violation_runs_the_whole_unit_again(
    database: Database, second: Database
) -> None:
    """The other one commits between this unit's look and its insert; the second look finds it."""
    seen = []

    async def unit(connection: AsyncConnection) -> None:
        seen.append(list((await connection.execute(IDS)).scalars()))
        await insert(connection, f"mine-{len(seen)}")
        if len(seen) == 1:
            await insert(connection, "mine-1")

    await second.write(unit)
    assert seen == [[], []]
    assert await stored(database) == ["mine-2"]


async def test_a_violation_that_stays_is_raised(second: Database) -> None:
    runs = []

    async def unit(connection: AsyncConnection) -> None:
        runs.append(1)
        await insert(connection, "acme")
        await insert(connection, "acme")

    with pytest.raises(IntegrityError):
        await second.write(unit)
    assert (len(runs), await stored(second)) == (3, [])


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO mandate (id, name) VALUES ('acme', NULL)",
        "INSERT INTO membership VALUES ('acme', 'alice', 'MEMBER', '2026-01-01 00:00:00', NULL, NULL, NULL)",
    ],
)
async def test_another_violation_is_raised_at_once(database: Database, statement: str) -> None:
    runs = []

    async def unit(connection: AsyncConnection) -> None:
        runs.append(1)
        await insert(connection, "globex")
        await connection.exec_driver_sql(statement)

    with pytest.raises(IntegrityError):
        await database.write(unit)
    assert (len(runs), await stored(database)) == (1, [])


async def test_two_units_that_insert_the_same_at_once(database: Database, second: Database) -> None:
    async def unit(connection: AsyncConnection) -> bool:
        if (await connection.execute(IDS)).first():
            return False
        await asyncio.sleep(0.05)
        await insert(connection, "acme")
        return True

    assert sorted(await asyncio.gather(database.write(unit), second.write(unit))) == [False, True]
    assert await stored(database) == ["acme"]


async def test_a_deadlock_runs_one_of_both_again(database: Database) -> None:
    """SQLite has one writer and hence no deadlock; there the units just follow one another."""
    for name in ("a", "b"):
        await database.write(lambda connection, name=name: insert(connection, name))  # type: ignore[misc]
    runs = []
    meet = asyncio.Barrier(2)

    async def unit(connection: AsyncConnection, *names: str) -> None:
        runs.append(names)
        for name in names:
            await connection.execute(
                text("UPDATE mandate SET name = name || :name WHERE id = :name"), {"name": name}
            )
            if len(runs) <= 2 and not database.is_sqlite:
                async with asyncio.timeout(5):
                    await meet.wait() if name == names[0] else None

    await asyncio.gather(
        database.write(lambda connection: unit(connection, "a", "b")),
        database.write(lambda connection: unit(connection, "b", "a")),
    )
    assert len(runs) == (2 if database.is_sqlite else 3)
    async with database.read() as connection:
        names = (await connection.execute(text("SELECT name FROM mandate ORDER BY id"))).scalars()
        assert list(names) == ["Nameaa", "Namebb"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_busy_database_is_tried_again(database: Database, second: Database) -> None:
    async with database.engine.begin() as connection:
        await insert(connection, "first")
        waiting = asyncio.create_task(second.write(lambda other: insert(other, "second")))
        await asyncio.sleep(0.08)  # longer than one attempt waits
        assert not waiting.done()
    await waiting
    assert await stored(database) == ["first", "second"]


async def test_a_database_that_stays_busy_is_unavailable(
    database: Database, second: Database
) -> None:
    async with database.engine.begin() as connection:
        await insert(connection, "first")
        if not database.is_sqlite:
            await connection.execute(text("LOCK TABLE mandate"))

        async def unit(other: AsyncConnection) -> None:
            if not database.is_sqlite:
                await other.execute(text("SET LOCAL lock_timeout = '20ms'"))
            await insert(other, "second")

        with pytest.raises(DatabaseUnavailable):
            await second.write(unit)
    assert await stored(database) == ["first"]


async def test_a_read_sees_what_is_committed_meanwhile(database: Database) -> None:
    async with database.read() as connection:
        assert (await connection.execute(IDS)).all() == []
        await database.write(lambda other: insert(other, "acme"))
        assert (await connection.execute(IDS)).scalars().all() == ["acme"]


async def test_a_read_holds_no_transaction_open(database_url: str) -> None:
    async with Database(past_pgbouncer(database_url)) as database, database.read() as reader:
        await reader.execute(IDS)
        async with asyncio.timeout(5), database.engine.begin() as connection:
            if not database.is_sqlite:
                await connection.execute(text("LOCK TABLE mandate IN ACCESS EXCLUSIVE MODE"))
            await insert(connection, "acme")


async def test_a_unit_that_is_cancelled_writes_nothing(database: Database) -> None:
    reached = asyncio.Event()

    async def unit(connection: AsyncConnection) -> None:
        await insert(connection, "cancelled")
        reached.set()
        await asyncio.sleep(30)

    for _ in range(25):  # more often than there are connections
        task = asyncio.create_task(database.write(unit))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await database.write(lambda connection: insert(connection, "acme"))
    assert await stored(database) == ["acme"]


@pytest.mark.parametrize("delay", [0, 0.0005, 0.001, 0.002, 0.004])
async def test_a_cancelled_statement_leaves_the_pool_usable(
    database: Database, delay: float
) -> None:
    async def unit(connection: AsyncConnection) -> None:
        for _ in range(100):
            await insert(connection, fresh())

    for _ in range(5):
        task = asyncio.create_task(database.write(unit))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(5):
        await database.write(lambda connection: insert(connection, "acme"))
    assert await stored(database) == ["acme"]


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////nowhere/at/all/billing.db",
        "postgresql://nobody@/billing?host=/nowhere",
        "postgresql://nobody@127.0.0.1:1/billing",
    ],
)
async def test_a_database_that_is_not_there_is_unavailable(address: str) -> None:
    async with Database(address) as database:
        with pytest.raises(DatabaseUnavailable):
            await stored(database)
        with pytest.raises(DatabaseUnavailable):
            await database.write(lambda connection: insert(connection, "acme"))


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "billing.db"
    path.write_text("no database " * 100)
    async with Database(f"sqlite:///{path}") as database:
        with pytest.raises(DatabaseUnavailable):
            await stored(database)


async def test_a_database_that_was_never_made_is_unavailable(postgresql_server: str) -> None:
    address = make_url(postgresql_server).set(database="never_made")
    async with Database(address.render_as_string(hide_password=False)) as database:
        with pytest.raises(DatabaseUnavailable):
            await stored(database)


async def test_a_connection_that_is_lost_is_unavailable_once(
    postgresql_url: str, quick: None
) -> None:
    async with Database(postgresql_url) as database, Database(postgresql_url) as other:

        async def end_others() -> None:
            async with other.read() as connection:
                await connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                        " AND backend_type = 'client backend'"
                    )
                )

        with pytest.raises(DatabaseUnavailable):
            async with database.read() as connection:
                await connection.execute(text("SELECT 1"))
                await end_others()
                await connection.execute(text("SELECT 1"))

        async def unit(connection: AsyncConnection) -> None:
            await connection.execute(text("SELECT 1"))
            await end_others()
            await connection.execute(text("SELECT 1"))

        with pytest.raises(DatabaseUnavailable):
            await database.write(unit)
        async with database.read() as connection:
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_server_without_a_free_connection_is_unavailable(postgresql_url: str) -> None:
    role = fresh("role")
    address = make_url(postgresql_url).set(username=role, password="secret")
    async with Database(postgresql_url) as owner, owner.read() as connection:
        await connection.exec_driver_sql(
            f"""CREATE ROLE "{role}" LOGIN PASSWORD 'secret' CONNECTION LIMIT 0"""
        )
        try:
            async with Database(address.render_as_string(hide_password=False)) as database:
                with pytest.raises(DatabaseUnavailable):
                    await database.write(lambda connection: insert(connection, "acme"))
        finally:
            await connection.exec_driver_sql(f'DROP ROLE "{role}"')


async def test_a_pool_that_is_used_up_is_unavailable(database: Database) -> None:
    database.engine.sync_engine.pool._timeout = 0.05  # type: ignore[attr-defined]
    size = database.engine.sync_engine.pool.size()  # type: ignore[attr-defined]
    taken = [await database.engine.connect() for _ in range(size)]
    with pytest.raises(DatabaseUnavailable):
        await database.write(lambda connection: insert(connection, "acme"))
    for connection in taken:
        await connection.close()
    await database.write(lambda connection: insert(connection, "acme"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)]
)
async def test_sqlite_keeps_what_it_has_committed(
    database: Database, pragma: str, value: object
) -> None:
    async with database.engine.connect() as connection:
        found = await connection.exec_driver_sql(f"PRAGMA {pragma}")
        assert found.scalar_one() == value


async def test_capitals_of_every_alphabet_are_lowered(database: Database) -> None:
    async with database.read() as connection:
        found = await connection.execute(text("SELECT lower('ÄÉΩЖ'), lower(NULL)"))
        assert tuple(found.one()) == ("äéωж", None)


async def test_the_log_names_what_the_driver_calls_it(postgresql_url: str) -> None:
    async with Database(at(past_pgbouncer(postgresql_url), "nowhere")) as database:
        with pytest.raises(DatabaseUnavailable) as caught:
            async with database.read():
                pass
    assert reason_of(caught.value) == "InvalidCatalogNameError 3D000"
