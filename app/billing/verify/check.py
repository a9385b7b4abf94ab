"""What a proof has looked at and what it found, and how its parts read a long history."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection

_ROWS = 1000
"""Fetched at once."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A stored figure that does not follow from the transactions."""

    mandate_id: str
    account_id: str | None
    """None for what is of the mandate as a whole."""
    figure: str
    stored: str
    computed: str

    @property
    def problem(self) -> str:
        """In words, without mandate and account."""
        return f"{self.figure} is {self.stored} and must be {self.computed}"

    def __str__(self) -> str:
        account = f", account {self.account_id}" if self.account_id else ""
        return f"mandate {self.mandate_id}{account}: {self.problem}"


@dataclass(slots=True)
class LedgerCheck:
    """The proof of one mandate's books at one moment."""

    mandate_id: str
    time_zone: str
    checked_at: datetime
    accounts_checked: int = 0
    transactions_checked: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.mismatches

    def found(self, account_id: str | None, figure: str, stored: str, computed: str) -> None:
        """Notes what does not follow."""
        self.mismatches.append(Mismatch(self.mandate_id, account_id, figure, stored, computed))


def nano(column: ColumnElement[Any], name: str) -> ColumnElement[int]:
    """Money as the integer it is stored as: Python's own add without limit."""
    return type_coerce(column, BigInteger).label(name)


async def stream(connection: AsyncConnection, query: Select[Any]) -> AsyncIterator[Any]:
    """The rows of a query, few of them in memory at once."""
    result = await connection.stream(query.execution_options(yield_per=_ROWS))
    async for rows in result.partitions():
        for row in rows:
            yield row
