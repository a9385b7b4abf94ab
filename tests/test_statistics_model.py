"""Statistics against plain Python: random calls, zones, periods and filters."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.billing.errors import BadInput
from app.billing.models import PeriodType
from app.billing.statistics import UsageDimension, UsageFilter
from app.database import Database
from tests.statistics import DAY, MONTH, YEAR, ask, find, write
from tests.world import add_mandate, fresh, usage_event

pytestmark = pytest.mark.anyio

ZONES = [
    "UTC",
    "Europe/Zurich",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "America/New_York",
    "Australia/Lord_Howe",
]

amounts = st.integers(0, 10**15).map(lambda nano: Decimal(nano).scaleb(-9))
names = st.sampled_from([None, "a", "b"])
moments = st.one_of(
    st.datetimes(datetime(2025, 12, 30), datetime(2027, 1, 3)),
    # Around the midnights at which months end and clocks change.
    st.builds(
        lambda day, minutes, microseconds: (
            day + timedelta(minutes=30 * minutes, microseconds=microseconds)
        ),
        st.sampled_from(
            [datetime(2026, *day) for day in [(1, 1), (3, 8), (3, 29), (4, 5), (10, 4), (11, 1)]]
        ),
        st.integers(-30, 60),
        st.integers(-1, 1),
    ),
)
calls = st.fixed_dictionaries(
    {
        "amount": amounts,
        "user_id": st.sampled_from(["alice", "bob"]),
        "aicore_provider": names,
        "aicore_model": names,
        "feature_code": names,
        "workflow_id": names,
        "occurred_at": moments.map(lambda moment: moment.replace(tzinfo=UTC)),
    }
)
periods = st.one_of(
    st.tuples(st.just(DAY), st.just(2026), st.integers(1, 12)),
    st.tuples(st.sampled_from([MONTH, YEAR]), st.just(2026), st.none()),
)
filters = st.fixed_dictionaries(
    {}, optional={field.name: st.sampled_from(["a", "alice"]) for field in fields(UsageFilter)}
)


@given(
    sent=st.lists(calls, min_size=1, max_size=12),
    own_zone=st.sampled_from(ZONES),
    asked_zone=st.sampled_from([None, *ZONES]),
    period=periods,
    wanted=filters,
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_as_recomputed(
    database: Database,
    sent: list[dict[str, Any]],
    own_zone: str,
    asked_zone: str | None,
    period: tuple[PeriodType, int, int | None],
    wanted: dict[str, Any],
) -> None:
    """Both sources agree with plain Python, for every part of the answer."""
    mandate_id = fresh("mandate")
    await add_mandate(database, mandate_id, users=("alice", "bob"), time_zone=own_zone)
    await write(database, *(usage_event(mandate_id=mandate_id, **call) for call in sent))
    question = {"mandate_id": mandate_id, "time_zone": asked_zone, **wanted}
    if period[0] != DAY and asked_zone not in (None, own_zone) and "workflow_id" not in wanted:
        with pytest.raises(BadInput, match="timeZone"):
            await ask(database, *period, **question)
        return
    view = await find(database, *period, **question)

    zone = ZoneInfo(asked_zone or own_zone)
    kind, year, month = period

    def counts(call: dict[str, Any]) -> bool:
        local = call["occurred_at"].astimezone(zone)
        return (local.year, local.month if month else None) == (year, month) and all(
            call[name] == value for name, value in wanted.items()
        )

    def place(call: dict[str, Any]) -> int:
        local: datetime = call["occurred_at"].astimezone(zone)
        return {DAY: local.day, MONTH: local.month, YEAR: 1}[kind] - 1

    matching = [call for call in sent if counts(call)]

    def grouped(key: Callable[[dict[str, Any]], Any]) -> dict[Any, tuple[Decimal, int]]:
        costs: dict[Any, Decimal] = defaultdict(Decimal)
        for call in matching:
            costs[key(call)] += call["amount"]
        tally = Counter(key(call) for call in matching)
        return {name: (costs[name], tally[name]) for name in tally}

    cost = sum((call["amount"] for call in matching), Decimal(0))
    assert (await view.total_cost(), await view.transaction_count()) == (cost, len(matching))
    buckets = await view.buckets()
    assert {
        spot: (part.cost, part.transaction_count)
        for spot, part in enumerate(buckets)
        if part.transaction_count
    } == grouped(place)
    assert sum(part.cost for part in buckets) == cost
    for dimension in UsageDimension:
        slices = await view.cost_by(dimension)
        expected = grouped(lambda call: call[dimension])  # noqa: B023
        assert {part.key: (part.cost, part.transaction_count) for part in slices} == expected
        assert [part.cost for part in slices] == sorted(
            (part.cost for part in slices), reverse=True
        )
