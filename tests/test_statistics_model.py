"""Every statistic against plain Python over the rows of the ledger: random calls, zones, ranges and groups."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.billing.enums import PeriodType, ReferenceType
from app.billing.errors import BadInput
from app.billing.periods import Granularity
from app.billing.roll_up import rebuild_roll_up, total_days
from app.billing.statistics import UsageBucket, UsageDimension, UsageFilter, find_usage
from app.billing.verify import verify_ledger
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.statistics import DAY, INSTANT, MONTH, PARTS, YEAR, ask, find, write
from tests.world import SYSADMIN, add_mandate, fresh, ledger_rows, reverse, usage_event

pytestmark = pytest.mark.anyio

ZONES = [
    "UTC",
    "Europe/Zurich",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "America/New_York",
    "Australia/Lord_Howe",
]
HOUR = Granularity.HOUR

amounts = st.integers(0, 10**15).map(lambda nano: Decimal(nano).scaleb(-9))
names = st.sampled_from([None, "a", "b"])
# Months end and clocks change around these midnights.
midnights = [(1, 1), (3, 8), (3, 29), (4, 5), (10, 4), (10, 25), (11, 1)]
moments = st.one_of(
    st.datetimes(datetime(2025, 12, 30), datetime(2027, 1, 3)),
    st.builds(
        lambda day, minutes, microseconds: (
            day + timedelta(minutes=30 * minutes, microseconds=microseconds)
        ),
        st.sampled_from([datetime(2026, *day) for day in midnights]),
        st.integers(-30, 60),
        st.integers(-1, 1),
    ),
).map(lambda moment: moment.replace(tzinfo=UTC))
calls = st.fixed_dictionaries(
    {
        "amount": amounts,
        "user_id": st.sampled_from(["alice", "bob"]),
        "aicore_provider": names,
        "aicore_model": names,
        "feature_code": names,
        "workflow_id": names,
        "occurred_at": moments,
    }
)
# What happens to a mandate: calls, some of them taken back, days that are totalled, a rebuild.
steps = st.lists(
    st.one_of(calls, calls, calls, moments, st.sampled_from(["reverse", "rebuild"])),
    min_size=1,
    max_size=14,
)
zones = st.sampled_from([None, *ZONES])
filters = st.fixed_dictionaries(
    {}, optional={field.name: st.sampled_from(["a", "alice"]) for field in fields(UsageFilter)}
)
periods = st.one_of(
    st.tuples(st.just(DAY), st.just(2026), st.integers(1, 12)),
    st.tuples(st.sampled_from([MONTH, YEAR]), st.just(2026), st.none()),
)
days = st.one_of(
    st.dates(date(2025, 12, 1), date(2027, 1, 31)),
    st.sampled_from([date(2026, *day) for day in midnights]),
)


async def live(database: Database, zone: str, happened: Iterable[Any]) -> str:
    """A mandate to which all that has happened; the roll-up is proven."""
    mandate_id = fresh("mandate")
    await add_mandate(database, mandate_id, users=("alice", "bob"), time_zone=zone)
    for step in happened:
        if isinstance(step, dict):
            await write(database, usage_event(mandate_id=mandate_id, **step))
        elif isinstance(step, datetime):
            await total_days(database, step)
        elif step == "rebuild":
            assert [done async for done in rebuild_roll_up(database, mandate_id)][-1] == 1
        else:
            rows = await ledger_rows(database, mandate_id=mandate_id)
            undone = {row.reverses_id for row in rows}
            for row in rows:
                if (
                    row.reference_type == ReferenceType.USAGE
                    and row.amount
                    and row.id not in undone
                ):
                    await reverse(database, row.id, mandate_id=mandate_id)
                    break
    async with database.snapshot() as connection:
        assert (await verify_ledger(connection, mandate_id)).mismatches == []
    return mandate_id


async def counted(database: Database, mandate_id: str, wanted: dict[str, Any]) -> list[Any]:
    """What counts: (instant, cost, calls, row) of usage and of what takes usage back."""
    rows = await ledger_rows(database, mandate_id=mandate_id)
    usage = {row.id: row for row in rows if row.reference_type == ReferenceType.USAGE}
    found = [(row.occurred_at, row.amount, 1, row) for row in usage.values()]
    found += [(row.created_at, -row.amount, 0, row) for row in rows if row.reverses_id in usage]
    return [
        one
        for one in found
        if all(getattr(one[3], name) == value for name, value in wanted.items())
    ]


def summed(found: Iterable[Any]) -> tuple[Decimal, int]:
    found = list(found)
    return sum((cost for _, cost, _, _ in found), Decimal(0)), sum(
        calls for _, _, calls, _ in found
    )


def grouped(found: Iterable[Any], keys: Sequence[str]) -> dict[Any, list[Any]]:
    groups = defaultdict(list)
    for one in found:
        groups[tuple(getattr(one[3], key) for key in keys)].append(one)
    return groups


def shape(instant: datetime, zone: ZoneInfo, granularity: str) -> Any:
    """What all instants of one bucket have in common, and none of its neighbours."""
    local = instant.astimezone(zone)
    wide = {"YEAR": 1, "MONTH": 2, "DAY": 3}
    if granularity in wide:
        return local.timetuple()[: wide[granularity]]
    return local.date(), local.hour, local.utcoffset()


def check_course(
    buckets: Sequence[UsageBucket], found: Sequence[Any], zone: ZoneInfo, granularity: str
) -> None:
    """Buckets follow each other, each is one hour, day, month or year, and holds what happened in it."""
    assert all(one.end == following.start for one, following in pairwise(buckets))
    shapes = [shape(bucket.start, zone, granularity) for bucket in buckets]
    assert len(set(shapes)) == len(shapes)
    for bucket, common in zip(buckets, shapes, strict=True):
        assert shape(bucket.end - INSTANT, zone, granularity) == common
        within = [one for one in found if bucket.start <= one[0] < bucket.end]
        assert (bucket.cost, bucket.transaction_count) == summed(within)


modest = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(happened=steps, own=st.sampled_from(ZONES), asked=zones, period=periods, wanted=filters)
@modest
async def test_statistics_as_recomputed(
    database: Database,
    happened: list[Any],
    own: str,
    asked: str | None,
    period: tuple[PeriodType, int, int | None],
    wanted: dict[str, Any],
) -> None:
    """Both sources agree with plain Python, for every part of the answer."""
    mandate_id = await live(database, own, happened)
    question = {"mandate_id": mandate_id, "time_zone": asked, **wanted}
    if period[0] != DAY and asked not in (None, own) and "workflow_id" not in wanted:
        with pytest.raises(BadInput, match="timeZone"):
            await ask(database, *period, **question)
        return
    view = await find(database, *period, **question)

    zone = ZoneInfo(asked or own)
    kind, year, month = period
    found = [
        one
        for one in await counted(database, mandate_id, wanted)
        for local in (one[0].astimezone(zone),)
        if (local.year, local.month if month else None) == (year, month)
    ]
    assert (await view.total_cost(), await view.transaction_count()) == summed(found)
    buckets = await view.buckets()
    check_course(buckets, found, zone, kind)
    assert (buckets[0].start, buckets[-1].end) == (view.from_, view.to)
    first, last = view.from_.astimezone(zone), (view.to - INSTANT).astimezone(zone)
    assert (first.year, first.month, first.day) == (year, month or 1, 1)
    assert (last.year, last.month) == (year, month or 12)
    assert (view.to.astimezone(zone).month, view.to.astimezone(zone).day) == (
        last.month % 12 + 1,
        1,
    )
    for dimension in PARTS:
        slices = await view.cost_by(dimension)
        expected = {key: summed(group) for (key,), group in grouped(found, [dimension]).items()}
        assert {part.key: (part.cost, part.transaction_count) for part in slices} == expected
        costs = [part.cost for part in slices]
        assert costs == sorted(costs, reverse=True)


@given(
    happened=steps,
    own=st.sampled_from(ZONES),
    asked=zones,
    from_=days,
    length=st.one_of(st.integers(1, 3), st.integers(1, 93), st.integers(94, 500)),
    granularity=st.sampled_from(Granularity),
    group_by=st.lists(st.sampled_from(UsageDimension), unique=True),
    first=st.one_of(st.none(), st.integers(1, 3)),
    wanted=filters,
)
@modest
async def test_usage_as_recomputed(
    database: Database,
    happened: list[Any],
    own: str,
    asked: str | None,
    from_: date,
    length: int,
    granularity: Granularity,
    group_by: list[UsageDimension],
    first: int | None,
    wanted: dict[str, Any],
) -> None:
    """Any range, granularity, zone, groups and filter."""
    mandate_id = await live(database, own, happened)
    to = from_ + timedelta(days=length)
    question: dict[str, Any] = {
        "from_": from_,
        "to": to,
        "granularity": granularity,
        "group_by": group_by,
        "first": first,
        "time_zone": asked,
        "usage_filter": UsageFilter(**wanted),
    }
    of_rows = granularity is HOUR or UsageDimension.WORKFLOW in group_by or asked not in (None, own)
    if of_rows and length > 93 and "workflow_id" not in wanted:
        with pytest.raises(BadInput, match="at most 93 days"):
            await find_usage(database, SYSADMIN, mandate_id, **question)
        return
    report = await find_usage(database, OPERATOR, mandate_id, **question)

    assert report is not None
    zone = ZoneInfo(asked or own)
    assert report.from_.astimezone(zone).replace(tzinfo=None) == datetime(*from_.timetuple()[:3])
    assert report.to.astimezone(zone).replace(tzinfo=None) == datetime(*to.timetuple()[:3])
    found = [
        one
        for one in await counted(database, mandate_id, wanted)
        if from_ <= one[0].astimezone(zone).date() < to
    ]
    assert (report.total_cost, report.transaction_count) == summed(found)
    expected = grouped(found, group_by) if group_by else {(): found}
    assert report.total_groups == len(expected)
    order = sorted(
        expected,
        key=lambda key: (-summed(expected[key])[0], [(name is None, name or "") for name in key]),
    )
    assert [tuple(key.value for key in group.keys) for group in report.groups] == order[:first]
    for group, key in zip(report.groups, order, strict=False):
        assert [key.dimension for key in group.keys] == group_by
        assert (group.cost, group.transaction_count) == summed(expected[key])
        check_course(group.buckets, expected[key], zone, granularity)
        assert (group.buckets[0].start, group.buckets[-1].end) == (report.from_, report.to)
