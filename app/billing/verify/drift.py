"""Whether accounts still agree with their latest transaction: little to ask, so it is asked all the time.

What lies further back, and all else, only the whole proof tells.
"""

from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.models import accounts, transactions

PAGE = 500

_LATEST = (
    select(func.max(transactions.c.sequence))
    .where(
        transactions.c.mandate_id == accounts.c.mandate_id,
        transactions.c.account_id == accounts.c.id,
    )
    .correlate(accounts)
    .scalar_subquery()
)
_KEY = (accounts.c.mandate_id, accounts.c.id)
_QUERY = (
    select(
        accounts.c.mandate_id,
        accounts.c.id,
        accounts.c.sequence,
        accounts.c.balance,
        transactions.c.sequence,
        transactions.c.balance_after,
    )
    .outerjoin_from(
        accounts,
        transactions,
        (transactions.c.mandate_id == accounts.c.mandate_id)
        & (transactions.c.account_id == accounts.c.id)
        & (transactions.c.sequence == _LATEST),
    )
    .order_by(*_KEY)
)


class DriftCheck:
    """Goes round and round all accounts, a page at a time."""

    def __init__(self) -> None:
        self.wrong: set[tuple[str, str]] = set()
        """Mandate and account id of those that did not agree when they were last looked at."""
        self._after: tuple[str, str] | None = None

    @property
    def is_through(self) -> bool:
        """Whether the last page was the last of all accounts."""
        return self._after is None

    async def go_on(self, connection: AsyncConnection) -> int:
        """Looks at the next accounts and says at how many."""
        query = _QUERY
        if self._after is not None:
            after = tuple_(*self._after, types=[column.type for column in _KEY])
            query = query.where(tuple_(*_KEY) > after)
        rows = (await connection.execute(query.limit(PAGE))).all()
        for mandate_id, account_id, sequence, balance, latest, balance_after in rows:
            if (sequence, balance) == (latest or 0, balance_after or 0):
                self.wrong.discard((mandate_id, account_id))
            else:
                self.wrong.add((mandate_id, account_id))
        self._after = (rows[-1][0], rows[-1][1]) if len(rows) == PAGE else None
        return len(rows)
