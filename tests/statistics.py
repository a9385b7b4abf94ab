"""What the tests of statistics share: calls of any date, and how to ask for what they cost."""

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.billing.enums import PeriodType
from app.billing.statistics import StatisticsView, UsageDimension, UsageFilter, find_statistics
from app.billing.usage import UsageEvent, record_usage
from app.billing.viewer import OPERATOR, Viewer
from app.database import Database
from tests.world import MANDATE, PROVIDERS, SYSADMIN, add_mandate, outcomes, usage_event

DAY, MONTH, YEAR = PeriodType.DAY, PeriodType.MONTH, PeriodType.YEAR
PARTS = [dimension for dimension in UsageDimension if dimension is not UsageDimension.WORKFLOW]
"""What the statistics of a period are divided by."""
ZURICH = ZoneInfo("Europe/Zurich")
HOUR = timedelta(hours=1)
INSTANT = timedelta(microseconds=1)


async def write(database: Database, *events: UsageEvent) -> None:
    """Books events of any date."""
    results = await record_usage(database, OPERATOR, events, PROVIDERS, imported=True)
    assert outcomes(results) == ["RECORDED"] * len(events)


async def ask(
    database: Database,
    period: PeriodType,
    year: int,
    month: int | None = None,
    *,
    mandate_id: str = MANDATE,
    viewer: Viewer = SYSADMIN,
    time_zone: str | None = None,
    **wanted: Any,
) -> StatisticsView | None:
    return await find_statistics(
        database,
        viewer,
        mandate_id,
        period=period,
        year=year,
        month=month,
        time_zone=time_zone,
        usage_filter=UsageFilter(**wanted),
    )


async def find(database: Database, period: PeriodType, year: int, *rest: Any, **named: Any) -> Any:
    view = await ask(database, period, year, *rest, **named)
    assert view is not None
    return view


async def total(*arguments: Any, **named: Any) -> Any:
    """Cost and count."""
    view = await find(*arguments, **named)
    return await view.total_cost(), await view.transaction_count()


async def use_some(database: Database) -> None:
    """A mandate with three calls in March 2026 (Zurich): two of alice's, one of bob's that names nothing."""
    await add_mandate(database, users=("alice", "bob"), time_zone="Europe/Zurich")
    named: dict[str, Any] = {
        "aicore_provider": "openai",
        "aicore_model": "gpt",
        "feature_code": "chat",
    }
    noon = datetime(2026, 3, 10, 12, tzinfo=ZURICH)
    await write(
        database,
        usage_event("1.000000001", occurred_at=noon, workflow_id="flow", **named),
        usage_event("0.2", occurred_at=noon + 24 * HOUR, **{**named, "aicore_provider": "azure"}),
        usage_event("5", occurred_at=noon, user_id="bob"),
    )


READERS: list[dict[str, Any]] = [{}, {"time_zone": "UTC"}]
"""Read from the roll-up, and from the transactions."""
both = pytest.mark.parametrize("reader", READERS, ids=["roll-up", "transactions"])
