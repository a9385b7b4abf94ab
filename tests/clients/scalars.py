"""How amounts are sent: a part of the generated client."""

from decimal import Decimal


def plain(amount: Decimal) -> str:
    """In plain digits: the API takes no exponents."""
    return format(amount, "f")
