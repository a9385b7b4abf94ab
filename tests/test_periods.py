"""Days, months and years: where they begin, whatever the clocks do."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from app.billing.periods import bucket_days, day_start
from tests.statistics import DAY, INSTANT, MONTH, YEAR


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


def test_bucket_days() -> None:
    assert bucket_days(YEAR, 2026, None) == [date(2026, 1, 1), date(2027, 1, 1)]
    assert bucket_days(MONTH, 2026, None)[-2:] == [date(2026, 12, 1), date(2027, 1, 1)]
    assert bucket_days(DAY, 2026, 12)[-2:] == [date(2026, 12, 31), date(2027, 1, 1)]
