"""The scalars: each refuses what it cannot hold exactly, and says what it takes instead."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NewType

import strawberry
from graphql import GraphQLError, GraphQLID
from strawberry.types.scalar import ScalarDefinition

from app.billing.checks import parse_day, parse_instant
from app.billing.money import format_decimal, parse_decimal

TimeZone = NewType("TimeZone", str)
CurrencyCode = NewType("CurrencyCode", str)


def _from_text(name: str, read: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A parser that takes strings alone: a JSON number has lost digits before it arrives."""

    def parse(value: Any) -> Any:
        if not isinstance(value, str):
            raise GraphQLError(f"{name} must be given as a string: put it in quotes.")
        try:
            return read(value)
        except ValueError as error:
            raise GraphQLError(f"{name} {error}.") from None

    return parse


def _write_instant(instant: datetime) -> datetime:
    """In UTC: orjson writes it, faster than it could be written here."""
    return instant if instant.tzinfo is UTC else instant.astimezone(UTC)


def _read_name(text: str) -> str:
    if not 1 <= len(text) <= 64:
        raise ValueError("must be 1 to 64 characters")
    return text


_read_stock_id = GraphQLID.coerce_input_value


def read_id(value: Any) -> Any:
    """An ID as the platform wrote it: a JSON number that became a float has lost digits."""
    if isinstance(value, float):
        raise GraphQLError("ID must be given as a string: put it in quotes.")
    return _read_stock_id(value)


SCALARS: dict[object, ScalarDefinition] = {
    Decimal: strawberry.scalar(
        name="Decimal",
        description=(
            'Exact decimal number in a string, such as "12.5": plain ASCII digits, at most 30 before'
            " and 9 behind the point, with a leading - when negative. Exponents, NaN, Infinity,"
            " blanks and numbers without quotes are refused, and nothing is ever rounded. Amounts"
            " are in the mandate's currency."
        ),
        specified_by_url="https://json-schema.org/understanding-json-schema/reference/string",
        serialize=format_decimal,
        parse_value=_from_text("Decimal", parse_decimal),
    ),
    datetime: strawberry.scalar(
        name="DateTime",
        description=(
            "An instant, RFC 3339. Answers are in UTC with a Z and exact to the microsecond; input"
            " may have any offset."
        ),
        specified_by_url="https://scalars.graphql.org/andimarek/date-time.html",
        serialize=_write_instant,
        parse_value=_from_text("DateTime", parse_instant),
    ),
    date: strawberry.scalar(
        name="Date",
        description="A calendar day, YYYY-MM-DD.",
        specified_by_url="https://scalars.graphql.org/andimarek/local-date.html",
        serialize=date.isoformat,
        parse_value=_from_text("Date", parse_day),
    ),
    TimeZone: strawberry.scalar(
        name="TimeZone",
        description="IANA time zone name, such as Europe/Zurich.",
        specified_by_url="https://www.iana.org/time-zones",
        serialize=str,
        parse_value=_from_text("TimeZone", _read_name),
    ),
    CurrencyCode: strawberry.scalar(
        name="CurrencyCode",
        description="ISO 4217 code, such as CHF.",
        specified_by_url="https://www.iso.org/iso-4217-currency-codes.html",
        serialize=str,
        parse_value=_from_text("CurrencyCode", _read_name),
    ),
}
