"""What open holds set aside. A hold counts until its time is over by the database's clock, tidied or not."""

from decimal import Decimal

from sqlalchemy import ColumnElement, ScalarSelect, and_, case, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.enums import HoldStatus
from app.billing.models import accounts, holds
from app.billing.types import NOW, exact_sum

# Written into the statement itself, so that the partial index of open holds serves.
_STORED_OPEN = holds.c.status == literal_column(f"'{HoldStatus.OPEN}'")

IS_OPEN = and_(_STORED_OPEN, holds.c.expires_at > NOW)
IS_OVERDUE = and_(_STORED_OPEN, holds.c.expires_at <= NOW)
"""Expired, though its row does not say so yet."""

HOLDS_AS_THEY_ARE = select(
    *(column for column in holds.c if column.name != "status"),
    case((IS_OVERDUE, HoldStatus.EXPIRED), else_=holds.c.status).label("status"),
)
"""Holds as they are now: what has run out of time is EXPIRED, tidied or not."""

_OF_ACCOUNT = and_(
    holds.c.mandate_id == accounts.c.mandate_id, holds.c.account_id == accounts.c.id, IS_OPEN
)


def held(mandate: ColumnElement[bool]) -> ScalarSelect[Decimal]:
    """What is held on an account of the enclosing SELECT.

    `mandate` says of `holds` once more which mandates: Citus does not conclude it from the account.
    """
    query = select(exact_sum(holds.c.amount)).where(_OF_ACCOUNT, mandate)
    return query.correlate(accounts).scalar_subquery()


def has_open_hold(mandate: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether anything is; as `held`."""
    return select(holds.c.id).where(_OF_ACCOUNT, mandate).correlate(accounts).exists()


async def count_open(connection: AsyncConnection) -> int:
    """How many holds set money aside now, of all mandates."""
    return (await connection.execute(select(func.count()).where(IS_OPEN))).scalar_one()
