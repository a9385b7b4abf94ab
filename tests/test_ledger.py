import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from app.billing.checks import content_hash, same_content
from app.billing.enums import AccountType, BillingModel, ReferenceType, TransactionType
from app.billing.errors import BillingError
from app.billing.ledger import MAX_LIFETIME, Ledger, in_ledger
from app.billing.locked import Needs
from app.billing.models import accounts, daily_usage, transactions
from app.billing.money import MAX_BALANCE, ZERO
from app.database import Database
from tests.world import MANDATE, add_mandate, change_settings, dump, fresh, ledger_rows, read_rows

pytestmark = pytest.mark.anyio

CREDIT, DEBIT = TransactionType.CREDIT, TransactionType.DEBIT
ADMIN, USAGE, REVERSAL = ReferenceType.ADMIN, ReferenceType.USAGE, ReferenceType.REVERSAL

Post = tuple[TransactionType, ReferenceType, str | int]


async def post(
    database: Database, *posts: Post, user_id: str = "alice", **details: Any
) -> list[SimpleNamespace]:
    """Posts to the account that pays for the user, in one unit."""

    async def work(ledger: Ledger) -> list[SimpleNamespace]:
        await ledger.prepare(Needs(spends=[(user_id, None)]))
        return [
            ledger.post(
                ledger.account(ledger.payer(user_id)),
                kind,
                reference,
                Decimal(amount),
                **{"description": "Test", "user_id": user_id, **details},
            )
            for kind, reference, amount in posts
        ]

    return await in_ledger(database, MANDATE, work)


async def account(database: Database, **where: Any) -> Any:
    [row] = await read_rows(database, accounts, **where)
    return row


async def set_account(database: Database, **values: Any) -> None:
    """Gives all accounts a state that would take long to reach by transactions."""
    async with database.engine.begin() as connection:
        await connection.execute(update(accounts).values(values))


async def test_what_is_posted_moves_the_account_and_makes_its_history(database: Database) -> None:
    await add_mandate(database, model=BillingModel.PREPAY_MANDATE)
    await post(database, (CREDIT, ADMIN, 10), (DEBIT, USAGE, "0.000000001"), (DEBIT, USAGE, 0))
    await post(database, (DEBIT, USAGE, "2.5"), (CREDIT, REVERSAL, "2.5"))
    row = await account(database)
    history = await ledger_rows(database)
    assert [entry.sequence for entry in history] == [1, 2, 3, 4, 5]
    assert [str(entry.balance_after) for entry in history] == [
        "10.000000000",
        "9.999999999",
        "9.999999999",
        "7.499999999",
        "9.999999999",
    ]
    assert (row.sequence, row.balance) == (5, Decimal("9.999999999"))
    assert (row.credited, row.debited) == (Decimal("12.5"), Decimal("2.500000001"))
    assert row.funding_base == 10  # a reversal is no new funding
    assert row.last_transaction_at == history[-1].created_at
    assert all(entry.account_id == row.id for entry in history)


async def test_created_at_orders_the_history_whatever_the_clock_says(database: Database) -> None:
    await add_mandate(database)
    [first] = await post(database, (DEBIT, USAGE, 1))
    ahead = first.created_at + timedelta(hours=1)
    await set_account(database, last_transaction_at=ahead)
    await post(database, (DEBIT, USAGE, 1), (DEBIT, USAGE, 1))
    history = await ledger_rows(database)
    step = timedelta(microseconds=1)
    assert [row.created_at for row in history[1:]] == [ahead + step, ahead + 2 * step]
    assert [row.sequence for row in history] == [1, 2, 3]  # by id


async def test_occurred_at_is_when_it_was_written_unless_given(database: Database) -> None:
    await add_mandate(database)
    then = datetime(2020, 2, 29, 23, 59, 59, 999999, tzinfo=UTC)
    await post(database, (DEBIT, USAGE, 1))
    await post(database, (DEBIT, USAGE, 1), occurred_at=then)
    now, given = await ledger_rows(database)
    assert now.occurred_at == now.created_at
    assert given.occurred_at == then < given.created_at


@pytest.mark.parametrize(
    ("model", "kind", "owner"),
    [
        (BillingModel.PREPAY_USER, AccountType.USER, "alice"),
        (BillingModel.PREPAY_MANDATE, AccountType.MANDATE, None),
        (BillingModel.CREDIT_POSTPAY, AccountType.MANDATE, None),
        (BillingModel.UNLIMITED, AccountType.UNLIMITED, None),
        (None, AccountType.UNLIMITED, None),
    ],
)
async def test_the_account_that_pays(
    database: Database, model: BillingModel | None, kind: AccountType, owner: str | None
) -> None:
    await add_mandate(database, model=model, users=["alice", "bob"], default_user_credit=ZERO)
    await post(database, (DEBIT, USAGE, 1))
    await post(database, (DEBIT, USAGE, 1), user_id="bob")
    rows = await read_rows(database, accounts)
    assert {(row.account_type, row.user_id) for row in rows} == (
        {(kind, "alice"), (kind, "bob")} if owner else {(kind, None)}
    )
    assert sum(row.sequence for row in rows) == 2


@pytest.mark.parametrize(
    ("default", "balances"),
    [("10", [10, 9]), ("0.000000001", [Decimal("1E-9"), Decimal("-0.999999999")]), ("0", [-1])],
)
async def test_a_user_account_opens_with_its_default_credit_once(
    database: Database, default: str, balances: list[Any]
) -> None:
    await add_mandate(
        database, model=BillingModel.PREPAY_USER, default_user_credit=Decimal(default)
    )
    await post(database, (DEBIT, USAGE, 1))
    await post(database, (DEBIT, USAGE, 0))
    history = await ledger_rows(database)
    assert [row.balance_after for row in history] == [*balances, balances[-1]]
    if len(balances) > 1:
        opening = history[0]
        assert (opening.transaction_type, opening.reference_type) == ("CREDIT", "SYSTEM")
        assert (opening.user_id, opening.actor_id) == ("alice", None)
        assert (await account(database)).funding_base == opening.amount


@pytest.mark.parametrize(
    "model", [BillingModel.PREPAY_MANDATE, BillingModel.CREDIT_POSTPAY, BillingModel.UNLIMITED]
)
async def test_only_user_accounts_receive_a_default_credit(
    database: Database, model: BillingModel
) -> None:
    await add_mandate(database, model=model, default_user_credit=Decimal(7))
    await post(database, (DEBIT, USAGE, 1))
    assert [row.balance_after for row in await ledger_rows(database)] == [-1]


async def test_a_default_credit_changed_later_is_for_new_accounts(database: Database) -> None:
    await add_mandate(database, model=BillingModel.PREPAY_USER, users=["alice", "bob"])
    await post(database, (DEBIT, USAGE, 1))
    await change_settings(database, default_user_credit=Decimal(3))
    await post(database, (DEBIT, USAGE, 1))
    await post(database, (DEBIT, USAGE, 1), user_id="bob")
    assert (await account(database, user_id="alice")).balance == 8
    assert (await account(database, user_id="bob")).balance == 2


async def test_an_account_to_which_nothing_was_posted_is_not_opened(database: Database) -> None:
    await add_mandate(database, model=BillingModel.PREPAY_USER)
    before = await dump(database)

    async def work(ledger: Ledger) -> None:
        await ledger.prepare(Needs(spends=[("alice", None)]))
        assert ledger.funds(ledger.account(ledger.payer("alice"))).available == 10

    await in_ledger(database, MANDATE, work)
    assert await dump(database) == before


@pytest.mark.parametrize("mandate_id", ["globex", "", "a\0b", "x" * 100_000])
async def test_a_mandate_that_does_not_exist(database: Database, mandate_id: str) -> None:
    async def work(ledger: Ledger) -> None:
        raise AssertionError

    with pytest.raises(BillingError, match="no such mandate") as refused:
        await in_ledger(database, mandate_id, work)
    assert (refused.value.code, refused.value.field) == ("NOT_FOUND", ("mandate_id",))


async def test_an_error_after_posting_writes_nothing(database: Database) -> None:
    await add_mandate(database, model=BillingModel.PREPAY_USER)
    before = await dump(database)

    async def work(ledger: Ledger) -> None:
        await ledger.prepare(Needs(spends=[("alice", None)]))
        account = ledger.account(ledger.payer("alice"))
        ledger.post(account, DEBIT, USAGE, Decimal(1), description="Test")
        await ledger.write()
        raise LookupError

    with pytest.raises(LookupError):
        await in_ledger(database, MANDATE, work)
    assert await dump(database) == before


NANO = Decimal("0.000000001")


@pytest.mark.parametrize(
    ("state", "entry", "allowed"),
    [
        ({"balance": MAX_BALANCE - 1}, (CREDIT, ADMIN, 1), True),
        ({"balance": MAX_BALANCE - 1}, (CREDIT, ADMIN, "1.000000001"), False),
        ({"balance": 1 - MAX_BALANCE}, (DEBIT, USAGE, 1), True),
        ({"balance": 1 - MAX_BALANCE}, (DEBIT, USAGE, "1.000000001"), False),
        ({"balance": ZERO, "credited": MAX_LIFETIME - 1}, (CREDIT, ADMIN, 1), True),
        ({"balance": ZERO, "credited": MAX_LIFETIME - 1}, (CREDIT, ADMIN, 1 + NANO), False),
        ({"balance": ZERO, "credited": MAX_LIFETIME}, (DEBIT, USAGE, NANO), False),
    ],
)
async def test_an_account_at_its_limits(
    database: Database, state: dict[str, Decimal], entry: Any, allowed: bool
) -> None:
    """`debited` follows from balance and credited, as the database demands."""
    await add_mandate(database)
    await post(database, (DEBIT, USAGE, 0))
    credited = state.get("credited", max(ZERO, state["balance"]))
    await set_account(
        database,
        balance=state["balance"],
        credited=credited,
        debited=credited - state["balance"],
    )
    before = await dump(database)
    if allowed:
        [row] = await post(database, entry)
        assert abs(row.balance_after) in {MAX_BALANCE, Decimal(1)}
        return
    with pytest.raises(BillingError) as refused:
        await post(database, entry)
    assert (refused.value.code, refused.value.field) == ("LIMIT_EXCEEDED", ("amount",))
    assert await dump(database) == before


async def test_usage_is_rolled_up_by_local_date_and_what_it_names(database: Database) -> None:
    await add_mandate(
        database, model=BillingModel.PREPAY_MANDATE, users=["alice", "bob"], time_zone="Asia/Tokyo"
    )
    at = datetime(2026, 3, 31, 14, 59, 59, 999999, tzinfo=UTC)  # the last moment of March there
    azure = {"aicore_provider": "azure", "aicore_model": "gpt", "feature_code": "chat"}
    await post(database, (CREDIT, ADMIN, 100), occurred_at=at)
    await post(database, (DEBIT, USAGE, "0.1"), (DEBIT, USAGE, "0.2"), occurred_at=at, **azure)
    await post(database, (DEBIT, USAGE, "0.4"), occurred_at=at, **azure)
    await post(database, (DEBIT, USAGE, "0.8"), occurred_at=at + timedelta(microseconds=1), **azure)
    await post(database, (DEBIT, USAGE, "1.6"), occurred_at=at, user_id="bob", **azure)
    await post(database, (DEBIT, USAGE, 0), occurred_at=at, workflow_id="w1")
    rows = await read_rows(database, daily_usage)
    assert [
        (row.local_date, row.user_id, row.aicore_provider, row.cost, row.transaction_count)
        for row in rows
    ] == [
        (date(2026, 3, 31), "alice", "", ZERO, 1),
        (date(2026, 3, 31), "alice", "azure", Decimal("0.7"), 3),
        (date(2026, 3, 31), "bob", "azure", Decimal("1.6"), 1),
        (date(2026, 4, 1), "alice", "azure", Decimal("0.8"), 1),
    ]
    assert {(row.aicore_model, row.feature_code) for row in rows[1:]} == {("gpt", "chat")}
    assert {row.account_id for row in rows} == {(await account(database)).id}


@pytest.mark.parametrize(
    ("instant", "day"),
    [
        ("2026-03-28T22:59:59Z", date(2026, 3, 28)),
        ("2026-03-28T23:00:00Z", date(2026, 3, 29)),  # the day of 23 hours
        ("2026-03-29T21:59:59Z", date(2026, 3, 29)),
        ("2026-03-29T22:00:00Z", date(2026, 3, 30)),
        ("2026-10-24T22:00:00Z", date(2026, 10, 25)),  # the day of 25 hours
        ("2026-10-25T22:59:59Z", date(2026, 10, 25)),
        ("2026-10-25T23:00:00Z", date(2026, 10, 26)),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_local_day_respects_daylight_saving(
    database: Database, instant: str, day: date
) -> None:
    await add_mandate(database, time_zone="Europe/Zurich")
    await post(database, (DEBIT, USAGE, 1), occurred_at=datetime.fromisoformat(instant))
    assert [row.local_date for row in await read_rows(database, daily_usage)] == [day]


def test_the_first_result_of_a_key() -> None:
    row = SimpleNamespace(content_hash="same")
    assert same_content(None, "same") is None
    assert same_content(row, "same") is row
    with pytest.raises(BillingError, match="other content") as refused:
        same_content(row, "other")
    assert refused.value.code == "IDEMPOTENCY_CONFLICT"
    assert refused.value.field == ("idempotency_key",)


async def test_keys_are_found_in_their_own_mandate_only(database: Database) -> None:
    await add_mandate(database)
    await add_mandate(database, "globex")
    key = fresh()
    digest = content_hash("test", {})
    await post(database, (DEBIT, USAGE, 1), idempotency_key=key, content_hash=digest)

    async def work(ledger: Ledger) -> list[str]:
        await ledger.prepare(Needs(keys=[key, "unknown", "k" * 255]))
        return [found for found in (key, "unknown") if ledger.written_under(found, digest)]

    assert await in_ledger(database, "acme", work) == [key]
    assert await in_ledger(database, "globex", work) == []


async def test_a_lost_update_cannot_be_written(database: Database) -> None:
    """The database itself refuses a second row at one place of an account's history."""
    await add_mandate(database)
    [row] = await post(database, (DEBIT, USAGE, 1))
    before = await dump(database)
    again = vars(row) | {"id": "00000000-0000-7000-8000-000000000001"}
    with pytest.raises(Exception, match=r"(?i)unique"):
        async with database.engine.begin() as connection:
            await connection.execute(transactions.insert().values(again))
    with pytest.raises(Exception, match=r"(?i)check"):
        await set_account(database, balance=ZERO)
    assert await dump(database) == before


async def test_an_account_is_locked_by_one_unit_at_a_time(
    database: Database, database_url: str
) -> None:
    await add_mandate(database, model=BillingModel.PREPAY_USER)
    await post(database, (DEBIT, USAGE, 1))
    order: list[str] = []

    async def work(ledger: Ledger, name: str) -> None:
        await ledger.prepare(Needs(spends=[("alice", None)]))
        order.append(name)
        await asyncio.sleep(0.1)
        order.append(name)

    async with Database(database_url) as other:  # as another process
        await asyncio.gather(
            in_ledger(database, MANDATE, lambda ledger: work(ledger, "a")),
            in_ledger(other, MANDATE, lambda ledger: work(ledger, "b")),
        )
    assert order in (["a", "a", "b", "b"], ["b", "b", "a", "a"])


async def test_settings_change_between_units_only(database: Database, database_url: str) -> None:
    await add_mandate(database, default_user_credit=Decimal(1))
    locked = asyncio.Event()
    order: list[str] = []

    async def work(ledger: Ledger) -> None:
        locked.set()
        await asyncio.sleep(0.1)
        order.append("judged")

    async def change(other: Database) -> None:
        await locked.wait()
        await change_settings(other, default_user_credit=Decimal(2))
        order.append("changed")

    async with Database(database_url) as other:
        await asyncio.gather(in_ledger(database, MANDATE, work), change(other))
    assert order == ["judged", "changed"]
