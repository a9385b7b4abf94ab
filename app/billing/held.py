"""What open holds set aside. A hold counts until its time is over by the database's clock, tidied or not."""

from sqlalchemy import ColumnElement, and_, case, func, literal_column, select
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
HELD = select(exact_sum(holds.c.amount)).where(_OF_ACCOUNT).correlate(accounts).scalar_subquery()
"""What is held on an account of the enclosing SELECT."""


def has_open_hold(mandate_id: str) -> ColumnElement[bool]:
    """Whether one is on an account of this mandate, of the enclosing SELECT.

    It names the mandate itself, too: else Citus locks no row of what it is part of.
    """
    this = holds.c.mandate_id == mandate_id
    return select(holds.c.id).where(_OF_ACCOUNT, this).correlate(accounts).exists()


async def count_open(connection: AsyncConnection) -> int:
    """How many holds set money aside now, of all mandates."""
    return (await connection.execute(select(func.count()).where(IS_OPEN))).scalar_one()
