"""What AI calls cost: of a month or a year, of any range in any groups, and what is to be expected."""

from app.billing.statistics.forecast import BalanceKey, Forecast, Pace, paces
from app.billing.statistics.report import UsageGroup, UsageKey, UsageReport, find_usage
from app.billing.statistics.source import (
    MAX_DAYS,
    UsageBucket,
    UsageDimension,
    UsageFilter,
)
from app.billing.statistics.view import CostSlice, StatisticsView, find_statistics

__all__ = [
    "MAX_DAYS",
    "BalanceKey",
    "CostSlice",
    "Forecast",
    "Pace",
    "StatisticsView",
    "UsageBucket",
    "UsageDimension",
    "UsageFilter",
    "UsageGroup",
    "UsageKey",
    "UsageReport",
    "find_statistics",
    "find_usage",
    "paces",
]
