"""What the tests of group commit share: what became of calls at once, and the commits they take."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from sqlalchemy import event

from app.billing.enums import ReferenceType, TransactionType
from app.billing.errors import BillingError
from app.billing.ledger import Ledger
from app.billing.locked import Needs
from app.database import Database


@contextmanager
def commits(database: Database) -> Iterator[list[None]]:
    """Grows with each database transaction that is committed."""
    seen: list[None] = []

    def note(_: Any) -> None:
        seen.append(None)

    event.listen(database.engine.sync_engine, "commit", note)
    try:
        yield seen
    finally:
        event.remove(database.engine.sync_engine, "commit", note)


async def codes(*calls: Awaitable[Any]) -> list[str]:
    """What became of calls that were made at once: OK, or why not."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    return [told(outcome) for outcome in found]


def told(outcome: Any) -> str:
    if isinstance(outcome, BillingError):
        return outcome.code
    if isinstance(outcome, BaseException):
        return type(outcome).__name__
    return "OK"


def post(amount: int = 1, **details: Any) -> Callable[[Ledger], Any]:
    """Debits alice."""

    def work(ledger: Ledger) -> Any:
        row: dict[str, Any] = {"user_id": "alice", "description": "AI usage"} | details
        return ledger.post(
            ledger.paying_account("alice"),
            TransactionType.DEBIT,
            ReferenceType.USAGE,
            Decimal(amount),
            **row,
        )

    return work


ALICE = Needs(spends=[("alice", None)])
