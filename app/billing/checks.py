"""What comes from outside: checks that raise INVALID with the field's name, and its one plain form."""

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
from email_validator import EmailNotValidError, validate_email
from sqlalchemy import Table

from app.billing.errors import BillingError, UserErrorCode
from app.billing.money import MAX_BALANCE, ZERO, format_decimal, within_limits
from app.billing.types import ID_LENGTH, IdempotencyKey

MAX_TEXT = 1000
"""Characters of a description."""
OLDEST = timedelta(days=35)
"""How far back a call may be dated; a period is final that long after its end."""
AHEAD = timedelta(minutes=5)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)


def invalid(message: str, *field: str) -> BillingError:
    return BillingError(UserErrorCode.INVALID, message, *field)


def check_text(value: str | None, *field: str, most: int = MAX_TEXT) -> None:
    """Allows None, and 1 to `most` characters that are not blank and hold no NUL."""
    if value is None:
        return
    if len(value) > most:
        raise invalid(f"{field[-1]} must have at most {most} characters.", *field)
    if not value.strip():
        raise invalid(f"{field[-1]} must not be empty or blank.", *field)
    if "\0" in value:
        raise invalid(f"{field[-1]} must not contain a NUL character.", *field)


def check_name(value: str | None, *field: str) -> None:
    """An id or name that others refer to: at most 128 printable characters, no blanks around."""
    check_text(value, *field, most=ID_LENGTH)
    if value is not None and (not value.isprintable() or value != value.strip()):
        raise invalid(
            f"{field[-1]} must be printable characters without blanks around them.", *field
        )


def check_key(value: str) -> None:
    """An idempotency key."""
    check_text(value, "idempotency_key", most=IdempotencyKey.most)


def parse_instant(text: str) -> datetime:
    """Reads RFC 3339 with an offset, to the microsecond; anything else is a ValueError."""
    try:
        if not _RFC_3339.fullmatch(text):
            raise ValueError("another form")
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be RFC 3339 with an offset, such as 2026-01-31T12:00:00Z") from None


def parse_day(text: str) -> date:
    """A calendar day, YYYY-MM-DD; ValueError for any other form."""
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        with suppress(ValueError):
            return date.fromisoformat(text)
    raise ValueError("must be a day, such as 2026-01-31")


def may_have_occurred(occurred_at: datetime, now: datetime) -> bool:
    """Whether a call of that time may be booked now."""
    return now - OLDEST <= occurred_at <= now + AHEAD


def check_occurred_at(occurred_at: datetime | None, now: datetime) -> None:
    """When a call happened; None is now."""
    if occurred_at is not None and not may_have_occurred(occurred_at, now):
        raise invalid(
            "occurred_at must be at most 35 days back and 5 minutes ahead.", "occurred_at"
        )


def check_email(address: str, *field: str) -> None:
    """One e-mail address, without a look-up of its domain."""
    if "=?" in address:
        raise invalid("This is no e-mail address: it looks like an encoded word.", *field)
    try:
        validate_email(address, check_deliverability=False)
    except EmailNotValidError as error:
        raise invalid(f"This is no e-mail address: {error}", *field) from None


def check_limit(limit: Decimal | None, *field: str) -> None:
    """A limit is 0 or more and within what a balance may be; None is no limit."""
    if limit is None:
        return
    if limit < ZERO:
        raise invalid(f"{field[-1]} must be 0 or more.", *field)
    if not within_limits(limit):
        raise BillingError(
            UserErrorCode.LIMIT_EXCEEDED, f"{field[-1]} must be at most {MAX_BALANCE}.", *field
        )


def refuse_null(changes: Mapping[str, Any], table: Table) -> None:
    """Left out keeps what is stored; null would have no meaning in a column that is never NULL."""
    for name, value in changes.items():
        if value is None and not table.c[name].nullable:
            raise invalid(f"{name} must not be null: leave it out to keep it as it is.", name)


def difference(row: Any, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the changes change in a row: the values before and after."""
    changed = [name for name, value in changes.items() if getattr(row, name) != value]
    return {name: getattr(row, name) for name in changed}, {n: changes[n] for n in changed}


def plain(value: Any) -> Any:
    """A value as JSON: amounts and instants in their one text form, so that equal content is equal."""
    if isinstance(value, Decimal):
        return format_decimal(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return value


def content_hash(operation: str, content: Mapping[str, Any]) -> str:
    """Tells a retry from a conflict: the operation and its input as sent, without what was left out."""
    sent = {name: plain(value) for name, value in content.items() if value is not None}
    document = orjson.dumps([operation, sent], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(document).hexdigest()


def same_content(row: Any, content_hash: str) -> Any:
    """The row that an idempotency key has written, or None; IDEMPOTENCY_CONFLICT for other content."""
    if row is not None and row.content_hash != content_hash:
        raise conflict(
            "This idempotency_key was used with other content: use a new key for a new operation.",
            "idempotency_key",
        )
    return row


def conflict(message: str, field: str) -> BillingError:
    """What was done once cannot be done again with other content."""
    return BillingError(UserErrorCode.IDEMPOTENCY_CONFLICT, message, field)
