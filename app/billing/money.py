"""Exact money: its text form, its nano units and its limits. Nothing here reads or writes a row."""

import re
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Final

from app.billing.errors import BillingError, UserErrorCode

ZERO: Final = Decimal(0)
MAX_TRANSACTION: Final = Decimal(1_000_000)
"""The most that one transaction moves, in the mandate's currency."""
MAX_BALANCE: Final = Decimal(1_000_000_000)
"""A balance stays within plus and minus this, so that every row fits 64 bits of nano units."""

_NANO: Final = 10**9
_EXACT: Final = Context(prec=64, traps=[Inexact, InvalidOperation])
_PLAIN = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,9})?", re.ASCII)


def parse_decimal(text: str) -> Decimal:
    """Reads plain ASCII digits with at most 9 behind the point; anything else is a ValueError."""
    if not _PLAIN.fullmatch(text):
        raise ValueError(
            'must be plain digits with at most 30 before and 9 behind the point, such as "12.5"'
        )
    return _EXACT.plus(Decimal(text))  # -0 becomes 0; the usual context would round at 28 digits


def format_decimal(value: Decimal) -> str:
    """The one text form of an amount: plain digits, no trailing zeros, no exponent."""
    text = format(value, "f")
    if text[-10:-9] != ".":  # as from_nano gives them, which needs no further look
        _, point, fraction = text.partition(".")
        if len(fraction) > 9 or not text[-1].isdigit():
            return format_nano(to_nano(value))
        if not point:
            return "0" if text == "-0" else text
    text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def format_nano(nano: int) -> str:
    """As format_decimal, from nano units."""
    whole, fraction = divmod(abs(nano), _NANO)
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole}.{fraction:09d}".rstrip("0") if fraction else f"{sign}{whole}"


def to_nano(value: Decimal) -> int:
    """Nano units (10^-9) of an amount; ValueError where that would lose a digit."""
    scaled = _EXACT.scaleb(value, 9)
    nano = int(scaled)
    if nano != scaled:
        raise ValueError(f"{value} has more than 9 digits behind the point")
    return nano


def from_nano(nano: int | Decimal) -> Decimal:
    """The exact amount of so many nano units, at any size."""
    return _EXACT.scaleb(Decimal(nano), -9)


def check_amount(amount: Decimal, *field: str, zero: bool = False) -> None:
    """Refuses what one transaction may not move: below 0, 0 unless `zero`, above MAX_TRANSACTION."""
    if amount < ZERO or (amount == ZERO and not zero):
        least = "0 or more" if zero else "more than 0"
        raise BillingError(UserErrorCode.INVALID, f"{field[-1]} must be {least}.", *field)
    if amount > MAX_TRANSACTION:
        raise BillingError(
            UserErrorCode.LIMIT_EXCEEDED,
            f"{field[-1]} must be at most {MAX_TRANSACTION}: one transaction moves no more.",
            *field,
        )


def within_limits(balance: Decimal) -> bool:
    """Whether an account may hold this balance."""
    return abs(balance) <= MAX_BALANCE
