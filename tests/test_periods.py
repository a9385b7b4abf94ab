"""Hours, days, months and years: where they begin, whatever the clocks do."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from app.billing.periods import (
    Granularity,
    day_start,
    local_date,
    period_range,
    split,
    split_hours,
)
from tests.statistics import DAY, INSTANT, MONTH, YEAR

DAYS = timedelta(days=1)


def test_day_without_midnight() -> None:
    """Clocks that skip midnight: the day begins when they do."""
    for zone, day, start in (
        ("America/Sao_Paulo", date(2018, 11, 4), datetime(2018, 11, 4, 3, tzinfo=UTC)),
        ("Africa/Cairo", date(2026, 4, 24), datetime(2026, 4, 23, 22, tzinfo=UTC)),
    ):
        local = ZoneInfo(zone)
        assert day_start(day, local) == start
        assert start.astimezone(local).date() == day
        assert (start - INSTANT).astimezone(local).date() == day - timedelta(days=1)


def test_day_with_two_midnights() -> None:
    havana = ZoneInfo("America/Havana")
    assert day_start(date(2026, 11, 1), havana) == datetime(2026, 11, 1, 4, tzinfo=UTC)
    assert day_start(date(2026, 11, 2), havana) == datetime(2026, 11, 2, 5, tzinfo=UTC)


def test_period_range() -> None:
    assert period_range(YEAR, 2026, None) == (date(2026, 1, 1), date(2027, 1, 1))
    assert period_range(MONTH, 2026, None) == (date(2026, 1, 1), date(2027, 1, 1))
    assert period_range(DAY, 2026, 12) == (date(2026, 12, 1), date(2027, 1, 1))


def test_split() -> None:
    from_, to = date(2026, 1, 31), date(2026, 3, 2)
    assert len(split(from_, to, Granularity.DAY)) == 31
    months = [from_, date(2026, 2, 1), date(2026, 3, 1), to]
    assert split(from_, to, Granularity.MONTH) == months
    assert split(from_, to, Granularity.YEAR) == [from_, to]
    years = [date(2024, 7, 1), date(2025, 1, 1), date(2026, 1, 1)]
    assert split(years[0], years[-1], Granularity.YEAR) == years


CHANGES = [
    ("UTC", date(2026, 3, 29), [], 24),
    ("Europe/Zurich", date(2026, 3, 29), [], 23),
    ("Europe/Zurich", date(2026, 10, 25), [], 25),
    ("America/New_York", date(2026, 11, 1), [], 25),
    ("Asia/Kolkata", date(2026, 3, 29), [], 24),
    ("Asia/Kathmandu", date(2026, 3, 29), [], 24),
    ("Australia/Lord_Howe", date(2026, 4, 5), [30], 25),  # half an hour back
    ("Australia/Lord_Howe", date(2026, 10, 4), [30], 24),  # and ahead
    ("Africa/Cairo", date(2026, 4, 24), [], 23),  # at midnight
    ("America/St_Johns", date(2010, 11, 7), [1, 59], 26),  # back a minute after midnight
    ("Pacific/Apia", date(2011, 12, 30), [], 0),  # never was
]


@pytest.mark.parametrize(("zone", "day", "odd", "hours"), CHANGES)
def test_hours_of_a_day(zone: str, day: date, odd: list[int], hours: int) -> None:
    """Each is of one hour of the clock; only those within which it changes are shorter."""
    local = ZoneInfo(zone)
    edges = split_hours(day, day + DAYS, local)
    assert (edges[0], edges[-1]) == (day_start(day, local), day_start(day + DAYS, local))
    lengths = [(end - start) // timedelta(minutes=1) for start, end in pairwise(edges)]
    assert len(lengths) == hours
    assert [length for length in lengths if length != 60] == odd
    for start, end in pairwise(edges):
        first, last = start.astimezone(local), (end - INSTANT).astimezone(local)
        assert (first.hour, first.utcoffset()) == (last.hour, last.utcoffset())
        assert local_date(start, local) == local_date(end - INSTANT, local) == day


@pytest.mark.parametrize(("zone", "day"), [(zone, day) for zone, day, _, _ in CHANGES])
def test_each_instant_is_of_one_day(zone: str, day: date) -> None:
    """The days that instants count to are those that the starts of days divide, whatever clocks do."""
    local = ZoneInfo(zone)
    instant = day_start(day - DAYS, local)
    while instant < day_start(day + 2 * DAYS, local):
        for moment in (instant, instant - INSTANT):
            of = local_date(moment, local)
            assert day_start(of, local) <= moment < day_start(of + DAYS, local)
        instant += timedelta(minutes=1)
