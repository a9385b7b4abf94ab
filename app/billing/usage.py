"""What AI calls cost: the gateway's debits, many in one call, each with its own outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from app.billing.checks import check_key, check_name, check_text, content_hash, invalid
from app.billing.directory import members_by_user
from app.billing.errors import BillingError, UserErrorCode
from app.billing.funds import why_refused
from app.billing.ledger import Ledger, first_result, in_ledger
from app.billing.models import ReferenceType, TransactionType
from app.billing.money import check_amount
from app.billing.viewer import Viewer
from app.database import Database

MAX_EVENTS = 1000
OLDEST = timedelta(days=35)
"""How far back an event may be dated; a period is final that long after its end."""
AHEAD = timedelta(minutes=5)


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
    any_date: bool = False,
) -> list[UsageResult]:
    """Books each event, in the order given, and tells what became of it.

    One database transaction per mandate: funds, limits and duplicates of an event see the events
    before it. `any_date` is for the audited import of old events.
    """
    viewer.require_gateway()
    if not 1 <= len(events) <= MAX_EVENTS:
        raise invalid(f"events must be 1 to {MAX_EVENTS}.", "events")
    places: dict[str, list[int]] = {}
    for place, event in enumerate(events):
        places.setdefault(event.mandate_id, []).append(place)
    results: dict[int, UsageResult] = {}
    for mandate_id in sorted(places):
        batch = {place: events[place] for place in places[mandate_id]}

        async def work(
            ledger: Ledger, batch: Mapping[int, UsageEvent] = batch
        ) -> dict[int, UsageResult]:
            return await _book(ledger, viewer, batch, registered, any_date)

        try:
            results |= await in_ledger(database, mandate_id, work)
        except BillingError as error:  # no such mandate
            results |= dict.fromkeys(batch, UsageResult(UsageOutcome.REJECTED, error=error))
    return [_at(place, results[place]) for place in range(len(events))]


def _at(place: int, result: UsageResult) -> UsageResult:
    """Names the event in the path of its error."""
    if result.error is None:
        return result
    error = result.error
    field = ("events", str(place), *error.field)
    return UsageResult(result.outcome, error=BillingError(error.code, error.message, *field))


async def _book(
    ledger: Ledger,
    viewer: Viewer,
    batch: Mapping[int, UsageEvent],
    registered: Sequence[str],
    any_date: bool,
) -> dict[int, UsageResult]:
    """The events of one mandate, in order, on its locked books."""
    user_ids = {event.user_id for event in batch.values()}
    members = await members_by_user(ledger.connection, ledger.mandate_id, user_ids)
    await ledger.lock_paying_accounts(user_ids)
    written = await ledger.written_under(event.idempotency_key for event in batch.values())
    results = {}
    for place, event in batch.items():
        try:
            check_key(event.idempotency_key)
            digest = content_hash("recordUsage", _content(event))
            first = first_result(written, event.idempotency_key, digest)
            if first is not None:
                results[place] = UsageResult(UsageOutcome.DUPLICATE, first)
                continue
            _check_event(event, ledger.now, any_date)
            member = members.get(event.user_id)
            require_funds = event.mode == UsageMode.REQUIRE_FUNDS
            if member is None or (require_funds and not member.may_spend):
                raise BillingError(
                    UserErrorCode.NOT_FOUND, "There is no such user in this mandate.", "user_id"
                )
            account = ledger.paying_account(event.user_id)
            if require_funds and (
                refusal := why_refused(
                    ledger.terms,
                    ledger.funds(account),
                    enabled=account.enabled,
                    amount=event.amount,
                    provider=event.aicore_provider,
                    registered=registered,
                )
            ):
                raise refusal
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
            results[place] = UsageResult(UsageOutcome.REJECTED, error=error)
        else:
            written[event.idempotency_key] = row
            results[place] = UsageResult(UsageOutcome.RECORDED, row)
    return results


def _content(event: UsageEvent) -> dict[str, Any]:
    """What makes two events the same; the mode is how to write it, not what."""
    return {name: getattr(event, name) for name in _CONTENT}


def _check_event(event: UsageEvent, now: datetime, any_date: bool) -> None:
    check_amount(event.amount, "amount", zero=True)
    check_text(event.description, "description")
    for name in ("workflow_id", "feature_code", "aicore_provider", "aicore_model"):
        check_name(getattr(event, name), name)
    occurred_at = event.occurred_at
    if occurred_at is None or any_date:
        return
    if not now - OLDEST <= occurred_at <= now + AHEAD:
        raise invalid(
            "occurred_at must be at most 35 days back and 5 minutes ahead.", "occurred_at"
        )
