"""The daily roll-up of cost, written with the rows it adds up."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.models import ReferenceType, daily_usage
from app.billing.money import ZERO

_KEYS = ("user_id", "account_id", "aicore_provider", "aicore_model", "feature_code")


def local_date(instant: datetime, zone: ZoneInfo) -> date:
    """The day of a time zone that statistics count an instant to."""
    return instant.astimezone(zone).date()


async def roll_up(
    connection: AsyncConnection, mandate_id: str, zone: ZoneInfo, rows: Iterable[Mapping[str, Any]]
) -> None:
    """Adds new transactions of one mandate: what usage costs, less what reversals of usage take back."""
    days: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        is_usage = row["reference_type"] == ReferenceType.USAGE
        if not is_usage and row["reversed_type"] != ReferenceType.USAGE:
            continue
        day: dict[str, Any] = {"local_date": local_date(row["occurred_at"], zone)}
        day |= {name: row[name] or "" for name in _KEYS}
        total = days.setdefault(
            tuple(day.values()),
            day | {"mandate_id": mandate_id, "cost": ZERO, "transaction_count": 0},
        )
        total["cost"] += row["amount"] if is_usage else -row["amount"]
        total["transaction_count"] += is_usage
    if not days:
        return
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    upsert = dialect.insert(daily_usage)
    await connection.execute(
        upsert.on_conflict_do_update(
            index_elements=list(daily_usage.primary_key),
            set_={
                name: daily_usage.c[name] + upsert.excluded[name]
                for name in ("cost", "transaction_count")
            },
        ),
        [days[key] for key in sorted(days)],
    )
