"""Hours, days, months and years of a time zone, and the instants at which they begin. No table is read here."""

from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from app.billing.enums import PeriodType
from app.billing.errors import BadInput

MIN_YEAR = 1970
MAX_YEAR = 9998
"""The last year whose end, too, is an instant that Python can hold in every zone."""
DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


class Granularity(StrEnum):
    """What a bucket is."""

    HOUR = "HOUR"
    DAY = "DAY"
    MONTH = "MONTH"
    YEAR = "YEAR"


def day_start(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a local day, in UTC.

    Where midnight comes twice it is the earlier one; where clocks skip it, the moment they do:
    PEP 495 reads a skipped midnight by the offset before the skip.
    """
    return datetime.combine(day, time(), zone).astimezone(UTC)


def local_date(instant: datetime, zone: ZoneInfo) -> date:
    """The local day that an instant counts to: the last one that has begun."""
    local = instant.astimezone(zone)
    following = local.date() + DAY
    # Clocks that go back over midnight show the day before again, which is over all the same.
    return following if local.fold and day_start(following, zone) <= instant else local.date()


def period_range(period: PeriodType, year: int, month: int | None) -> tuple[date, date]:
    """The first day of a month (DAY) or a year (MONTH, YEAR), and the day after its end."""
    if not MIN_YEAR <= year <= MAX_YEAR:
        raise BadInput(f"year must be from {MIN_YEAR} to {MAX_YEAR}.")
    if period is not PeriodType.DAY:
        if month is not None:
            raise BadInput(f"month must be left out with period {period}: it is for DAY alone.")
        return current_period(PeriodType.YEAR, date(year, 1, 1))
    if month is None:
        raise BadInput("month is required with period DAY: 1 to 12.")
    if not 1 <= month <= 12:
        raise BadInput("month must be from 1 to 12.")
    return current_period(PeriodType.MONTH, date(year, month, 1))


def current_period(period: PeriodType, today: date) -> tuple[date, date]:
    """The first day of the day, month or year that `today` falls into, and that of the next."""
    if period == PeriodType.DAY:
        return today, today + DAY
    if period == PeriodType.MONTH:
        first = today.replace(day=1)
        return first, (first + timedelta(days=31)).replace(day=1)
    return date(today.year, 1, 1), date(today.year + 1, 1, 1)


def split(from_: date, to: date, granularity: Granularity) -> list[date]:
    """The first day of each bucket of [from, to) in order, and `to`. At the ends, parts of one count."""
    if granularity in (Granularity.HOUR, Granularity.DAY):
        return [from_ + place * DAY for place in range((to - from_).days + 1)]
    edges = []
    day = from_
    while day < to:
        edges.append(day)
        _, day = current_period(PeriodType(granularity), day)
    return [*edges, to]


def split_hours(from_: date, to: date, zone: ZoneInfo) -> list[datetime]:
    """The first instant of each hour of [from, to), as the local clock shows them, and the end.

    A change of the clock ends an hour, too: one that is shown twice is two, and of one that is
    partly skipped the rest is shorter.
    """
    edges = []
    instant, end = day_start(from_, zone), day_start(to, zone)
    while instant < end:
        edges.append(instant)
        instant = _hour_end(instant, zone)
    return [*edges, end]


def _hour_end(instant: datetime, zone: ZoneInfo) -> datetime:
    local = instant.astimezone(zone)
    end = instant + timedelta(hours=1) - timedelta(minutes=local.minute, seconds=local.second)
    # Clocks change at whole seconds: the first one that has another offset is searched for.
    while end - instant > _SECOND and end.astimezone(zone).utcoffset() != local.utcoffset():
        middle = instant + (end - instant) // 2 // _SECOND * _SECOND
        if middle.astimezone(zone).utcoffset() == local.utcoffset():
            instant = middle
        else:
            end = middle
    return end
