"""What AI calls cost: the gateway's debits, many in one call, each with its own outcome."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Any

from app.billing.alerts import legible
from app.billing.audit import audit_event
from app.billing.checks import (
    check_key,
    check_name,
    check_occurred_at,
    check_text,
    content_hash,
    invalid,
)
from app.billing.directory import no_such_member
from app.billing.enums import NoticeType, ReferenceType, TransactionType
from app.billing.errors import BillingError
from app.billing.group import in_group
from app.billing.ledger import Ledger
from app.billing.locked import LockedAccount, Needs
from app.billing.money import check_amount, format_decimal
from app.billing.spending import judge
from app.billing.viewer import Viewer
from app.database import Database

MAX_EVENTS = 1000
MAX_LISTED = 100
"""Rejected events that one notice lists; it counts them all."""


class UsageMode(StrEnum):
    RECORD = "RECORD"
    REQUIRE_FUNDS = "REQUIRE_FUNDS"


class UsageOutcome(StrEnum):
    RECORDED = "RECORDED"
    DUPLICATE = "DUPLICATE"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One AI call: what it cost, in the mandate's currency, and where that belongs."""

    mandate_id: str
    user_id: str
    amount: Decimal
    idempotency_key: str
    mode: UsageMode = UsageMode.RECORD
    description: str = "AI usage"
    workflow_id: str | None = None
    feature_code: str | None = None
    aicore_provider: str | None = None
    aicore_model: str | None = None
    occurred_at: datetime | None = None


_CONTENT = {field.name for field in fields(UsageEvent)} - {"mandate_id", "idempotency_key", "mode"}


@dataclass(frozen=True, slots=True)
class UsageResult:
    outcome: UsageOutcome
    transaction: Any = None
    """The first row written under the event's key; None where it was rejected."""
    error: BillingError | None = None


async def record_usage(
    database: Database,
    viewer: Viewer,
    events: Sequence[UsageEvent],
    registered: Sequence[str],
    *,
    imported: bool = False,
) -> list[UsageResult]:
    """Books each event, in the order given, and tells what became of it.

    One database transaction per mandate: funds, limits and duplicates of an event see the events
    before it. `imported` events may be of any age, which leaves an audit event in each mandate.
    """
    viewer.require_gateway()
    if not 1 <= len(events) <= MAX_EVENTS:
        raise invalid(f"events must be 1 to {MAX_EVENTS}.", "events")
    batches: dict[str, dict[int, UsageEvent]] = {}
    for place, event in enumerate(events):
        batches.setdefault(event.mandate_id, {})[place] = event
    results: dict[int, UsageResult] = {}
    for mandate_id, batch in sorted(batches.items()):
        needs = Needs(
            spends={(event.user_id, event.occurred_at) for event in batch.values()},
            keys={event.idempotency_key for event in batch.values()},
        )
        work = partial(_book, viewer=viewer, batch=batch, registered=registered, imported=imported)
        try:
            results |= await in_group(database, mandate_id, needs, work, size=len(batch))
        except BillingError as error:  # no such mandate
            results |= {place: _rejected(place, error) for place in batch}
    return [results[place] for place in range(len(events))]


def _rejected(place: int, error: BillingError) -> UsageResult:
    """Names the event in the path of the field at fault."""
    named = BillingError(error.code, error.message, "events", str(place), *error.field)
    return UsageResult(UsageOutcome.REJECTED, error=named)


def _book(
    ledger: Ledger,
    *,
    viewer: Viewer,
    batch: Mapping[int, UsageEvent],
    registered: Sequence[str],
    imported: bool,
) -> dict[int, UsageResult]:
    """The events of one mandate, in order."""
    results = {}
    for place, event in batch.items():
        try:
            check_key(event.idempotency_key)
            digest = content_hash("recordUsage", _content(event))
            first = ledger.written_under(event.idempotency_key, digest)
            if first is not None:
                results[place] = UsageResult(UsageOutcome.DUPLICATE, first)
                continue
            _check_event(event, ledger.locked_at, any_date=imported)
            account = _paying_account(ledger, event, registered)
            row = ledger.post(
                account,
                TransactionType.DEBIT,
                ReferenceType.USAGE,
                event.amount,
                user_id=event.user_id,
                actor_id=viewer.actor_id,
                description=event.description,
                workflow_id=event.workflow_id,
                feature_code=event.feature_code,
                aicore_provider=event.aicore_provider,
                aicore_model=event.aicore_model,
                idempotency_key=event.idempotency_key,
                content_hash=digest,
                occurred_at=event.occurred_at,
            )
        except BillingError as error:
            results[place] = _rejected(place, error)
        else:
            results[place] = UsageResult(UsageOutcome.RECORDED, row)
    if imported:
        _audit_import(ledger, viewer, results.values())
    else:
        _notify_rejections(ledger, batch, results)
    return results


def _paying_account(ledger: Ledger, event: UsageEvent, registered: Sequence[str]) -> LockedAccount:
    """The account that this event is booked to; where it requires funds, only if they are there."""
    if event.mode == UsageMode.REQUIRE_FUNDS:
        return judge(
            ledger,
            event.user_id,
            event.amount,
            event.aicore_provider,
            registered,
            occurred_at=event.occurred_at,
        )
    if event.user_id not in ledger.members:
        raise no_such_member()
    return ledger.paying_account(event.user_id)


def _audit_import(ledger: Ledger, viewer: Viewer, results: Iterable[UsageResult]) -> None:
    """Usage of any age may change figures that were final: that is on record with the rows."""
    counts = Counter(result.outcome for result in results)
    if not counts[UsageOutcome.RECORDED]:
        return
    ledger.audit(
        audit_event(
            viewer,
            ledger.now,
            "usage.imported",
            f"mandate:{ledger.mandate_id}",
            mandate_id=ledger.mandate_id,
            before=None,
            after={outcome.lower(): counts[outcome] for outcome in UsageOutcome},
        )
    )


def _notify_rejections(
    ledger: Ledger, batch: Mapping[int, UsageEvent], results: Mapping[int, UsageResult]
) -> None:
    """One notice a batch, while few enough wait; an import reports its rejected rows itself."""
    rejected = [(batch[place], result.error) for place, result in results.items() if result.error]
    if not rejected:
        return
    events = [
        {
            "userId": legible(event.user_id),
            "amount": format_decimal(event.amount),
            "idempotencyKey": legible(event.idempotency_key),
            "code": error.code,
            "message": error.message,
        }
        for event, error in rejected[:MAX_LISTED]
    ]
    ledger.notify(NoticeType.USAGE_REJECTED, {"count": len(rejected), "events": events})


def _content(event: UsageEvent) -> dict[str, Any]:
    """What makes two events the same; the mode is how to write it, not what."""
    return {name: getattr(event, name) for name in _CONTENT}


def _check_event(event: UsageEvent, now: datetime, *, any_date: bool) -> None:
    check_amount(event.amount, "amount", zero=True)
    check_text(event.description, "description")
    for name in ("workflow_id", "feature_code", "aicore_provider", "aicore_model"):
        check_name(getattr(event, name), name)
    if not any_date:
        check_occurred_at(event.occurred_at, now)
