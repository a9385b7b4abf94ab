"""That a page of a large mandate is read by an index, and is the right one.

PostgreSQL is asked how many rows a page has read of 200,000, SQLite how it means to read it.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.enums import MembershipRole
from app.billing.paging import Page, PageArguments
from app.billing.transactions import TransactionFilter, TransactionOrderField, list_transactions
from app.billing.types import EPOCH, last_key, new_key
from app.billing.viewer import Viewer
from app.database import Database
from tests.large_mandate import VALUES, amount, fill, written
from tests.world import ADMIN, MANDATE, add_mandate, ledger_rows

pytestmark = pytest.mark.anyio

ROWS = 200_000
SIZE = 50
MOST = 20 * SIZE
"""Rows that a page of SIZE may read."""
MEMBER = Viewer("many-user_id", roles={MANDATE: MembershipRole.MEMBER})

EQUAL = [{name: value} for name, values in VALUES.items() for value in dict.fromkeys(values)]
EQUAL += [{"idempotency_key": "k-7"}, {"idempotency_key": "none"}, {}]
PLACES = (1, 1000, ROWS // 2, ROWS - 1000)
CREATED = [{name: written(n)} for name in ("created_from", "created_to") for n in PLACES]
OCCURRED = [{name: written(n)} for name in ("occurred_from", "occurred_to") for n in PLACES]
# Between 0.1 % and 5 % no index has a page in order of writing: PostgreSQL takes what costs less.
RANKS = (0, 1, ROWS // 1000, ROWS // 8, ROWS)
AMOUNTS = [{"min_amount": amount(ROWS + 1 - n)} for n in RANKS]
AMOUNTS += [{"max_amount": amount(n)} for n in RANKS]
FILTERS: list[dict[str, Any]] = [*EQUAL, *CREATED, *OCCURRED, *AMOUNTS]


@pytest.fixture(scope="module")
def large_database_url(lasting_database_url: str) -> str:
    """The address of a database with ROWS transactions of one mandate."""
    asyncio.run(fill(lasting_database_url, ROWS))
    return lasting_database_url


@pytest.fixture
async def large(large_database_url: str) -> AsyncIterator[Database]:
    async with Database(large_database_url) as database:
        yield database


@contextmanager
def selects() -> Iterator[list[tuple[str, Any]]]:
    """The statements that read transactions meanwhile, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if "FROM transaction" in statement or 'FROM "transaction"' in statement:
            sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def place_of(row: int) -> Any:
    """What a cursor to the row that was written then and there is made of."""
    at = written(row)
    return SimpleNamespace(id=last_key(at), created_at=at, occurred_at=at, amount=amount(row))


async def pages(
    database: Database, viewer: Viewer = ADMIN, middle: int = ROWS // 2, **arguments: Any
) -> list[Page]:
    """The first page, those after and before a place in the middle, and the last."""
    found: list[Page] = []
    for place in ("first", "after", "before", "last"):
        cursor = found[0].cursor(place_of(middle)) if found else None
        page = {
            "first": PageArguments(first=SIZE),
            "after": PageArguments(first=SIZE, after=cursor),
            "before": PageArguments(last=SIZE, before=cursor),
            "last": PageArguments(last=SIZE),
        }[place]
        got = await list_transactions(database, viewer, MANDATE, page=page, **arguments)
        assert got is not None
        found.append(got)
    return found


async def plan(connection: AsyncConnection, explained: str, parameters: Any = ()) -> dict[str, Any]:
    statement = f"EXPLAIN (ANALYZE, FORMAT JSON) {explained}"
    found = (await connection.exec_driver_sql(statement, parameters)).scalar_one()
    return dict((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])


def rows_read(node: Mapping[str, Any]) -> int:
    """How many rows the scans of a plan have looked at."""
    read = sum(map(rows_read, node.get("Plans", ())))
    if "Relation Name" in node:
        seen = [v for k, v in node.items() if k == "Actual Rows" or k.startswith("Rows Removed")]
        read += int(sum(seen) * node["Actual Loops"])
    return read


CREATED_AT = TransactionOrderField.CREATED_AT
OCCURRED_AT = TransactionOrderField.OCCURRED_AT
AMOUNT = TransactionOrderField.AMOUNT
SERVED: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({}, FILTERS),
    ({"order_by": CREATED_AT, "descending": False}, [*EQUAL, *CREATED, *AMOUNTS]),
    ({"order_by": OCCURRED_AT, "descending": False}, [{}, *OCCURRED]),
    ({"order_by": AMOUNT}, [{}, *AMOUNTS]),
    ({"order_by": AMOUNT, "descending": False}, [{}, *AMOUNTS]),
]
"""The orders, and the filters of which an index has each page."""


@pytest.mark.parametrize("lasting_database_url", ["postgresql"], indirect=True)
async def test_a_page_by_one_filter_reads_little_more_than_itself(large: Database) -> None:
    async with large.read() as connection:
        for order, filters in SERVED:
            for wanted in filters:
                with selects() as sent:
                    await pages(large, filter=TransactionFilter(**wanted), **order)
                read = [rows_read(await plan(connection, *select)) for select in sent]
                assert len(read) == 4
                assert max(read) <= MOST, (order, wanted, read)


@pytest.mark.parametrize("lasting_database_url", ["postgresql"], indirect=True)
async def test_pages_of_many_rows_do_not_decide_how_one_of_few_is_read(large: Database) -> None:
    async with large.read() as connection:
        names: dict[str, str] = {}
        for rank, size in [(ROWS // 60, 500)] * 12 + [(1, SIZE)]:
            wanted = TransactionFilter(min_amount=amount(ROWS + 1 - rank))
            with selects() as sent:
                await list_transactions(
                    large, ADMIN, MANDATE, filter=wanted, page=PageArguments(first=size)
                )
            [(statement, parameters)] = sent
            if statement not in names:
                names[statement] = f"page_{len(names)}"
                await connection.exec_driver_sql(f"PREPARE {names[statement]} AS {statement}")
            values = ", ".join(f"'{value}'" for value in parameters)
            read = rows_read(await plan(connection, f"EXECUTE {names[statement]}({values})"))
        assert read <= MOST


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("viewer", [ADMIN, MEMBER], ids=["admin", "member"])
async def test_sqlite_sorts_no_page(database: Database, viewer: Viewer) -> None:
    await add_mandate(database)
    by_names = {tuple(wanted): wanted for wanted in FILTERS}
    if viewer is MEMBER:
        del by_names[("idempotency_key",)]  # finds nothing
    async with database.read() as connection:
        for field in TransactionOrderField:
            for descending in (False, True):
                order: dict[str, Any] = {"order_by": field, "descending": descending}
                for wanted in by_names.values():
                    with selects() as sent:
                        await pages(database, viewer, filter=TransactionFilter(**wanted), **order)
                    assert len(sent) == 4
                    for select in sent:
                        how = await steps(connection, select)
                        assert "TEMP B-TREE" not in how, (order, wanted, how)


@pytest.mark.parametrize("lasting_database_url", ["sqlite"], indirect=True)
async def test_sqlite_finds_by_an_index_what_one_filter_asks_for(large: Database) -> None:
    searched = {tuple(wanted): name for wanted in EQUAL for name in wanted}
    searched |= {(f"created_{end}",): "id" for end in ("from", "to")}
    searched |= {(f"occurred_{end}",): "occurred_at" for end in ("from", "to")}
    async with large.read() as connection:
        for wanted in FILTERS:
            with selects() as sent:
                await pages(large, filter=TransactionFilter(**wanted))
            for select in sent:
                how = await steps(connection, select)
                assert "TEMP B-TREE" not in how, (wanted, how)
                if column := searched.get(tuple(wanted)):
                    assert re.search(rf"\b{column}[=<>]", how), (wanted, how)


async def steps(connection: AsyncConnection, select: tuple[str, Any]) -> str:
    """How SQLite means to read this."""
    statement, parameters = select
    found = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return "; ".join(step.detail for step in found)


FEW = 2000
COMBINED: list[dict[str, Any]] = [
    {},
    {"feature_code": "old-feature_code"},
    {"min_amount": amount(1500), "max_amount": amount(1800)},
    {"created_from": written(150), "created_to": written(1500)},
    {"created_from": EPOCH - timedelta(days=1), "created_to": datetime.max.replace(tzinfo=UTC)},
    {"created_to": EPOCH - timedelta(days=1)},
    {"occurred_from": written(900), "occurred_to": written(1200)},
    {"occurred_from": datetime.min.replace(tzinfo=UTC), "user_id": "rest-user_id"},
    {
        "occurred_from": written(600),
        "occurred_to": written(1900),
        "created_from": written(700),
        "created_to": written(1800),
        "min_amount": amount(20),
        "max_amount": amount(1600),
        "account_id": VALUES["account_id"][4],
        "transaction_type": "DEBIT",
        "reference_type": "USAGE",
        "user_id": "rest-user_id",
        "workflow_id": "rest-workflow_id",
        "feature_code": "rest-feature_code",
        "aicore_provider": "rest-aicore_provider",
        "aicore_model": "rest-aicore_model",
    },
]


async def test_pages_are_those_of_plain_python(database_url: str) -> None:
    await fill(database_url, FEW)
    async with Database(database_url) as database:
        rows = await ledger_rows(database)
        assert all(new_key(row.created_at)[:18] == row.id[:18] for row in rows)
        for wanted in COMBINED:
            matching = [row for row in rows if meets(row, wanted)]
            for field in TransactionOrderField:
                upwards = parts(matching, field)
                downwards = [part[::-1] for part in reversed(upwards)]
                orders: list[tuple[dict[str, Any], list[list[Any]]]] = [
                    ({"order_by": field, "descending": False}, upwards),
                    ({"order_by": field}, downwards),
                ]
                if field is usual_order(wanted):
                    orders.append(({}, downwards))
                for order, expected in orders:
                    asked = TransactionFilter(**wanted)
                    got = await pages(database, middle=FEW // 2, filter=asked, **order)
                    assert [page.nodes for page in got] == expected, (asked, order)
                    if wanted:  # the accounts, which are empty here, count all rows
                        assert await got[0].count() == len(matching)


def usual_order(wanted: Mapping[str, Any]) -> TransactionOrderField:
    is_by_occurrence = "occurred_from" in wanted or "occurred_to" in wanted
    return OCCURRED_AT if is_by_occurrence else CREATED_AT


def parts(rows: list[Any], field: TransactionOrderField) -> list[list[Any]]:
    """The first SIZE rows, those around the middle, and the last."""

    def place(row: Any) -> tuple[Any, str]:
        return getattr(row, field.lower()), row.id

    middle = place(place_of(FEW // 2))
    ordered = sorted(rows, key=place)
    later = [row for row in ordered if place(row) > middle]
    earlier = [row for row in ordered if place(row) < middle]
    return [ordered[:SIZE], later[:SIZE], earlier[-SIZE:], ordered[-SIZE:]]


def meets(row: Any, wanted: Mapping[str, Any]) -> bool:
    """The filter, said plainly."""
    meanings: dict[str, Callable[[Any], bool]] = {
        "min_amount": lambda value: row.amount >= value,
        "max_amount": lambda value: row.amount <= value,
        "created_from": lambda value: row.created_at >= value,
        "created_to": lambda value: row.created_at < value,
        "occurred_from": lambda value: row.occurred_at >= value,
        "occurred_to": lambda value: row.occurred_at < value,
    }
    return all(
        meanings[name](value) if name in meanings else getattr(row, name) == value
        for name, value in wanted.items()
    )
