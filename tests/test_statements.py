"""Statements answer as SQLAlchemy's own do, within the transaction that they are asked in."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import bindparam, event, func, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.enums import BillingModel
from app.billing.models import accounts, holds, mandates, settings, transactions
from app.billing.types import NOW, exact_sum, is_among
from app.database import PROMPT, Database
from app.statements import Statement
from tests.world import PREPAY_USER, add_mandate, credit, hold

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loop_outlives_sqlite")]

NAMES = Statement(select(mandates.c.id).order_by(mandates.c.id))
BY_ID = Statement(select(mandates.c.id).where(is_among(mandates.c.id, "ids")))


def row(mandate_id: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "id": mandate_id,
        "name": "Name",
        "currency": "CHF",
        "time_zone": "UTC",
        "created_at": now,
    }


async def test_values_of_every_type_are_those_of_sqlalchemy(database: Database) -> None:
    await add_mandate(
        database,
        "acme",
        PREPAY_USER,
        users=("alice",),
        credit_limit=Decimal("12.000000001"),
        allowed_providers=["openai"],
        notify_emails=["a@example.com"],
    )
    await credit(database, "0.5", "alice", mandate_id="acme")
    await hold(database, "0.25", mandate_id="acme", aicore_provider="openai")
    sums = select(exact_sum(accounts.c.credited).label("credited"), func.count().label("rows"))
    for query in (
        *(select(table) for table in (mandates, settings, accounts, transactions, holds)),
        sums,
        sums.where(accounts.c.id.is_(None)),
    ):
        async with database.read() as connection:
            expected = (await connection.execute(query)).all()
        for source in (database, None):
            async with database.read() as connection:
                found = await Statement(query).rows(source or connection)
            assert [each._asdict() for each in found] == [each._asdict() for each in expected]
            types = [[*map(type, each)] for each in expected]
            assert [[*map(type, each)] for each in found] == types
    [terms] = await Statement(select(settings)).rows(database)
    assert terms.billing_model == BillingModel.PREPAY_USER
    assert terms.allowed_providers == ["openai"]


@pytest.mark.parametrize("ids", [[], ["acme"], ["acme", "globex", "x"], ["x" * 999], ["a\0b"]])
async def test_any_number_of_values_is_one_statement(database: Database, ids: list[str]) -> None:
    for mandate_id in ("acme", "globex", "initech"):
        await add_mandate(database, mandate_id)
    found = {each.id for each in await BY_ID.rows(database, ids=ids)}
    assert found == {"acme", "globex", "initech"} & set(ids)


async def test_a_text_that_is_no_key_finds_nothing(database: Database) -> None:
    by_key = Statement(select(accounts.c.id).where(is_among(accounts.c.id, "ids")))
    await add_mandate(database, "acme", PREPAY_USER, users=("alice",))
    row = await credit(database, 5, "alice", mandate_id="acme")
    found = await by_key.rows(database, ids=["none", row.account_id, "'; --"])
    assert [each.id for each in found] == [row.account_id]


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_statement_is_part_of_the_transaction_it_is_asked_in(
    database: Database, is_first: bool
) -> None:
    await add_mandate(database, "acme")

    async def unit(connection: AsyncConnection) -> None:
        if is_first:
            assert len(await NAMES.rows(connection)) == 1
        await connection.execute(insert(mandates), [row("globex")])
        assert [each.id for each in await NAMES.rows(connection)] == ["acme", "globex"]
        assert [each.id for each in await NAMES.rows(database)] == ["acme"]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(unit)
    assert [each.id for each in await NAMES.rows(database)] == ["acme"]


async def test_what_a_statement_writes_first_is_rolled_back_too(database: Database) -> None:
    name = {key: bindparam(key, type_=mandates.c[key].type) for key in row("")}
    adding = Statement(insert(mandates).values(name).returning(mandates.c.id))

    async def unit(connection: AsyncConnection) -> None:
        assert (await adding.first(connection, **row("acme"))).id == "acme"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(unit)
    assert await NAMES.rows(database) == []

    async def twice(connection: AsyncConnection) -> None:
        for _ in range(2):
            await adding.first(connection, **row("acme"))

    with pytest.raises(IntegrityError) as error:
        await database.write(twice)
    assert "acme" not in str(error.value).replace("mandate", "")
    assert await NAMES.rows(database) == []


async def test_a_statement_of_a_snapshot_sees_its_moment(database: Database) -> None:
    await add_mandate(database, "acme")
    async with database.snapshot() as connection:
        assert len(await NAMES.rows(connection)) == 1
        await add_mandate(database, "globex")
        assert len(await NAMES.rows(connection)) == 1
        assert len(await NAMES.rows(database)) == 2


async def test_errors_are_those_of_sqlalchemy(database: Database) -> None:
    nowhere = Statement(
        select(func.no_such_function(bindparam("secret", type_=mandates.c.id.type)).label("x"))
    )
    with pytest.raises(DBAPIError) as error:
        await nowhere.rows(database, secret="hunter2")
    assert "hunter2" not in str(error.value)
    assert not error.value.connection_invalidated
    assert await NAMES.rows(database) == []


async def test_whoever_listens_to_sqlalchemy_sees_each_statement(database: Database) -> None:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    for engine in database.engines.values():
        event.listen(engine, "before_cursor_execute", note)
    await NAMES.rows(database)
    assert len(seen) == 1


async def test_who_is_cancelled_leaves_no_answer_to_the_next(database_url: str) -> None:
    slow = Statement(
        select(func.pg_sleep(0.3).label("slept"))
        if database_url.startswith("postgresql")
        else select(func.count().label("rows")).select_from(_numbers().limit(3_000_000).subquery())
    )
    async with Database(database_url, pool_size=1, waits=PROMPT) as database:
        for _ in range(4):
            task = asyncio.create_task(slow.rows(database))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await Statement(select(NOW.label("now"))).first(database)
            async with database.read() as connection:
                assert (await connection.execute(select(1))).scalar_one() == 1


def _numbers() -> Any:
    numbers = select(func.coalesce(0, 0).label("n")).cte("numbers", recursive=True)
    return select(numbers.union_all(select(numbers.c.n + 1)).c.n)


async def test_what_is_at_hand_is_there_for_others_too(database_url: str) -> None:
    async with Database(database_url, pool_size=1, waits=PROMPT) as database:
        async with asyncio.timeout(5):
            for _ in range(3):
                await asyncio.gather(*(NAMES.rows(database) for _ in range(12)))
                async with database.read() as one, database.snapshot() as other:
                    assert await NAMES.rows(one) == await NAMES.rows(other) == []
                await database.write(NAMES.rows)


async def test_a_statement_whose_text_varies_is_left_to_sqlalchemy(database: Database) -> None:
    await add_mandate(database, "acme")
    wanted = bindparam("id", type_=mandates.c.id.type, literal_execute=True)
    statement = Statement(select(mandates.c.id).where(mandates.c.id == wanted))
    assert statement.varies
    for mandate_id, count in (("acme", 1), ("globex", 0), ("a'b", 0)):
        assert len(await statement.rows(database, id=mandate_id)) == count


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_who_leaves_breaks_off_no_other_connection(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def read() -> None:
        async with database.read():
            pass

    for _ in range(50):
        await NAMES.rows(database)
        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not [record for record in caplog.records if "during reset" in record.getMessage()]
