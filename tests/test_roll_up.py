"""The roll-up beside what writes it with each transaction: days that are totalled, rebuilds, another time zone."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.billing.directory import set_time_zone, upsert_mandate
from app.billing.enums import ReferenceType, TransactionType
from app.billing.errors import BillingError
from app.billing.ledger import Ledger, in_ledger
from app.billing.locked import Needs
from app.billing.models import audit_events, daily_totals, daily_usage, settings
from app.billing.roll_up import rebuild_next_week, rebuild_roll_up, total_days
from app.billing.verify import verify_ledger
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.statistics import DAY, YEAR, find, total, write
from tests.world import (
    MANDATE,
    PREPAY_USER,
    SYSADMIN,
    add_mandate,
    dump,
    ledger_rows,
    outcomes,
    read_rows,
    record,
    reverse,
    run_sql,
    usage_event,
)

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
LATER = datetime(2026, 3, 12, 13, tzinfo=UTC)
"""When the 11th has been over everywhere for an hour."""
ONE_DAY = timedelta(days=1)


async def rebuild(database: Database, mandate_id: str = MANDATE) -> list[float]:
    return [done async for done in rebuild_roll_up(database, mandate_id)]


async def problems(database: Database, mandate_id: str = MANDATE) -> list[str]:
    async with database.snapshot() as connection:
        return [str(one) for one in (await verify_ledger(connection, mandate_id)).mismatches]


async def totals(database: Database) -> list[tuple[date, str, Decimal, int]]:
    rows = await read_rows(database, daily_totals)
    return [(row.local_date, row.aicore_model, row.cost, row.transaction_count) for row in rows]


async def totalled_until(database: Database) -> date:
    [row] = await read_rows(database, settings, mandate_id=MANDATE)
    return row.totalled_until  # type: ignore[no-any-return]


@pytest.fixture
async def used(database: Database) -> Database:
    """Two users' calls on the 10th and 12th of March 2026."""
    await add_mandate(database, users=("alice", "bob"))
    for moment in (NOON, NOON + 2 * ONE_DAY):
        await write(
            database,
            usage_event(1, occurred_at=moment, aicore_model="gpt"),
            usage_event("0.5", occurred_at=moment, aicore_model="gpt", user_id="bob"),
            usage_event(2, occurred_at=moment, user_id="bob"),
        )
    return database


async def test_days_that_are_over_are_totalled(used: Database) -> None:
    await total_days(used, LATER)
    tenth = date(2026, 3, 10)
    assert await totals(used) == [(tenth, "", 2, 1), (tenth, "gpt", Decimal("1.5"), 2)]
    assert await totalled_until(used) == date(2026, 3, 12)
    assert await problems(used) == []
    await total_days(used, LATER + ONE_DAY)
    assert len(await totals(used)) == 4
    assert await totalled_until(used) == date(2026, 3, 13)
    assert await problems(used) == []


async def test_a_day_is_totalled_once_it_is_over_everywhere(used: Database) -> None:
    """The last zone is 12 hours behind UTC; an hour more lets late calls arrive."""
    just = datetime(2026, 3, 11, 13, tzinfo=UTC)
    await total_days(used, just - timedelta(microseconds=1))
    assert await totals(used) == []
    await total_days(used, just)
    assert len(await totals(used)) == 2


async def test_nothing_is_written_where_nothing_is_to_be_totalled(used: Database) -> None:
    await total_days(used, LATER)
    before = await dump(used)
    await total_days(used, LATER)
    await total_days(used, LATER - 30 * ONE_DAY)  # a clock that is behind
    assert await dump(used) == before


async def test_late_calls_and_reversals_reach_the_totals(used: Database) -> None:
    await total_days(used, datetime.now(UTC) + 2 * ONE_DAY)
    await write(
        used,
        usage_event(3, occurred_at=NOON, aicore_model="gpt", user_id="bob"),
        usage_event(4, occurred_at=NOON - ONE_DAY),
        usage_event(5, occurred_at=NOON, aicore_model="gpt"),
    )
    row = (await ledger_rows(used))[-1]
    await reverse(used, row.id)  # dated today, which is totalled already
    found = {(day, model): (cost, count) for day, model, cost, count in await totals(used)}
    assert found[date(2026, 3, 10), "gpt"] == (Decimal("9.5"), 4)
    assert found[date(2026, 3, 9), ""] == (Decimal(4), 1)
    assert found[datetime.now(UTC).date(), "gpt"] == (-row.amount, 0)
    assert await problems(used) == []
    assert await total(used, YEAR, 2026) == (Decimal(14), 9)


async def test_totals_are_read_and_what_follows_them(used: Database) -> None:
    """Whatever has been totalled, statistics are the same; and they do read the totals."""
    for now in (LATER - 2 * ONE_DAY, LATER, LATER + ONE_DAY):
        await total_days(used, now)
        view = await find(used, DAY, 2026, 3)
        assert await view.total_cost() == 7
        assert [bucket.cost for bucket in await view.buckets() if bucket.cost] == [3.5, 3.5]
    await run_sql(used, "UPDATE daily_total SET cost = cost * 2")
    assert await total(used, YEAR, 2026) == (14, 6)
    assert await total(used, YEAR, 2026, user_id="bob") == (5, 4)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE daily_total SET cost = cost + 1",
        "UPDATE daily_total SET transaction_count = 7",
        "DELETE FROM daily_total WHERE aicore_model = 'gpt'",
        "UPDATE daily_total SET local_date = '2026-03-09'",
        "UPDATE billing_settings SET totalled_until = '2026-03-10'",
        "UPDATE billing_settings SET totalled_until = '2026-03-13'",
    ],
)
async def test_forged_totals_are_found_and_rebuilt(used: Database, statement: str) -> None:
    await total_days(used, LATER)
    await run_sql(used, statement)
    found = await problems(used)
    assert found
    assert all(problem.startswith("mandate acme: the total of 2026-03-") for problem in found)
    assert (await rebuild(used))[-1] == 1
    assert await problems(used) == []
    assert await total(used, YEAR, 2026) == (7, 6)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE daily_usage SET cost = cost + 1",
        "DELETE FROM daily_usage",
        "UPDATE daily_usage SET local_date = '1999-12-31' WHERE local_date = '2026-03-10'",
        "UPDATE daily_usage SET local_date = '2026-03-11' WHERE local_date = '2026-03-10'",
        "UPDATE daily_usage SET local_date = '2027-03-11' WHERE local_date = '2026-03-10'",
    ],
)
async def test_a_roll_up_is_rebuilt(used: Database, statement: str) -> None:
    await total_days(used, LATER)
    before = await dump(used)
    await run_sql(used, statement)
    assert await problems(used)
    assert await rebuild(used) == [1, 1]
    assert await dump(used) == before


async def test_a_rebuild_goes_on_from_week_to_week(database: Database) -> None:
    """Over gaps, and up to a day that ends where a week does; each step says how far it is."""
    await add_mandate(database, time_zone="Europe/Zurich")
    for day in (0, 6, 7, 13, 14, 100, 199):
        await write(database, usage_event(1, occurred_at=NOON + day * ONE_DAY))
    await total_days(database, NOON + 105 * ONE_DAY)
    before = await dump(database)
    await run_sql(database, "DELETE FROM daily_usage")
    await run_sql(database, "UPDATE daily_total SET cost = 7")
    await run_sql(database, "DELETE FROM daily_user_total")
    assert await rebuild(database) == [7 / 200, 14 / 200, 21 / 200, 107 / 200, 1, 1]
    assert await dump(database) == before


async def test_a_mandate_without_usage(database: Database) -> None:
    await add_mandate(database)
    before = await dump(database)
    assert await rebuild(database) == [1]
    await total_days(database, LATER)
    assert await dump(database) == before


async def test_totals_beyond_64_bits(database: Database) -> None:
    """Of more accounts than one, whose own figures all fit: exact on PostgreSQL, left alone on SQLite."""
    users = [f"user-{place}" for place in range(3)]
    for mandate_id in (MANDATE, "zeta"):
        await add_mandate(database, mandate_id, PREPAY_USER, users=users)
        await write(
            database,
            *(usage_event(1, mandate_id=mandate_id, user_id=u, occurred_at=NOON) for u in users),
        )
    most = 9 * 10**18
    await run_sql(
        database, "UPDATE daily_usage SET cost = :most WHERE mandate_id = 'acme'", most=most
    )
    if database.is_sqlite:
        with pytest.raises(DBAPIError, match="overflow"):
            await total_days(database, LATER)
        assert await totalled_until(database) == date.min
    else:
        await total_days(database, LATER)
        assert [row[2] for row in await totals(database)] == [Decimal(27 * 10**9), Decimal(3)]
    [healthy] = await read_rows(database, settings, mandate_id="zeta")
    assert healthy.totalled_until == LATER.date()
    # What is too large for them is refused, or kept to the last digit.
    near = "UPDATE daily_total SET cost = 9223372036854775807 WHERE mandate_id = 'zeta'"
    await run_sql(database, near)
    late = usage_event(1, mandate_id="zeta", user_id="user-0", occurred_at=NOON)
    if database.is_sqlite:
        with pytest.raises(IntegrityError, match="daily_total_cost"):
            await write(database, late)
    else:
        await write(database, late)
        assert (await totals(database))[1][2] == Decimal("9223372037.854775807")


async def test_rebuilt_and_totalled_while_others_write(database: Database) -> None:
    """Late calls of the very days that are being rebuilt, by several writers."""
    await add_mandate(database, users=("alice", "bob", "carol"))
    now = datetime.now(UTC)
    await record(database, *(usage_event(1, occurred_at=now - n * ONE_DAY) for n in range(30)))
    done = asyncio.Event()

    async def keep_writing(user_id: str) -> int:
        written = 0
        while not done.is_set():
            moment = now - written % 30 * ONE_DAY
            results = await record(database, usage_event(1, user_id=user_id, occurred_at=moment))
            assert outcomes(results) == ["RECORDED"]
            written += 1
        return written

    async def keep_totalling() -> None:
        for back in range(40, -3, -1):
            await total_days(database, now - back * ONE_DAY)

    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(keep_writing(user)) for user in ("alice", "bob", "carol")]
        totalling = group.create_task(keep_totalling())
        for _ in range(3):
            await rebuild(database)
        await totalling
        done.set()
    written = sum(writer.result() for writer in writers)
    assert await problems(database) == []
    assert len(await read_rows(database, daily_totals)) >= 30
    costs = [row.cost for row in await read_rows(database, daily_usage)]
    assert sum(costs) == written + 30


async def test_totals_wait_for_calls_under_way(used: Database) -> None:
    """A call that was judged before a day was totalled does not know that it has to add to it."""
    has_posted, may_commit = asyncio.Event(), asyncio.Event()

    async def call(ledger: Ledger) -> None:
        await ledger.prepare(Needs(spends=[("alice", NOON)]))
        debit = TransactionType.DEBIT, ReferenceType.USAGE, Decimal(3)
        account = ledger.paying_account("alice")
        ledger.post(account, *debit, occurred_at=NOON, user_id="alice", description="Late")
        has_posted.set()
        await may_commit.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(in_ledger(used, MANDATE, call))
        await has_posted.wait()
        group.create_task(total_days(used, LATER))
        await asyncio.sleep(0.2)
        may_commit.set()
    assert await problems(used) == []
    assert (await totals(used))[0] == (NOON.date(), "", Decimal(5), 2)


async def set_zone(database: Database, zone: str, viewer: Any = OPERATOR) -> list[float]:
    done: list[float] = []
    await set_time_zone(database, viewer, MANDATE, zone, done.append)
    return done


async def test_another_time_zone(database: Database) -> None:
    """What happened late in the evening is of the next day further east."""
    await add_mandate(database)
    evening = datetime(2026, 3, 10, 23, 30, tzinfo=UTC)
    await write(database, usage_event(1, occurred_at=evening), usage_event(2, occurred_at=NOON))
    await total_days(database, LATER)
    assert (await set_zone(database, "Europe/Zurich"))[-1] == 1
    assert await problems(database) == []
    view = await find(database, DAY, 2026, 3)
    assert view.time_zone == "Europe/Zurich"
    assert [bucket.cost for bucket in await view.buckets()][9:11] == [2, 1]
    assert [(day, cost) for day, _, cost, _ in await totals(database)] == [
        (date(2026, 3, 10), Decimal(2)),
        (date(2026, 3, 11), Decimal(1)),
    ]
    # From now on, too.
    await write(database, usage_event(4, occurred_at=evening))
    assert await problems(database) == []
    [event] = [row for row in await read_rows(database, audit_events) if row.before]
    assert event.action == "mandate.updated"
    assert (event.before, event.after) == ({"time_zone": "UTC"}, {"time_zone": "Europe/Zurich"})


async def test_spends_wait_for_another_time_zone(database: Database) -> None:
    """Each is counted by the zone in force when it is written, and none is lost."""
    await add_mandate(database, users=("alice", "bob"))
    now = datetime.now(UTC)

    async def keep_writing(user_id: str) -> None:
        for n in range(40):
            moment = now - timedelta(hours=7 * n)
            results = await record(database, usage_event(1, user_id=user_id, occurred_at=moment))
            assert outcomes(results) == ["RECORDED"]

    async def move() -> None:
        for zone in ("Asia/Tokyo", "America/New_York", "UTC", "Asia/Kathmandu"):
            await set_zone(database, zone)
            assert await problems(database) == []

    async with asyncio.TaskGroup() as group:
        for user in ("alice", "bob"):
            group.create_task(keep_writing(user))
        group.create_task(move())
    assert await problems(database) == []
    assert sum(row.cost for row in await read_rows(database, daily_usage)) == 80


async def test_the_same_time_zone_leaves_no_trace(used: Database) -> None:
    before = await dump(used)
    await set_zone(used, "UTC")
    assert await dump(used) == before


async def test_a_call_that_has_waited_for_another_time_zone_is_of_its_day(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_mandate(database)
    evening = datetime.now(UTC).replace(hour=23, minute=30) - timedelta(days=1)
    calls: list[asyncio.Task[Any]] = []

    async def slowly(*arguments: Any) -> Any:
        calls.append(asyncio.create_task(record(database, usage_event(1, occurred_at=evening))))
        await asyncio.sleep(0.2)
        return await rebuild_next_week(*arguments)

    monkeypatch.setattr("app.billing.directory.mandates.rebuild_next_week", slowly)
    await set_zone(database, "Pacific/Kiritimati")
    [call] = calls
    assert outcomes(await call) == ["RECORDED"]
    [day] = await read_rows(database, daily_usage)
    assert day.local_date == evening.date() + timedelta(days=1)


async def test_a_time_zone_that_is_refused(used: Database) -> None:
    before = await dump(used)
    for zone, mandate_id, field in (
        ("Mars", MANDATE, "time_zone"),
        ("UTC", "nobody", "mandate_id"),
    ):
        with pytest.raises(BillingError) as refused:
            await set_time_zone(used, OPERATOR, mandate_id, zone, lambda _: None)
        assert refused.value.field == (field,)
    with pytest.raises(BillingError, match="fixed"):
        await upsert_mandate(used, SYSADMIN, MANDATE, {"name": "Acme", "time_zone": "Asia/Tokyo"})
    assert await dump(used) == before
