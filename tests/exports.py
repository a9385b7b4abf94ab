"""What the tests of exports share: reading a file, and a ledger that fails halfway."""

import csv
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from app.billing.transactions import list_transactions

TRANSACTIONS = "/export/transactions.csv"
USAGE = "/export/usage.csv"
TODAY = datetime.now(UTC).date()
RANGE = {
    "from": f"{TODAY - timedelta(days=2)}",
    "to": f"{TODAY + timedelta(days=2)}",
    "granularity": "DAY",
}


def read(text: str) -> list[dict[str, str]]:
    """The rows of a file."""
    return list(csv.DictReader(text.splitlines(keepends=True), strict=True))


def failing_at(page: int, failure: Exception) -> Callable[..., Awaitable[Any]]:
    """Lists transactions until it is asked for that page."""
    pages = count(1)

    async def fail(*arguments: Any, **options: Any) -> Any:
        if next(pages) == page:
            raise failure
        return await list_transactions(*arguments, **options)

    return fail
