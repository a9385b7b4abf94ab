"""Transactions and usage as CSV files, in constant memory however many rows there are.

A URL or a command line asks for one by parameters, which have the names of the API.
"""

import asyncio
import csv
import io
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from stat import S_IMODE
from tempfile import NamedTemporaryFile
from typing import Any, BinaryIO, cast

from rich.progress import Progress
from sqlalchemy import select

from app.billing.directory import find_mandate
from app.billing.errors import BadInput, Forbidden
from app.billing.money import format_decimal
from app.billing.paging import MAX_PAGE, Page, PageArguments
from app.billing.periods import Granularity
from app.billing.statistics import UsageDimension, UsageFilter, find_usage
from app.billing.transactions import (
    SortDirection,
    TransactionFilter,
    TransactionOrderField,
    balance_before,
    list_transactions,
)
from app.billing.types import NOW
from app.billing.viewer import OPERATOR, Viewer, load_viewer, mandate_not_found
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


@dataclass(frozen=True, slots=True)
class _TransactionArguments:
    """What says which transactions, beside their filter."""

    mandate_id: str
    order_by: TransactionOrderField | None = None
    direction: SortDirection = SortDirection.DESC


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
    wanted = await _as_of_now(database, wanted)

    async def read_page(viewer: Viewer, after: str | None) -> Page:
        async with database.long_reads:
            page = await asyncio.shield(
                list_transactions(
                    database,
                    viewer,
                    mandate_id,
                    filter=wanted,
                    order_by=arguments.order_by,
                    descending=arguments.direction is SortDirection.DESC,
                    page=PageArguments(first=MAX_PAGE, after=after),
                )
            )
        if page is None:
            raise Forbidden("The mandate is no longer yours to see.")
        return page

    async def pages(page: Page) -> AsyncIterator[Sequence[_Row]]:
        yield [_transaction_row(row, viewer, mandate.currency) for row in page.nodes]
        while page.has_next_page:
            now = await asyncio.shield(_still(database, viewer))
            page = await read_page(now, page.cursor(page.nodes[-1]))
            yield [_transaction_row(row, now, mandate.currency) for row in page.nodes]

    first = await read_page(viewer, None)
    return Export(
        name=_file_name(ExportKind.TRANSACTIONS, mandate_id),
        columns=[camel(name) for name in _TRANSACTION_COLUMNS],
        pages=pages(first),
        count=first.count,
    )


async def _as_of_now(database: Database, wanted: TransactionFilter) -> TransactionFilter:
    """Without what is written from now on: in some orders a walk would meet a part of it."""
    async with database.read() as connection:
        now = (await connection.execute(select(NOW))).scalar_one()
    return replace(wanted, created_to=min(wanted.created_to or now, now))


async def _still(database: Database, viewer: Viewer) -> Viewer:
    """Who asked, with the roles held by now; Unauthenticated for one who has been disabled."""
    if viewer is OPERATOR:
        return viewer
    async with database.read() as connection:
        return await load_viewer(connection, viewer.user_id)


def _transaction_row(row: Any, viewer: Viewer, currency: str) -> _Row:
    """The cells of a transaction, without what the viewer may not read in it."""
    cells = {
        **row._asdict(),
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
    """A new file beside it, which takes its place, and its mode, when all went well."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is not a file.")
    if not path.parent.is_dir():
        raise BadInput(f"There is no directory {path.parent}.")
    file = NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name[:100]}.", delete=False)  # noqa: SIM115
    part = Path(file.name)
    try:
        with file:
            part.chmod(S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask())
            yield cast("BinaryIO", file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    """The process's own; it can only be read by setting it."""
    os.umask(mask := os.umask(0o077))
    return mask


def _file_name(kind: ExportKind, mandate_id: str) -> str:
    """A name that is nothing but a name everywhere, whatever is in an id."""
    of_mandate = re.sub(r"[^\w.-]", "_", mandate_id, flags=re.ASCII)
    return f"{kind}-{of_mandate}.csv"


_SIGNS = r"=+\-@\uff1d\uff0b\uff0d\uff20"  # and their wide forms, which are read like them
# What a spreadsheet takes for a formula; it drops blanks and line breaks to find one.
_FORMULA = re.compile(rf"[\t\r\n]|\s*[{_SIGNS}]")
# Where lists are separated by semicolons, these begin a cell or a row, quoted or not.
_FORMULA_WITHIN = re.compile(rf"[;\r\n](?=[^\S\r\n]*[{_SIGNS}])")


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
    text = _FORMULA_WITHIN.sub(r"\g<0>'", text)
    return f"'{text}" if _FORMULA.match(text) else text
