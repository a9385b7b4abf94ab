"""What counts as cost in the ledger: usage, less what was taken back of it. Statistics and their proof share it."""

from decimal import Decimal

from sqlalchemy import ColumnElement, and_, case, or_

from app.billing.enums import ReferenceType
from app.billing.models import transactions

_IS_USAGE = transactions.c.reference_type == ReferenceType.USAGE
_IS_TAKEN_BACK = and_(
    transactions.c.reference_type == ReferenceType.REVERSAL,
    transactions.c.reversed_type == ReferenceType.USAGE,
)

IS_COST: ColumnElement[bool] = or_(_IS_USAGE, _IS_TAKEN_BACK)
"""Whether a transaction counts at all; it does on the local date of its occurred_at."""

COST: ColumnElement[Decimal] = case(
    (_IS_USAGE, transactions.c.amount), (_IS_TAKEN_BACK, -transactions.c.amount)
)
"""What it adds to the cost: NULL where it does not count."""

COUNTED: ColumnElement[int] = case((_IS_USAGE, 1), else_=0)
"""What it adds to the number of calls: one that was taken back has happened all the same."""
