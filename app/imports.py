"""The import of usage from a CSV file: old events too, which is why every import leaves an audit event."""

import asyncio
import csv
import time
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from app.billing.checks import AHEAD, check_name, parse_instant
from app.billing.directory import enrol
from app.billing.errors import BillingError
from app.billing.money import parse_decimal
from app.billing.usage import MAX_EVENTS, UsageEvent, UsageOutcome, record_usage
from app.billing.viewer import OPERATOR
from app.database import Database

T = TypeVar("T")

HEADER = (
    "idempotency_key",
    "mandate_id",
    "user_id",
    "occurred_at",
    "amount",
    "provider",
    "model",
    "feature",
    "workflow_id",
    "description",
)
CHUNK = 10 * MAX_EVENTS
"""Rows that are held in memory at once."""
DEFAULT_DESCRIPTION = "AI usage"
MAX_SHOWN = 20
"""How many rejected rows a report keeps; it counts all of them."""

_Row = tuple[int, UsageEvent]
"""A row that could be read, with its line number."""
_AT_ONCE = 2
"""Mandates booked at once: one is judged while PostgreSQL writes another, 1.4 times the rows a second."""
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


class WrongHeader(Exception):
    """The file is no such CSV file; the message says what its first line must be."""


@dataclass(frozen=True, slots=True, order=True)
class RejectedRow:
    line: int
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What became of the rows of a file."""

    outcomes: Counter[UsageOutcome] = field(default_factory=Counter)
    rejected: list[RejectedRow] = field(default_factory=list)
    """The first of the rejected rows."""
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        return self.outcomes.total()

    @property
    def summary(self) -> str:
        """How many rows became what, and how fast."""
        recorded, duplicate, rejected = (self.outcomes[outcome] for outcome in UsageOutcome)
        return (
            f"{recorded} recorded, {duplicate} duplicate, {rejected} rejected in"
            f" {self.seconds:.1f} s, {self.rows / self.seconds:.0f} rows per second"
        )

    @property
    def complaints(self) -> list[str]:
        """What is wrong with the first rejected rows, and how many more there are."""
        told = [f"line {row.line}: {row.reason}" for row in self.rejected]
        more = self.outcomes[UsageOutcome.REJECTED] - len(told)
        return [*told, f"and {more} more"] if more else told

    def reject(self, line: int, reason: str) -> None:
        """Counts a row that cannot be read."""
        self.outcomes[UsageOutcome.REJECTED] += 1
        self.show(line, reason)

    def show(self, line: int, reason: str) -> None:
        """Keeps a rejected row if it is among the first."""
        insort(self.rejected, RejectedRow(line, reason))
        del self.rejected[MAX_SHOWN:]


async def import_usage(
    database: Database, lines: Iterable[str], registered: Sequence[str], *, create_missing: bool
) -> ImportReport:
    """Books every row of a CSV file that is not booked yet; a bad row never stops the others.

    `create_missing` creates the mandates, users and memberships that the file names.
    """
    report = ImportReport()
    started = time.monotonic()
    enrolled: set[tuple[str, str]] = set()
    readable = _read(_Lines(lines), report)
    while chunk := list(islice(readable, CHUNK)):
        if create_missing:
            named = {(event.mandate_id, event.user_id) for _, event in chunk}
            await enrol(database, OPERATOR, named - enrolled)
            enrolled |= named
        by_mandate: dict[str, list[_Row]] = {}
        for row in chunk:
            by_mandate.setdefault(row[1].mandate_id, []).append(row)
        turn = asyncio.Semaphore(_AT_ONCE)
        booked = await asyncio.gather(
            *(_book(database, rows, registered, report, turn) for rows in by_mandate.values()),
            return_exceptions=True,  # one that fails does not break off the others
        )
        for failure in filter(None, booked):
            raise failure
    report.seconds = time.monotonic() - started
    return report


async def _book(
    database: Database,
    rows: Sequence[_Row],
    registered: Sequence[str],
    report: ImportReport,
    turn: asyncio.Semaphore,
) -> None:
    """The rows of one mandate, in their order; a batch is one database transaction."""
    for start in range(0, len(rows), MAX_EVENTS):
        batch = rows[start : start + MAX_EVENTS]
        events = [event for _, event in batch]
        async with turn:
            results = await record_usage(database, OPERATOR, events, registered, imported=True)
        report.outcomes.update(result.outcome for result in results)
        for (line, _), result in zip(batch, results, strict=True):
            if result.error is not None:
                report.show(line, result.error.message)


class _Lines(Iterator[str]):
    """The lines of a file, which can be taken back: an open quote must not swallow what follows."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self.number = 1
        """The first line of the record that is being read."""

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._taken.append(line)
        return line

    def take_back(self) -> None:
        """Gives the record's lines behind its first out once more."""
        self._again.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]

    def next_record(self) -> None:
        self.number += len(self._taken)
        self._taken.clear()


def _read(lines: _Lines, report: ImportReport) -> Iterator[_Row]:
    """The readable rows with their line numbers; the others are rejected in the report."""
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
    except csv.Error:
        header = []
    if tuple(header) != HEADER:
        raise WrongHeader(f"The first line must be {','.join(HEADER)}")
    while True:
        lines.next_record()
        try:
            if row := next(reader):
                yield lines.number, _event(row)
        except StopIteration:
            return
        except csv.Error as error:
            lines.take_back()
            report.reject(lines.number, f"The row is no CSV: {error}.")
        except BillingError as error:
            report.reject(lines.number, error.message)
        except ValueError as error:
            report.reject(lines.number, f"{error}.")


def _event(row: Sequence[str]) -> UsageEvent:
    if len(row) != len(HEADER):
        raise ValueError(f"The row has {len(row)} columns instead of {len(HEADER)}")
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        raise ValueError("The row is not UTF-8") from None
    key, mandate_id, user_id, occurred_at, amount, provider, model, feature, workflow_id, text = row
    check_name(mandate_id, "mandate_id")
    check_name(user_id, "user_id")
    return UsageEvent(
        mandate_id=mandate_id,
        user_id=user_id,
        amount=_read_as("amount", amount, parse_decimal),
        idempotency_key=key,
        description=text or DEFAULT_DESCRIPTION,
        workflow_id=workflow_id or None,
        feature_code=feature or None,
        aicore_provider=provider or None,
        aicore_model=model or None,
        occurred_at=_instant(occurred_at),
    )


def _read_as(name: str, text: str, read: Callable[[str], T]) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _instant(text: str) -> datetime:
    instant = _read_as("occurred_at", text, parse_instant)
    if not _EARLIEST <= instant <= datetime.now(UTC) + AHEAD:
        raise ValueError("occurred_at must be from 2000 on and at most 5 minutes ahead")
    return instant
