"""Statistics: sums that agree to the last digit, days of every length, and nothing read in vain."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event

from app.billing.directory import remove_membership
from app.billing.enums import BillingModel, PeriodType
from app.billing.money import format_decimal
from app.billing.statistics import CostSlice, UsageDimension
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.api import statements
from tests.statistics import (
    DAY,
    HOUR,
    INSTANT,
    MONTH,
    PARTS,
    YEAR,
    ZURICH,
    both,
    find,
    total,
    use_some,
    write,
)
from tests.world import MANDATE, add_mandate, credit, run_sql, usage_event

pytestmark = pytest.mark.anyio

PROVIDER, MODEL, FEATURE, USER = (
    UsageDimension.PROVIDER,
    UsageDimension.MODEL,
    UsageDimension.FEATURE,
    UsageDimension.USER,
)


@pytest.fixture
async def used_world(database: Database) -> Database:
    await use_some(database)
    return database


def sizes(parts: Sequence[CostSlice]) -> list[tuple[str | None, str, int]]:
    return [(part.key, format_decimal(part.cost), part.transaction_count) for part in parts]


@both
async def test_parts_add_up(used_world: Database, reader: dict[str, Any]) -> None:
    view = await find(used_world, DAY, 2026, 3, **reader)
    assert (view.period, view.currency) == (DAY, "CHF")
    assert await view.total_cost() == Decimal("6.200000001")
    assert await view.transaction_count() == 3
    assert sizes(await view.cost_by(PROVIDER)) == [
        (None, "5", 1),
        ("openai", "1.000000001", 1),
        ("azure", "0.2", 1),
    ]
    assert sizes(await view.cost_by(MODEL)) == [(None, "5", 1), ("gpt", "1.200000001", 2)]
    assert sizes(await view.cost_by(FEATURE)) == [
        (None, "5", 1),
        ("chat", "1.200000001", 2),
    ]
    assert sizes(await view.cost_by(USER)) == [
        ("bob", "5", 1),
        ("alice", "1.200000001", 2),
    ]


@both
async def test_ties_by_key_and_none_last(database: Database, reader: dict[str, Any]) -> None:
    await add_mandate(database, time_zone="Europe/Zurich")
    noon = datetime(2026, 3, 10, 12, tzinfo=UTC)
    for provider in (None, "openai", "azure", "google"):
        amount = "2" if provider == "google" else "1"
        await write(database, usage_event(amount, occurred_at=noon, aicore_provider=provider))
    view = await find(database, DAY, 2026, 3, **reader)
    assert [part.key for part in await view.cost_by(PROVIDER)] == [
        "google",
        "azure",
        "openai",
        None,
    ]


@both
async def test_free_calls_count(database: Database, reader: dict[str, Any]) -> None:
    await add_mandate(database, time_zone="Europe/Zurich")
    await write(database, usage_event(0, occurred_at=datetime(2026, 3, 10, tzinfo=UTC)))
    view = await find(database, DAY, 2026, 3, **reader)
    assert (await view.total_cost(), await view.transaction_count()) == (0, 1)
    assert sizes(await view.cost_by(USER)) == [("alice", "0", 1)]


@both
async def test_nothing_but_usage_counts(database: Database, reader: dict[str, Any]) -> None:
    await add_mandate(database, model=BillingModel.PREPAY_USER, time_zone="Europe/Zurich")
    await credit(database, 50, "alice")
    now = datetime.now(ZoneInfo(reader.get("time_zone", "Europe/Zurich")))
    await write(database, usage_event(3, occurred_at=now))
    view = await find(database, DAY, now.year, now.month, **reader)
    assert await view.total_cost() == 3


@both
async def test_without_usage(database: Database, reader: dict[str, Any]) -> None:
    await add_mandate(database, time_zone="Europe/Zurich")
    view = await find(database, DAY, 2026, 2, **reader)
    assert (await view.total_cost(), await view.transaction_count()) == (0, 0)
    assert await view.cost_by(USER) == []
    assert [part.cost for part in await view.buckets()] == [0] * 28


@pytest.mark.parametrize(
    ("period", "year", "month", "count"),
    [
        (DAY, 2026, 2, 28),
        (DAY, 2024, 2, 29),
        (DAY, 2026, 12, 31),
        (MONTH, 2026, None, 12),
        (YEAR, 2026, None, 1),
        (YEAR, 1970, None, 1),
        (MONTH, 9998, None, 12),
    ],
)
async def test_buckets_have_no_gaps(
    database: Database, period: PeriodType, year: int, month: int | None, count: int
) -> None:
    for zone in ("Pacific/Kiritimati", "Pacific/Niue", "Europe/Zurich"):
        await add_mandate(database, zone, users=(), time_zone=zone)
        view = await find(database, period, year, month, mandate_id=zone)
        buckets = await view.buckets()
        edges = [view.from_, *(part.end for part in buckets)]
        assert [part.start for part in buckets] == edges[:-1]
        assert edges[-1] == view.to
        assert len(buckets) == count
        first = datetime(year, month or 1, 1, tzinfo=ZoneInfo(zone))
        assert view.from_ == first
        assert view.from_.tzinfo is view.to.tzinfo is UTC


@both
@pytest.mark.parametrize(("month", "day", "hours"), [(3, 29, 23), (10, 25, 25), (7, 1, 24)])
async def test_days_when_clocks_change(
    database: Database, month: int, day: int, hours: int, reader: dict[str, Any]
) -> None:
    here, there = ("UTC", "Europe/Zurich") if reader else ("Europe/Zurich", None)
    await add_mandate(database, time_zone=here)
    start = datetime(2026, month, day, tzinfo=ZURICH).astimezone(UTC)
    end = start + hours * HOUR
    assert end == datetime(2026, month, day + 1, tzinfo=ZURICH).astimezone(UTC)
    moments = [start - INSTANT, start, start + 3 * HOUR, end - INSTANT, end]
    await write(database, *(usage_event(occurred_at=moment) for moment in moments))
    view = await find(database, DAY, 2026, month, time_zone=there)
    buckets = await view.buckets()
    assert (buckets[day - 1].start, buckets[day - 1].end) == (start, end)
    assert [part.transaction_count for part in buckets[day - 1 : day + 1]] == [3, 1]
    assert await view.transaction_count() == (4 if day == 1 else 5)


@both
async def test_month_is_half_open(database: Database, reader: dict[str, Any]) -> None:
    here, there = ("UTC", "Europe/Zurich") if reader else ("Europe/Zurich", None)
    await add_mandate(database, time_zone=here)
    start, end = (datetime(2026, month, 1, tzinfo=ZURICH).astimezone(UTC) for month in (3, 4))
    await write(
        database,
        usage_event(1, occurred_at=start - INSTANT),
        usage_event(2, occurred_at=start),
        usage_event(4, occurred_at=end - INSTANT),
        usage_event(8, occurred_at=end),
    )
    buckets = await (await find(database, DAY, 2026, 3, time_zone=there)).buckets()
    assert [int(part.cost) for part in buckets] == [2, *[0] * 29, 4]


@both
async def test_day_that_never_was(database: Database, reader: dict[str, Any]) -> None:
    """Samoa went from the 29th to the 31st of December 2011."""
    here, there = ("UTC", "Pacific/Apia") if reader else ("Pacific/Apia", None)
    await add_mandate(database, time_zone=here)
    skip = datetime(2011, 12, 30, 10, tzinfo=UTC)
    await write(
        database, usage_event(1, occurred_at=skip - INSTANT), usage_event(2, occurred_at=skip)
    )
    buckets = await (await find(database, DAY, 2011, 12, time_zone=there)).buckets()
    assert buckets[29].start == buckets[29].end == skip
    assert [int(part.cost) for part in buckets[28:]] == [1, 0, 2]


async def test_month_and_year_end_at_local_midnight(database: Database) -> None:
    await add_mandate(database, time_zone="Asia/Kolkata")
    new_year = datetime(2026, 1, 1, tzinfo=ZoneInfo("Asia/Kolkata")).astimezone(UTC)
    april = datetime(2026, 4, 1, tzinfo=ZoneInfo("Asia/Kolkata")).astimezone(UTC)
    assert new_year.minute == 30
    await write(
        database,
        usage_event(1, occurred_at=new_year - INSTANT),
        usage_event(2, occurred_at=new_year),
        usage_event(4, occurred_at=april - INSTANT),
        usage_event(8, occurred_at=april),
    )
    assert await total(database, YEAR, 2025) == (1, 1)
    assert await total(database, YEAR, 2026) == (14, 3)
    buckets = await (await find(database, MONTH, 2026)).buckets()
    assert [int(part.cost) for part in buckets] == [2, 0, 4, 8, *[0] * 8]


async def test_own_zone_never_reads_transactions(used_world: Database) -> None:
    with statements() as sent:
        for asked in ((DAY, 2026, 3), (MONTH, 2026), (YEAR, 2026)):
            for zone in (None, "Europe/Zurich"):
                wanted: dict[str, Any] = {"user_id": "alice", "aicore_provider": "openai"}
                view = await find(used_world, *asked, time_zone=zone, **wanted)
                await view.buckets()
                for dimension in PARTS:
                    await view.cost_by(dimension)
    assert sent
    assert not [statement for statement in sent if reads_transactions(statement)]
    with statements() as sent:
        await total(used_world, DAY, 2026, 3, time_zone="UTC")
    assert [statement for statement in sent if reads_transactions(statement)]


def reads_transactions(statement: str) -> bool:
    return "FROM transaction" in statement.replace('"', "")


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({}, "daily_total_1 (mandate_id=? AND local_date>? AND local_date<?)"),
        (
            {"user_id": "alice"},
            "daily_user_total_1 (mandate_id=? AND local_date>? AND local_date<?)",
        ),
        (
            {"user_id": "alice", "aicore_provider": "openai"},
            "daily_usage_of_user (mandate_id=? AND user_id=? AND local_date>? AND local_date<?)",
        ),
        (
            {"time_zone": "UTC", "user_id": "alice", "aicore_provider": "openai"},
            "transaction_occurred (mandate_id=? AND occurred_at>? AND occurred_at<?)",
        ),
        (
            {"workflow_id": "flow", "user_id": "alice"},
            "transaction_workflow_occurred (mandate_id=? AND workflow_id=? AND occurred_at>? AND occurred_at<?)",
        ),
    ],
)
async def test_read_by_index(used_world: Database, asked: dict[str, Any], index: str) -> None:
    """As SQLite plans it; PostgreSQL's plan depends on how many rows there are."""
    if not used_world.is_sqlite:
        return
    view = await find(used_world, DAY, 2026, 3, **asked)
    sent: list[Any] = []
    engine = used_world._engines.reader.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *given: sent.append(given[2:4]))
    await view.buckets()
    [(statement, parameters)] = sent
    async with used_world.read() as connection:
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        steps = [step.detail for step in plan]
        assert [step for step in steps if step.endswith(index)], steps
        assert not [step for step in steps if step.startswith("SCAN") and "usage" not in step]


@both
async def test_fields_asked_together_are_read_together(
    used_world: Database, reader: dict[str, Any]
) -> None:
    """One statement: its parts agree whatever is written meanwhile."""
    view = await find(used_world, DAY, 2026, 3, **reader)
    with statements() as sent:
        await asyncio.gather(
            view.total_cost(),
            view.transaction_count(),
            view.buckets(),
            *map(view.cost_by, PARTS),
        )
        assert len(sent) == 1
        await view.buckets()
        await view.cost_by(MODEL)
        assert len(sent) == 1


async def test_only_what_is_asked_for_is_read(used_world: Database) -> None:
    with statements() as sent:
        view = await find(used_world, YEAR, 2026)
        assert len(sent) == 1
        await view.total_cost()
        await view.transaction_count()
    assert len(sent) == 2
    assert "aicore" not in sent[1]


async def test_sums_beyond_64_bits(used_world: Database) -> None:
    most = Decimal("9223372036.854775807")
    await run_sql(used_world, "UPDATE daily_usage SET cost = 9223372036854775807")
    view = await find(used_world, YEAR, 2026)
    assert await view.total_cost() == 3 * most
    assert [part.cost for part in await view.cost_by(USER)] == [2 * most, most]


@both
async def test_users_who_left_still_count(used_world: Database, reader: dict[str, Any]) -> None:
    await remove_membership(used_world, OPERATOR, MANDATE, "bob")
    view = await find(used_world, DAY, 2026, 3, **reader)
    assert [part.key for part in await view.cost_by(USER)] == ["bob", "alice"]
