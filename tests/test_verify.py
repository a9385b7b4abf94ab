"""The proof of balances and costs: nothing to say about sound books, and every forged figure found."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from app.billing.enums import BillingModel
from app.billing.models import daily_usage, transactions
from app.billing.usage import record_usage
from app.billing.verify import verify_ledger
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.proof import forge, mismatches, prove
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    PROVIDERS,
    add_mandate,
    change_settings,
    credit,
    ledger_rows,
    read_rows,
    record,
    reverse,
    run_sql,
    usage_event,
)

pytestmark = pytest.mark.anyio

DAY = date(2026, 8, 1)
ZURICH = ZoneInfo("Europe/Zurich")


@pytest.fixture(autouse=True)
async def books(database: Database) -> None:
    """Two mandates with credits, usage and accounts of every type."""
    for mandate_id in (MANDATE, OTHER_MANDATE):
        users = ("alice", "bob")
        await add_mandate(database, mandate_id, users=users, time_zone="Europe/Zurich")
        await record(database, usage_event("0.000000001", mandate_id=mandate_id))
        await change_settings(database, mandate_id, billing_model=BillingModel.PREPAY_USER)
        await credit(database, "25.5", "alice", mandate_id=mandate_id)
        events = [
            usage_event(
                f"0.{place + 1:03}",
                mandate_id=mandate_id,
                user_id=users[place % 2],
                occurred_at=datetime(2026, 8, 1, 10, tzinfo=UTC) + timedelta(hours=7 * place),
                aicore_provider="openai" if place % 3 else None,
            )
            for place in range(60)
        ]
        await record_usage(database, OPERATOR, events, PROVIDERS, imported=True)
        await credit(database, 1, "alice", mandate_id=mandate_id)


OF_ALICE = f"WHERE mandate_id = '{MANDATE}' AND user_id = 'alice'"


async def test_sound_books(database: Database) -> None:
    assert await mismatches(database) == []
    assert await mismatches(database, OTHER_MANDATE) == []


async def test_a_mandate_without_transactions(database: Database) -> None:
    await add_mandate(database, "new")
    assert await mismatches(database, "new") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("balance = balance + 1, credited = credited + 1", ("balance", "credited")),
        ("balance = balance - 1, debited = debited + 1", ("balance", "debited")),
        ("sequence = sequence + 1", ("sequence",)),
        ("funding_base = 0", ("funding_base",)),
    ],
)
async def test_a_forged_account(database: Database, change: str, said: tuple[str, ...]) -> None:
    await run_sql(database, f"UPDATE account SET {change} {OF_ALICE}")
    found = await mismatches(database)
    assert tuple(figure.split(" is ")[0] for figure in found) == said
    assert await mismatches(database, OTHER_MANDATE) == []


async def test_a_balance_says_what_it_must_be(database: Database) -> None:
    await run_sql(
        database, f"UPDATE account SET balance = balance + 1, credited = credited + 1 {OF_ALICE}"
    )
    assert await mismatches(database) == [
        "balance is 35.600000001 and must be 35.6",
        "credited is 36.500000001 and must be 36.5",
    ]


async def test_an_account_without_transactions(database: Database) -> None:
    await add_mandate(database, "new")
    await run_sql(
        database,
        "INSERT INTO account (mandate_id, id, account_type, user_id, balance, credited, debited,"
        " sequence, funding_base, enabled, created_at, last_transaction_at)"
        " SELECT 'new', id, account_type, user_id, 5, 5, 0, 0, 0, enabled, created_at,"
        f" last_transaction_at FROM account {OF_ALICE}",
    )
    assert await mismatches(database, "new") == [
        "balance is 0.000000005 and must be 0",
        "credited is 0.000000005 and must be 0",
    ]


async def test_a_forged_amount(database: Database) -> None:
    await forge(
        database, f'UPDATE "transaction" SET amount = amount + 1 {OF_ALICE} AND sequence = 5'
    )
    found = await mismatches(database)
    assert [figure.split(" is ")[0] for figure in found] == [
        "the balance after transaction 5",
        "balance",
        "debited",
        f"the usage of {DAY + timedelta(days=1)} (alice, openai, none, none)",
    ]


async def test_a_forged_balance_after(database: Database) -> None:
    await forge(
        database,
        f'UPDATE "transaction" SET balance_after = balance_after + 1 {OF_ALICE} AND sequence = 5',
    )
    found = await mismatches(database)
    assert [figure.split(" is ")[0] for figure in found] == [
        "the balance after transaction 5",
        "the balance after transaction 6",
    ]


async def test_a_missing_transaction(database: Database) -> None:
    await forge(database, f'DELETE FROM "transaction" {OF_ALICE} AND sequence = 5')
    found = await mismatches(database)
    assert "the sequence of transaction 6 is 6 and must be 5" in found
    assert any(figure.startswith("debited is ") for figure in found)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE daily_usage SET cost = cost + 1 {}",
        "UPDATE daily_usage SET transaction_count = transaction_count + 1 {}",
        "DELETE FROM daily_usage {}",
    ],
)
async def test_a_forged_roll_up(database: Database, statement: str) -> None:
    one = f"{OF_ALICE} AND local_date = '{DAY}' AND aicore_provider = ''"
    await run_sql(database, statement.format(one))
    [figure] = await mismatches(database)
    assert figure.startswith(f"the usage of {DAY} (alice, none, none, none) is ")
    assert figure.endswith(" and must be 0.001 in 1")


async def test_usage_taken_back(database: Database) -> None:
    """It lowers the cost of the day on which it was taken back, and is counted all the same."""
    [call] = await ledger_rows(database, mandate_id=MANDATE, amount=Decimal("0.001"))
    reversal = await reverse(database, call.id)
    assert await mismatches(database) == []
    day = reversal.created_at.astimezone(ZURICH).date()
    for statement in (
        "UPDATE daily_usage SET cost = 0 WHERE cost < 0",
        "DELETE FROM daily_usage WHERE cost = 0",
    ):
        await run_sql(database, statement)
        assert await mismatches(database) == [
            f"the usage of {day} (alice, none, none, none) is 0 in 0 and must be -0.001 in 0"
        ]


async def test_a_credit_taken_back_is_no_cost(database: Database) -> None:
    row = await credit(database, 5, "alice")
    rolled_up = await read_rows(database, daily_usage)
    await reverse(database, row.id)
    assert await mismatches(database) == []
    assert await read_rows(database, daily_usage) == rolled_up


async def test_a_day_of_nothing_may_have_a_row_or_none(database: Database) -> None:
    [result] = await record(
        database, usage_event(0, occurred_at=datetime.now(UTC) - timedelta(days=9))
    )
    await reverse(database, result.transaction.id)
    nothing = "mandate_id, local_date, user_id, account_id, aicore_provider, aicore_model"
    for day in (date(1, 1, 1), DAY - timedelta(days=1), DAY + timedelta(days=5)):
        await run_sql(
            database,
            f"INSERT INTO daily_usage ({nothing}, feature_code, cost, transaction_count)"
            f" SELECT mandate_id, '{day}', 'alice', id, 'p', 'm', 'f', 0, 0 FROM account {OF_ALICE}",
        )
    assert await mismatches(database) == []
    await run_sql(database, "DELETE FROM daily_usage WHERE cost = 0 AND transaction_count = 0")
    assert await mismatches(database) == []


@pytest.mark.parametrize("other", [date(1, 1, 1), date(2026, 8, 2), date(9999, 12, 31)])
async def test_usage_on_another_day(database: Database, other: date) -> None:
    one = f"{OF_ALICE} AND local_date = '{DAY}' AND aicore_provider = ''"
    await run_sql(database, f"UPDATE daily_usage SET local_date = '{other}' {one}")
    missing = f"the usage of {DAY} (alice, none, none, none) is 0 in 0 and must be 0.001 in 1"
    extra = f"the usage of {other} (alice, none, none, none) is 0.001 in 1 and must be 0 in 0"
    assert sorted(await mismatches(database)) == sorted([missing, extra])


async def test_a_roll_up_without_usage(database: Database) -> None:
    await add_mandate(database, "new", BillingModel.PREPAY_MANDATE)
    await credit(database, 5, mandate_id="new")
    await run_sql(
        database,
        f"INSERT INTO daily_usage SELECT 'new', '{DAY}', 'alice', id, '', '', '', 7, 1"
        " FROM account WHERE mandate_id = 'new'",
    )
    assert await mismatches(database, "new") == [
        f"the usage of {DAY} (alice, none, none, none) is 0.000000007 in 1 and must be 0 in 0"
    ]


@pytest.mark.parametrize(
    ("time_zone", "night"),
    [
        ("Europe/Zurich", datetime(2026, 10, 25, tzinfo=UTC)),
        ("Pacific/Apia", datetime(2011, 12, 30, tzinfo=UTC)),  # a day that never was
        ("America/St_Johns", datetime(2010, 11, 7, 2, tzinfo=UTC)),  # back over midnight
        ("Pacific/Kiritimati", datetime(2026, 1, 1, tzinfo=UTC)),
        ("America/Sao_Paulo", datetime(2018, 2, 18, tzinfo=UTC)),
    ],
)
async def test_days_of_every_length(database: Database, time_zone: str, night: datetime) -> None:
    await add_mandate(database, "new", time_zone=time_zone)
    events = [
        usage_event(1, mandate_id="new", occurred_at=night + timedelta(minutes=15 * place))
        for place in range(-200, 200)
    ]
    await record_usage(database, OPERATOR, events, PROVIDERS, imported=True)
    assert await mismatches(database, "new") == []


async def test_years_of_usage(database: Database) -> None:
    await add_mandate(database, "new")
    events = [
        usage_event(1, mandate_id="new", occurred_at=datetime(2000, 1, 1, tzinfo=UTC) + days)
        for days in (timedelta(days=97 * place) for place in range(99))
    ]
    await record_usage(database, OPERATOR, events, PROVIDERS, imported=True)
    assert await mismatches(database, "new") == []
    assert sum(row.cost for row in await read_rows(database, daily_usage, mandate_id="new")) == 99


async def test_what_was_looked_at(database: Database) -> None:
    before = datetime.now(UTC)
    check = await prove(database)
    assert before <= check.checked_at <= datetime.now(UTC)
    assert check.accounts_checked == 3
    assert check.transactions_checked == len(await ledger_rows(database, mandate_id=MANDATE)) == 65
    await add_mandate(database, "new")
    empty = await prove(database, "new")
    assert (empty.ok, empty.accounts_checked, empty.transactions_checked) == (True, 0, 0)


async def test_a_snapshot_stays_at_its_moment(database: Database) -> None:
    count = select(transactions.c.id)
    async with database.snapshot() as connection:
        before = len((await connection.execute(count)).all())
        await record(database, usage_event(5), usage_event(5))
        await credit(database, "0.5", "alice")
        assert (await verify_ledger(connection, MANDATE)).ok
        assert len((await connection.execute(count)).all()) == before
    async with database.snapshot() as connection:
        assert len((await connection.execute(count)).all()) == before + 3
    assert await mismatches(database) == []


async def test_a_snapshot_leaves_nothing_behind(database: Database) -> None:
    for _ in range(15):
        with pytest.raises(ZeroDivisionError):
            async with database.snapshot() as connection:
                await connection.execute(text("SELECT 1"))
                raise ZeroDivisionError
    await record(database, usage_event())
    async with database.read() as connection:
        before = (await connection.execute(select(transactions.c.id))).all()
        await record(database, usage_event())
        assert len((await connection.execute(select(transactions.c.id))).all()) == len(before) + 1


async def test_a_snapshot_only_reads(database: Database) -> None:
    if database.is_sqlite:
        return
    with pytest.raises(DBAPIError, match="read-only"):
        async with database.snapshot() as connection:
            await connection.execute(text("DELETE FROM daily_usage"))
