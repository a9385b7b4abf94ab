"""What many clients do at once through two server processes. Each test fails with its lock taken out."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal

import pytest
from sqlalchemy import text

from app.billing.enums import BillingModel
from app.database import Database
from tests.servers import (
    Server,
    Servers,
    change_of,
    connected,
    debits,
    inhabited,
    new_credit,
    new_transfer,
    outcomes,
    proven,
    running,
    spends,
    watched,
)
from tests.world import add_mandate, balances, change_settings, credit, fresh, ledger_rows, notices

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def processes(lasting_database_url: str) -> Iterator[list[Server]]:
    with running(lasting_database_url, processes=2) as processes:
        yield processes


@pytest.fixture
async def database(lasting_database_url: str) -> AsyncIterator[Database]:
    async with inhabited(lasting_database_url) as database:
        yield database


@pytest.fixture
async def servers(processes: list[Server], lasting_database_url: str) -> AsyncIterator[Servers]:
    async with connected(processes, lasting_database_url) as servers:
        yield servers


@pytest.mark.parametrize(
    ("model", "user_id", "funds", "refusal"),
    [
        (BillingModel.PREPAY_USER, "alice", 40, "INSUFFICIENT_FUNDS"),
        (BillingModel.CREDIT_POSTPAY, None, 20, "CREDIT_LIMIT_EXCEEDED"),
    ],
)
async def test_nobody_overspends_by_calling_at_once(
    database: Database,
    servers: Servers,
    model: BillingModel,
    user_id: str | None,
    funds: int,
    refusal: str,
) -> None:
    acme = fresh("acme")
    await add_mandate(
        database, acme, model, default_user_credit=Decimal(0), credit_limit=Decimal(0)
    )
    await credit(database, funds, user_id, mandate_id=acme)
    async with watched(database, acme, funds):
        payloads = await servers.send(*(spends(acme, "alice") for _ in range(2 * funds)))
    assert outcomes(payloads) == {"RECORDED": funds, refusal: funds}
    assert await proven(database, acme) == {user_id: 0}
    assert len(await ledger_rows(database, mandate_id=acme)) == funds + 1


async def test_a_credit_sent_a_hundred_times_at_once_is_one(
    database: Database, servers: Servers
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_MANDATE)
    # Opens the account, and connections: the first transactions must not wait for one.
    await servers.send(*(debits(acme, "alice") for _ in range(30)))
    async with watched(database, acme):
        payloads = await servers.send(*[new_credit(acme)] * 100)
    *_, row = await ledger_rows(database, mandate_id=acme)
    assert [payload["userErrors"] for payload in payloads] == [[]] * 100
    assert {payload["transaction"]["id"] for payload in payloads} == {row.id}
    assert await proven(database, acme) == {None: -29}


async def test_an_event_sent_fifty_times_at_once_is_one(
    database: Database, servers: Servers
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_USER)
    payloads = await servers.send(*[spends(acme, "alice")] * 50)
    assert outcomes(payloads) == {"RECORDED": 1, "DUPLICATE": 49}
    assert len({payload["results"][0]["transaction"]["id"] for payload in payloads}) == 1
    assert await proven(database, acme) == {"alice": 9}


async def test_one_key_for_two_users_at_once_is_one_event(
    database: Database, servers: Servers
) -> None:
    """Their accounts have locks of their own: only the key itself can stop the second."""
    acme, users = fresh("acme"), ["alice", "bob"]
    await add_mandate(database, acme, BillingModel.PREPAY_USER, users=users)
    await servers.send(debits(acme, *users))
    for _ in range(10):
        key = fresh()
        payloads = await servers.send(
            *(debits(acme, user_id, idempotencyKey=key) for user_id in users)
        )
        assert outcomes(payloads) == {"RECORDED": 1, "IDEMPOTENCY_CONFLICT": 1}
    assert sum((await proven(database, acme)).values()) == 8


@pytest.mark.parametrize(
    ("model", "owner", "balance"),
    [(BillingModel.PREPAY_USER, "alice", -30), (BillingModel.PREPAY_MANDATE, None, -40)],
)
async def test_an_account_is_opened_once(
    database: Database, servers: Servers, model: BillingModel, owner: str | None, balance: int
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, model)
    payloads = await servers.send(*(debits(acme, "alice") for _ in range(40)))
    assert outcomes(payloads) == {"RECORDED": 40}
    assert await proven(database, acme) == {owner: balance}
    rows = await ledger_rows(database, mandate_id=acme)
    assert [row.reference_type for row in rows].count("SYSTEM") == (1 if owner else 0)


async def test_a_default_credit_is_spent_once(database: Database, servers: Servers) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_USER)
    payloads = await servers.send(*(spends(acme, "alice") for _ in range(40)))
    assert outcomes(payloads) == {"RECORDED": 10, "INSUFFICIENT_FUNDS": 30}
    assert await proven(database, acme) == {"alice": 0}


async def test_batches_that_name_users_in_opposite_order(
    database: Database, servers: Servers
) -> None:
    acme, users = fresh("acme"), [f"user-{n}" for n in range(8)]
    await add_mandate(database, acme, BillingModel.PREPAY_USER, users=users)
    payloads = await servers.send(
        *(debits(acme, *(users if n % 2 else reversed(users))) for n in range(10))
    )
    assert outcomes(payloads) == {"RECORDED": 80}
    assert await proven(database, acme) == dict.fromkeys(users, 0)


async def test_credits_and_debits_at_once_all_count(database: Database, servers: Servers) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_MANDATE)
    requests = [request for _ in range(40) for request in (new_credit(acme), debits(acme, "alice"))]
    await servers.send(*requests, *(debits(acme, "alice") for _ in range(20)))
    assert await proven(database, acme) == {None: -20}
    assert len(await ledger_rows(database, mandate_id=acme)) == 100


async def test_a_model_never_changes_under_a_credit(database: Database, servers: Servers) -> None:
    """Whichever comes second is refused; both together would leave money where nobody can spend it."""
    mandates = [fresh("acme") for _ in range(20)]
    for mandate_id in mandates:
        await add_mandate(
            database, mandate_id, BillingModel.PREPAY_USER, default_user_credit=Decimal(0)
        )
    changes = [change_of(mandate_id, billingModel="PREPAY_MANDATE") for mandate_id in mandates]
    credits_ = [new_credit(mandate_id, "alice") for mandate_id in mandates]
    pairs = [request for pair in zip(changes, credits_, strict=True) for request in pair]
    payloads = await servers.send(*pairs)
    for mandate_id, changed, credited in zip(mandates, payloads[::2], payloads[1::2], strict=True):
        codes = [
            error["code"] for payload in (changed, credited) for error in payload["userErrors"]
        ]
        assert codes in (["BALANCE_NOT_ZERO"], ["BILLING_MODEL_MISMATCH"])
        assert await balances(database, mandate_id) in ({}, {"alice": 1})


async def test_settings_changed_at_once_lose_no_change(
    database: Database, servers: Servers
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme)
    await change_settings(database, acme, notify_on_warning=False)
    payloads = await servers.send(
        *(change_of(acme, expectedVersion=1, defaultUserCredit=str(100 + n)) for n in range(20))
    )
    codes = Counter(error["code"] for payload in payloads for error in payload["userErrors"])
    assert codes == {"VERSION_CONFLICT": 19}


async def test_a_busy_mandate_can_still_be_changed(database: Database, servers: Servers) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_MANDATE)
    done = False

    async def keep_spending() -> None:
        while not done:
            await servers.send(debits(acme, "alice"))

    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(keep_spending())
        await asyncio.sleep(1)
        try:
            async with asyncio.timeout(10):
                for _ in range(3):
                    payload = await servers.ask(change_of(acme, warningThresholdPercent="20"))
                    assert payload["userErrors"] == []
        finally:
            done = True
    await proven(database, acme)


async def test_transfers_in_both_directions_at_once(database: Database, servers: Servers) -> None:
    """None waits for the other in a circle: their accounts are locked in one order."""
    acme, users = fresh("acme"), ("alice", "bob")
    await add_mandate(
        database, acme, BillingModel.PREPAY_USER, users=users, default_user_credit=Decimal(0)
    )
    for user_id in users:
        await credit(database, 1000, user_id, mandate_id=acme)
    before = await deadlocks(database)
    there = [new_transfer(acme, *users) for _ in range(250)]
    back = [new_transfer(acme, *reversed(users)) for _ in range(250)]
    async with watched(database, acme):
        payloads = await servers.send(*random.sample(there + back, 500), at_once=16)
    assert outcomes(payloads) == {"DONE": 500}
    assert await proven(database, acme) == {"alice": 1000, "bob": 1000}
    _, _, *legs = await ledger_rows(database, mandate_id=acme)
    assert len(legs) == 1000
    assert {leg.id: leg.counterpart_id for leg in legs} == {
        leg.counterpart_id: leg.id for leg in legs
    }
    assert await deadlocks(database) == before


async def deadlocks(database: Database) -> int:
    """How many PostgreSQL has broken; SQLite's writers follow one another."""
    if database.is_sqlite:
        return 0
    async with database.read() as connection:
        # A backend tells of its own once a second at most, when it is done with something.
        await asyncio.sleep(1.1)
        found = await connection.execute(
            text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        )
        return int(found.scalar_one())


@pytest.mark.parametrize(
    ("amount", "told", "notify_emails"),
    [
        ("1.9", ["balance.warning"], []),
        ("2", ["balance.depleted", "balance.warning"], ["ada@example.com"]),
    ],
)
async def test_an_alert_is_told_once(
    database: Database, servers: Servers, amount: str, told: list[str], notify_emails: list[str]
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_MANDATE, notify_emails=notify_emails)
    await credit(database, 100, mandate_id=acme)
    payloads = await servers.send(*(debits(acme, "alice", amount=amount) for _ in range(50)))
    assert outcomes(payloads) == {"RECORDED": 50}
    assert await proven(database, acme) == {None: 100 - 50 * Decimal(amount)}
    by_channel: dict[str, list[str]] = {}
    for notice in await notices(database, mandate_id=acme):
        if notice.notice_type != "credit.added":
            by_channel.setdefault(notice.channel, []).append(notice.notice_type)
    assert {channel: sorted(kinds) for channel, kinds in by_channel.items()} == dict.fromkeys(
        ["WEBHOOK", *(["EMAIL"] if notify_emails else [])], told
    )
