"""Days, months and years of a time zone, and the instants at which they begin. No table is read here."""

from calendar import monthrange
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from app.billing.errors import BadInput
from app.billing.models import PeriodType

MIN_YEAR = 1970
MAX_YEAR = 9998
"""The last year whose end, too, is an instant that Python can hold in every zone."""


def day_start(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a local day, in UTC.

    Where midnight comes twice it is the earlier one; where clocks skip it, the moment they do:
    PEP 495 reads a skipped midnight by the offset before the skip.
    """
    return datetime.combine(day, time(), zone).astimezone(UTC)


def bucket_days(period: PeriodType, year: int, month: int | None) -> list[date]:
    """The first day of each bucket in order, and last the day after the end.

    DAY: the days of one month. MONTH: the months of a year. YEAR: that year.
    """
    if not MIN_YEAR <= year <= MAX_YEAR:
        raise BadInput(f"year must be from {MIN_YEAR} to {MAX_YEAR}.")
    end = date(year + 1, 1, 1)
    if period is PeriodType.DAY:
        if month is None:
            raise BadInput("month is required with period DAY: 1 to 12.")
        if not 1 <= month <= 12:
            raise BadInput("month must be from 1 to 12.")
        first = date(year, month, 1)
        length = monthrange(year, month)[1]
        return [first + timedelta(days=place) for place in range(length + 1)]
    if month is not None:
        raise BadInput(f"month must be left out with period {period}: it is for DAY alone.")
    if period is PeriodType.MONTH:
        return [*(date(year, place, 1) for place in range(1, 13)), end]
    return [date(year, 1, 1), end]


def current_period(period: PeriodType, today: date) -> tuple[date, date]:
    """The first day of the day, month or year that `today` falls into, and that of the next."""
    if period == PeriodType.DAY:
        return today, today + timedelta(days=1)
    if period == PeriodType.MONTH:
        first = today.replace(day=1)
        return first, (first + timedelta(days=31)).replace(day=1)
    return date(today.year, 1, 1), date(today.year + 1, 1, 1)
