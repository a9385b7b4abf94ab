"""Holds made, settled, released and run out of time at once, through two server processes.

Each test fails with its lock taken out.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.enums import BillingModel, HoldStatus, PeriodType
from app.billing.holds import expire_holds
from app.billing.models import accounts, holds
from app.database import Database
from tests.servers import (
    Request,
    Server,
    Servers,
    balance_of,
    change_of,
    connected,
    inhabited,
    new_hold,
    new_transfer,
    outcomes,
    proven,
    release_of,
    reversal,
    running,
    settlement,
    spends,
    watched,
)
from tests.world import (
    add_mandate,
    add_member,
    credit,
    fresh,
    hold,
    hold_status,
    ledger_rows,
    read_rows,
)

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


async def statuses(database: Database, mandate_id: str) -> Counter[str]:
    rows = await read_rows(database, holds, mandate_id=mandate_id)
    return Counter(str(row.status) for row in rows)


@pytest.mark.parametrize(
    ("model", "owner", "refusal"),
    [
        (BillingModel.PREPAY_USER, "alice", "INSUFFICIENT_FUNDS"),
        (BillingModel.PREPAY_MANDATE, None, "INSUFFICIENT_FUNDS"),
        (BillingModel.CREDIT_POSTPAY, None, "CREDIT_LIMIT_EXCEEDED"),
    ],
)
async def test_no_more_is_held_than_there_is(
    database: Database, servers: Servers, model: BillingModel, owner: str | None, refusal: str
) -> None:
    acme, paid_in = fresh("acme"), 0 if model == BillingModel.CREDIT_POSTPAY else 100
    await add_mandate(
        database, acme, model, default_user_credit=Decimal(0), credit_limit=Decimal(100)
    )
    if paid_in:
        await credit(database, paid_in, owner, mandate_id=acme)
    async with watched(database, acme, 100):
        payloads = await servers.send(*(new_hold(acme) for _ in range(300)))
    assert outcomes(payloads) == {"DONE": 100, refusal: 200}
    assert await statuses(database, acme) == {"OPEN": 100}
    assert await proven(database, acme) == {owner: paid_in}
    left = await servers.ask(balance_of(acme, owner))
    assert left == {"balance": str(paid_in), "held": "100", "available": "0"}


async def test_the_first_holds_open_an_account_once(database: Database, servers: Servers) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_USER)
    async with watched(database, acme, 10):
        payloads = await servers.send(*(new_hold(acme) for _ in range(40)))
    assert outcomes(payloads) == {"DONE": 10, "INSUFFICIENT_FUNDS": 30}
    assert await statuses(database, acme) == {"OPEN": 10}
    assert await proven(database, acme) == {"alice": 10}
    [row] = await ledger_rows(database, mandate_id=acme)
    assert row.reference_type == "SYSTEM"


async def test_holds_and_debits_share_what_there_is(database: Database, servers: Servers) -> None:
    """Holds are settled, for less and for more, and released meanwhile."""
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_USER, default_user_credit=Decimal(0))
    await credit(database, 50, "alice", mandate_id=acme)
    made = await servers.send(*(new_hold(acme, 2) for _ in range(20)))
    ids = [payload["hold"]["id"] for payload in made]
    ends = [
        *(settlement(acme, hold_id, "0.5") for hold_id in ids[:10]),
        *(settlement(acme, hold_id, 3) for hold_id in ids[10:15]),
        *(release_of(acme, hold_id) for hold_id in ids[15:]),
    ]
    wanted = [new_hold(acme) for _ in range(25)] + [spends(acme, "alice") for _ in range(25)]
    requests = random.sample(ends + wanted, 70)
    async with watched(database, acme, 50):
        payloads = await servers.send(*requests)
        more = await servers.send(*(new_hold(acme) for _ in range(35)))
    answers = list(zip(requests, payloads, strict=True))
    assert outcomes([answer for request, answer in answers if request in ends]) == {"DONE": 20}
    found = outcomes([answer for request, answer in answers if request in wanted]) + outcomes(more)
    granted = found["DONE"] + found["RECORDED"]
    assert granted + found["INSUFFICIENT_FUNDS"] == found.total() == 85
    # Nothing is left, and no more is missing than what settlements took beyond their holds.
    left = Decimal((await servers.ask(balance_of(acme, "alice")))["available"])
    assert -5 <= left <= 0
    assert granted == 50 - 10 * Decimal("0.5") - 5 * 3 - left
    assert await proven(database, acme) == {"alice": found["DONE"] + left}


@pytest.mark.parametrize("debits", [0, 30])
async def test_a_member_stays_within_a_limit_of_the_pool(
    database: Database, servers: Servers, debits: int
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_MANDATE, users=["bob"])
    limit = {"amount": Decimal(20), "period": PeriodType.YEAR}
    await add_member(database, "alice", acme, spend_limit=limit)
    await credit(database, 1000, mandate_id=acme)
    limited = [spends(acme, "alice") for _ in range(debits)]
    limited += [new_hold(acme) for _ in range(60 - debits)]
    others = [new_hold(acme, user_id="bob") for _ in range(20)]
    requests = random.sample(limited + others, 80)
    async with watched(database, acme, 40):
        payloads = await servers.send(*requests)
    found = outcomes(payloads)
    assert found["SPEND_LIMIT_EXCEEDED"] == 40
    assert found["DONE"] + found["RECORDED"] == 40
    assert await proven(database, acme) == {None: 1000 - found["RECORDED"]}
    held = Counter(row.user_id for row in await read_rows(database, holds, mandate_id=acme))
    assert held == {"alice": 20 - found["RECORDED"], "bob": 20}


async def hold_again(database: Database, mandate_id: str) -> Request:
    return new_hold(mandate_id)


async def settle_again(database: Database, mandate_id: str) -> Request:
    return settlement(mandate_id, await hold(database, 2, mandate_id=mandate_id))


async def reverse_again(database: Database, mandate_id: str) -> Request:
    row = await credit(database, 1, "alice", mandate_id=mandate_id)
    return reversal(mandate_id, row.id)


async def transfer_again(database: Database, mandate_id: str) -> Request:
    for user_id in ("alice", "bob"):
        await credit(database, 1, user_id, mandate_id=mandate_id)
    return new_transfer(mandate_id, "alice", "bob")


@pytest.mark.parametrize(
    ("prepare", "made", "balances"),
    [
        (hold_again, [1, 1], {"alice": 10}),
        (settle_again, [1, 2], {"alice": 9}),
        (reverse_again, [0, 3], {"alice": 10}),
        (transfer_again, [0, 6], {"alice": 10, "bob": 12}),
    ],
)
async def test_what_is_sent_a_hundred_times_at_once_is_done_once(
    database: Database,
    servers: Servers,
    prepare: Callable[[Database, str], Awaitable[Request]],
    made: list[int],
    balances: dict[str, int],
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_USER, users=("alice", "bob"))
    request = await prepare(database, acme)
    payloads = await servers.send(*[request] * 100)
    assert payloads == payloads[:1] * 100
    assert outcomes(payloads) == {"DONE": 100}
    assert await proven(database, acme) == balances
    rows = [await read_rows(database, holds, mandate_id=acme)]
    rows += [await ledger_rows(database, mandate_id=acme)]
    assert [len(found) for found in rows] == made


async def end_time(database: Database, mandate_id: str, hold_id: str) -> None:
    """Lets the time of a hold be over, as if it had passed."""

    async def unit(connection: AsyncConnection) -> None:
        await connection.execute(
            update(holds)
            .where(holds.c.mandate_id == mandate_id, holds.c.id == hold_id)
            .values(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        )

    await database.write(unit)


async def test_a_hold_ends_once(database: Database, servers: Servers) -> None:
    """Settled, released and out of time at once, it is one of them; booked only if it is settled."""
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_USER)
    await credit(database, 90, "alice", mandate_id=acme)
    made = await servers.send(*(new_hold(acme) for _ in range(80)))
    ids = [payload["hold"]["id"] for payload in made]
    turns = asyncio.Semaphore(4)

    async def race(place: int, hold_id: str) -> tuple[Any, Any]:
        async with turns, asyncio.TaskGroup() as group:
            ends = [settlement(acme, hold_id, 2), release_of(acme, hold_id)]
            sent = [group.create_task(servers.ask(end, place + n)) for n, end in enumerate(ends)]
            if place < 50:
                group.create_task(end_time(database, acme, hold_id))
        return sent[0].result(), sent[1].result()

    async def sweep() -> None:
        while not all(task.done() for task in races):
            await expire_holds(database)

    async with watched(database, acme, 100), asyncio.TaskGroup() as group:
        races = [group.create_task(race(place, hold_id)) for place, hold_id in enumerate(ids)]
        for _ in range(2):
            group.create_task(sweep())
    booked = Counter(
        row.hold_id for row in await ledger_rows(database, mandate_id=acme) if row.hold_id
    )
    for hold_id, task in zip(ids, races, strict=True):
        settled, released = task.result()
        if await hold_status(database, hold_id, acme) == "SETTLED":
            assert booked[hold_id] == 1
            assert outcomes([settled]) == {"DONE": 1}
            assert released["hold"] is None or released["hold"]["status"] != "RELEASED"
        else:
            assert await hold_status(database, hold_id, acme) == "RELEASED"
            assert booked[hold_id] == 0
            assert outcomes([settled]) == {"HOLD_NOT_OPEN": 1}
            assert released["hold"] == {"id": hold_id, "status": "RELEASED"}
    assert await proven(database, acme) == {"alice": 100 - 2 * booked.total()}
    left = await servers.ask(balance_of(acme, "alice"))
    assert (left["held"], left["available"]) == ("0", left["balance"])


async def wait_to_release(servers: Servers, mandate_id: str, hold_id: str) -> None:
    payload = await servers.ask(release_of(mandate_id, hold_id))
    assert payload["hold"] == {"id": hold_id, "status": "EXPIRED"}


async def wait_to_settle(servers: Servers, mandate_id: str, hold_id: str) -> None:
    payload = await servers.ask(settlement(mandate_id, hold_id))
    assert outcomes([payload]) == {"HOLD_NOT_OPEN": 1}


async def wait_to_sweep(database: Database, mandate_id: str, hold_id: str) -> None:
    await expire_holds(database)


@pytest.mark.parametrize(
    ("end", "wait"),
    [
        (HoldStatus.EXPIRED, wait_to_release),
        (HoldStatus.RELEASED, wait_to_settle),
        (HoldStatus.RELEASED, wait_to_sweep),
    ],
)
async def test_what_waits_for_the_end_of_a_hold_leaves_it_so(
    database: Database,
    servers: Servers,
    lasting_database_url: str,
    end: HoldStatus,
    wait: Callable[..., Coroutine[Any, Any, None]],
) -> None:
    acme = fresh("acme")
    await add_mandate(database, acme, BillingModel.PREPAY_USER)
    hold_id = await hold(database, mandate_id=acme)
    sweeps = wait is wait_to_sweep
    if sweeps:
        await end_time(database, acme, hold_id)
    async with (
        Database(lasting_database_url) as other,
        asyncio.TaskGroup() as group,
        other.engine.begin() as connection,
    ):
        await connection.execute(
            update(holds)
            .where(holds.c.mandate_id == acme, holds.c.id == hold_id)
            .values(status=end)
        )
        waiting = group.create_task(wait(database if sweeps else servers, acme, hold_id))
        await asyncio.sleep(0.3)
        assert not waiting.done()
    assert await hold_status(database, hold_id, acme) == end


async def test_a_model_never_changes_under_a_hold(database: Database, servers: Servers) -> None:
    """Whichever comes second is refused; both together would hold money that nobody can spend."""
    mandates = [fresh("acme") for _ in range(30)]
    for mandate_id in mandates:
        await add_mandate(
            database,
            mandate_id,
            BillingModel.CREDIT_POSTPAY,
            default_user_credit=Decimal(0),
            credit_limit=Decimal(1),
        )
    changes = [change_of(mandate_id, billingModel="PREPAY_USER") for mandate_id in mandates]
    made = [new_hold(mandate_id) for mandate_id in mandates]
    pairs = [
        request
        for place, pair in enumerate(zip(changes, made, strict=True))
        for request in (pair if place // 2 % 2 else pair[::-1])
    ]
    answers = {
        (document, variables["input"]["mandateId"]): payload
        for (_, document, variables), payload in zip(pairs, await servers.send(*pairs), strict=True)
    }
    for mandate_id, change, held in zip(mandates, changes, made, strict=True):
        found = [outcomes([answers[request[1], mandate_id]]) for request in (change, held)]
        opened = await read_rows(database, accounts, mandate_id=mandate_id)
        if opened:
            assert found == [{"BALANCE_NOT_ZERO": 1}, {"DONE": 1}]
            assert await statuses(database, mandate_id) == {"OPEN": 1}
        else:
            assert found == [{"DONE": 1}, {"INSUFFICIENT_FUNDS": 1}]
