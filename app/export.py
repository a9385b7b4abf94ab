"""Transactions and usage as CSV files, in constant memory however many rows there are.

A URL or a command line asks for one by parameters, which have the names of the API.
"""

import asyncio
import csv
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from rich.progress import Progress

from app.billing.directory import find_mandate
from app.billing.errors import BadInput
from app.billing.money import format_decimal
from app.billing.paging import MAX_PAGE, Page, PageArguments
from app.billing.periods import Granularity
from app.billing.statistics import UsageDimension, UsageFilter, find_usage
from app.billing.transactions import (
    TransactionFilter,
    TransactionOrderField,
    balance_before,
    list_transactions,
)
from app.billing.viewer import Viewer, mandate_not_found
from app.database import Database
from app.parameters import Parameters, camel, names, read

_Row = Sequence[object]

_TRANSACTION_COLUMNS = (
    "id",
    "created_at",
    "occurred_at",
    "account_id",
    "user_id",
    "transaction_type",
    "reference_type",
    "amount",
    "currency",
    "balance_before",
    "balance_after",
    "sequence",
    "description",
    "workflow_id",
    "feature_code",
    "aicore_provider",
    "aicore_model",
    "idempotency_key",
    "actor_id",
    "reverses_id",
    "hold_id",
    "counterpart_id",
)


class ExportKind(StrEnum):
    TRANSACTIONS = "transactions"
    USAGE = "usage"


class Direction(StrEnum):
    ASC = "ASC"
    DESC = "DESC"


@dataclass(frozen=True, slots=True)
class _TransactionArguments:
    """What says which transactions, beside their filter."""

    mandate_id: str
    order_by: TransactionOrderField | None = None
    direction: Direction = Direction.DESC


@dataclass(frozen=True, slots=True)
class _UsageArguments:
    """What says which usage, beside its filter."""

    mandate_id: str
    from_: date
    to: date
    granularity: Granularity
    group_by: tuple[UsageDimension, ...] = ()
    first: int | None = None
    time_zone: str | None = None


_TAKEN: dict[ExportKind, tuple[type[Any], type[Any]]] = {
    ExportKind.TRANSACTIONS: (_TransactionArguments, TransactionFilter),
    ExportKind.USAGE: (_UsageArguments, UsageFilter),
}
HELP = "What is asked for, as in the URL of the API." + "".join(
    f" {kind}: {', '.join(names(*taken)[1:])}." for kind, taken in _TAKEN.items()
)
"""The parameters of both files, beside the mandate."""


@dataclass(slots=True)
class Export:
    """A file that may be written: whoever asks for it may, and its first rows are there."""

    name: str
    columns: Sequence[str]
    pages: AsyncIterator[Sequence[_Row]]
    count: Callable[[], Awaitable[int]]
    """How many rows there are in all."""
    written: int = 0
    """How many rows the chunks so far had."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file, a page of rows at a time."""
        yield _csv([self.columns])
        async for rows in self.pages:
            self.written += len(rows)
            yield _csv(rows)

    async def save(self, path: Path, bars: Progress) -> None:
        """Writes the file; one of that name is replaced only by a whole one."""
        with _replacing(path) as file:
            total = None if bars.disable else await self.count()
            task = bars.add_task("Exporting", total=total)
            async for chunk in self.chunks():
                file.write(chunk)
                bars.update(task, completed=self.written)


async def open_export(
    database: Database, viewer: Viewer, kind: ExportKind, parameters: Parameters
) -> Export:
    """The file that the parameters ask for.

    BadInput for parameters that make no sense; a BillingError where the mandate is not the viewer's.
    """
    arguments, wanted = read(parameters, *_TAKEN[kind])
    if kind is ExportKind.TRANSACTIONS:
        return await _export_transactions(database, viewer, arguments, wanted)
    return await _export_usage(database, viewer, arguments, wanted)


async def _export_transactions(
    database: Database, viewer: Viewer, arguments: _TransactionArguments, wanted: TransactionFilter
) -> Export:
    mandate_id = arguments.mandate_id
    mandate = await find_mandate(database, viewer, mandate_id)
    if mandate is None:
        raise mandate_not_found()

    async def read_page(after: str | None) -> Page:
        page = await list_transactions(
            database,
            viewer,
            mandate_id,
            filter=wanted,
            order_by=arguments.order_by,
            descending=arguments.direction is Direction.DESC,
            page=PageArguments(first=MAX_PAGE, after=after),
        )
        if page is None:
            raise mandate_not_found()
        return page

    async def pages(page: Page) -> AsyncIterator[Sequence[_Row]]:
        yield [_transaction_row(row, viewer, mandate.currency) for row in page.nodes]
        while page.has_next_page:
            # A client that leaves ends this task; the read goes on to give its connection back.
            page = await asyncio.shield(read_page(page.cursor(page.nodes[-1])))
            yield [_transaction_row(row, viewer, mandate.currency) for row in page.nodes]

    first = await read_page(None)
    return Export(
        name=_file_name(ExportKind.TRANSACTIONS, mandate_id),
        columns=[camel(name) for name in _TRANSACTION_COLUMNS],
        pages=pages(first),
        count=first.count,
    )


def _transaction_row(row: Any, viewer: Viewer, currency: str) -> _Row:
    """The cells of a transaction, without what the viewer may not read in it."""
    cells = {
        **row._mapping,
        "currency": currency,
        "balance_before": balance_before(row),
    }
    if not viewer.may_read_keys(row.mandate_id):
        cells["idempotency_key"] = None
    if viewer.only_user(row.mandate_id) is not None:
        cells["counterpart_id"] = None
    return [cells[name] for name in _TRANSACTION_COLUMNS]


async def _export_usage(
    database: Database, viewer: Viewer, arguments: _UsageArguments, wanted: UsageFilter
) -> Export:
    report = await find_usage(
        database,
        viewer,
        arguments.mandate_id,
        from_=arguments.from_,
        to=arguments.to,
        granularity=arguments.granularity,
        group_by=arguments.group_by,
        first=arguments.first,
        time_zone=arguments.time_zone,
        usage_filter=wanted,
    )
    if report is None:
        raise mandate_not_found()
    rows = [
        (
            bucket.start,
            bucket.end,
            *(key.value for key in group.keys),
            bucket.cost,
            bucket.transaction_count,
            report.currency,
        )
        for group in report.groups
        for bucket in group.buckets
    ]

    async def pages() -> AsyncIterator[Sequence[_Row]]:
        for start in range(0, len(rows), MAX_PAGE):
            yield rows[start : start + MAX_PAGE]

    async def count() -> int:
        return len(rows)

    dimensions = [dimension.name.lower() for dimension in arguments.group_by]
    return Export(
        name=_file_name(ExportKind.USAGE, arguments.mandate_id),
        columns=["start", "end", *dimensions, "cost", "transactionCount", "currency"],
        pages=pages(),
        count=count,
    )


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is not a file.")
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _file_name(kind: ExportKind, mandate_id: str) -> str:
    """A name that is nothing but a name everywhere, whatever is in an id."""
    of_mandate = re.sub(r"[^\w.-]", "_", mandate_id)
    return f"{kind}-{of_mandate}.csv"


_SIGNS = r"=+\-@\uff1d\uff0b\uff0d\uff20"  # and their wide forms, which are read like them
# What a spreadsheet takes for a formula; it drops blanks and line breaks to find one.
_FORMULA = re.compile(rf"[\t\r\n]|\s*[{_SIGNS}]")


def _csv(rows: Iterable[_Row]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(map(_cell, row) for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    """A value as the API writes it; a text is never a formula, a number always a number."""
    if isinstance(value, str):
        return _harmless(value)
    if isinstance(value, Decimal):
        return format_decimal(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value


def _harmless(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text
