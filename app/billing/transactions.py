"""The ledger as it is read: one transaction, and lists filtered, ordered, paged and totalled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from operator import eq, ge, le, lt
from typing import Any, cast

from sqlalchemy import Column, Select, bindparam, case, false, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.enums import ReferenceType, TransactionType
from app.billing.models import accounts, transactions
from app.billing.money import MAX_TRANSACTION, ZERO
from app.billing.paging import Keyset, Page, PageArguments, check_wanted, contains, fetch_page, once
from app.billing.types import (
    EPOCH,
    IdempotencyKey,
    exact_sum,
    first_key,
    last_key,
    unindexed,
)
from app.billing.viewer import Viewer, sees
from app.database import Database


class TransactionOrderField(StrEnum):
    CREATED_AT = "CREATED_AT"
    OCCURRED_AT = "OCCURRED_AT"
    AMOUNT = "AMOUNT"


class SortDirection(StrEnum):
    ASC = "ASC"
    DESC = "DESC"


_ORDER_COLUMNS: dict[TransactionOrderField, tuple[Column[Any], ...]] = {
    # Ids are UUIDv7 of created_at, so the primary key is the order in which rows were written.
    TransactionOrderField.CREATED_AT: (transactions.c.id,),
    TransactionOrderField.OCCURRED_AT: (transactions.c.occurred_at, transactions.c.id),
    TransactionOrderField.AMOUNT: (transactions.c.amount, transactions.c.id),
}
_EQUAL = (
    "user_id",
    "account_id",
    "transaction_type",
    "reference_type",
    "workflow_id",
    "feature_code",
    "aicore_provider",
    "aicore_model",
)
_INDEXED: dict[TransactionOrderField, set[str]] = {
    TransactionOrderField.CREATED_AT: {"id", "idempotency_key", *_EQUAL},
    TransactionOrderField.OCCURRED_AT: {"occurred_at", "idempotency_key"},
    TransactionOrderField.AMOUNT: {"amount", "idempotency_key"},
}
"""The columns whose conditions an index meets in that order: a page reads little more than itself."""
_AHEAD = timedelta(hours=1)
"""More than any call is dated ahead of being written, machines whose clocks differ included."""


@dataclass(frozen=True, slots=True)
class TransactionFilter:
    """What must hold for a row, all of it; None asks for nothing."""

    transaction_type: TransactionType | None = None
    reference_type: ReferenceType | None = None
    user_id: str | None = None
    account_id: str | None = None
    workflow_id: str | None = None
    feature_code: str | None = None
    aicore_provider: str | None = None
    aicore_model: str | None = None
    min_amount: Decimal | None = None
    max_amount: Decimal | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    occurred_from: datetime | None = None
    occurred_to: datetime | None = None
    idempotency_key: str | None = None
    search: str | None = None


@dataclass(frozen=True, slots=True)
class TransactionTotals:
    """Sums over all transactions that match, not over a page."""

    credits: Decimal
    debits: Decimal

    @property
    def net(self) -> Decimal:
        return self.credits - self.debits


async def list_transactions(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    *,
    filter: TransactionFilter,  # noqa: A002
    order_by: TransactionOrderField | None = None,
    descending: bool = True,
    page: PageArguments,
) -> Page | None:
    """A mandate's transactions that the viewer may see; None where it is not the viewer's.

    Without an order, newest first by the time that the filter bounds, so that an index has the page.

    BadInput for a page or a filter that no row can meet.
    """
    check_wanted(filter.workflow_id, "workflowId")
    check_wanted(filter.feature_code, "featureCode")
    check_wanted(filter.aicore_provider, "aicoreProvider")
    check_wanted(filter.aicore_model, "aicoreModel")
    check_wanted(filter.idempotency_key, "idempotencyKey", IdempotencyKey.most)
    only_user = viewer.only_user(mandate_id)
    order_by = order_by or _usual_order(filter)
    query = _matching(mandate_id, only_user, filter, order_by)
    if filter.idempotency_key is not None and not viewer.may_read_keys(mandate_id):
        query = query.where(false())
    keyset = Keyset(
        _ORDER_COLUMNS[order_by],
        descending,
        binding=("transactions", mandate_id, only_user, filter),
    )
    async with database.read() as connection:
        if not await sees(connection, viewer, mandate_id):
            return None
        found = await fetch_page(database, connection, query, keyset, page)
    is_whole = only_user is None and filter == TransactionFilter()
    sums = _of_accounts(mandate_id) if is_whole else _of_rows(query)

    @once
    async def read_sums() -> Any:
        async with database.read() as connection:
            return (await connection.execute(sums)).one()

    async def count() -> int:
        return int((await read_sums()).rows)

    async def totals() -> TransactionTotals:
        row = await read_sums()
        return TransactionTotals(credits=row.credits, debits=row.debits)

    return replace(found, count=count, totals=totals)


def balance_before(row: Any) -> Decimal:
    """The account's balance right before a transaction."""
    is_credit = row.transaction_type == TransactionType.CREDIT
    return cast("Decimal", row.balance_after - (row.amount if is_credit else -row.amount))


async def find_transaction(
    database: Database, viewer: Viewer, mandate_id: str, transaction_id: str
) -> Any:
    """One transaction of the mandate that the viewer may see, or None."""
    if not viewer.may_see(mandate_id):
        return None
    query = _matching(mandate_id, viewer.only_user(mandate_id), TransactionFilter())
    async with database.read() as connection:
        return (await connection.execute(query.where(transactions.c.id == transaction_id))).first()


async def transactions_by_id(
    connection: AsyncConnection, keys: Sequence[tuple[str, str]]
) -> list[Any]:
    """The transactions of (mandate id, id) pairs the caller may see, in the order asked."""
    return await _by_key(connection, transactions.c.id, keys)


async def reversals_by_id(
    connection: AsyncConnection, keys: Sequence[tuple[str, str]]
) -> list[Any]:
    """For (mandate id, id) pairs the transaction that reverses each, or None."""
    return await _by_key(connection, transactions.c.reverses_id, keys)


async def settlements_by_hold(
    connection: AsyncConnection, keys: Sequence[tuple[str, str]]
) -> list[Any]:
    """For (mandate id, hold id) pairs the transaction that settled each, or None."""
    return await _by_key(connection, transactions.c.hold_id, keys)


async def balances_at(
    connection: AsyncConnection, keys: Sequence[tuple[str, str, datetime]]
) -> list[Decimal]:
    """The balances of (mandate id, account id, instant), by one SELECT for each instant.

    That after the account's last transaction written up to then; 0 before the first.
    """
    asked: dict[datetime, list[tuple[str, str]]] = {}
    for mandate_id, account_id, at in keys:
        asked.setdefault(at, []).append((mandate_id, account_id))
    found: dict[tuple[str, str, datetime], Decimal] = {}
    for at, these in asked.items():
        latest = (
            select(transactions.c.balance_after)
            .where(
                transactions.c.mandate_id == accounts.c.mandate_id,
                transactions.c.account_id == accounts.c.id,
                transactions.c.id <= last_key(at),
            )
            .order_by(transactions.c.id.desc())
            .limit(1)
            .scalar_subquery()
        )
        query = select(accounts.c.mandate_id, accounts.c.id, latest).where(
            accounts.c.mandate_id.in_({mandate_id for mandate_id, _ in these}),
            accounts.c.id.in_({account_id for _, account_id in these}),
        )
        for mandate_id, account_id, balance in await connection.execute(query):
            found[mandate_id, account_id, at] = ZERO if balance is None else balance
    return [found[key] for key in keys]


async def _by_key(
    connection: AsyncConnection, column: Column[Any], keys: Sequence[tuple[str, str]]
) -> list[Any]:
    rows = await connection.execute(
        select(transactions).where(
            transactions.c.mandate_id.in_({mandate_id for mandate_id, _ in keys}),
            column.in_({key for _, key in keys}),
        )
    )
    found = {(row.mandate_id, getattr(row, column.key)): row for row in rows}
    return [found.get(key) for key in keys]


def _usual_order(filter: TransactionFilter) -> TransactionOrderField:  # noqa: A002
    if filter.occurred_from is None and filter.occurred_to is None:
        return TransactionOrderField.CREATED_AT
    return TransactionOrderField.OCCURRED_AT


def _matching(
    mandate_id: str,
    only_user: str | None,
    filter: TransactionFilter,  # noqa: A002
    order_by: TransactionOrderField = TransactionOrderField.CREATED_AT,
) -> Select[Any]:
    columns = transactions.c
    query = select(transactions).where(columns.mandate_id == mandate_id)
    for name, compare, value in (
        ("user_id", eq, only_user),
        *((name, eq, getattr(filter, name)) for name in (*_EQUAL, "idempotency_key")),
        ("id", ge, filter.created_from and first_key(filter.created_from)),
        ("id", lt, filter.created_to and first_key(filter.created_to)),
        ("occurred_at", ge, filter.occurred_from),
        ("occurred_at", lt, filter.occurred_to),
        ("amount", ge, _clamped(filter.min_amount)),
        ("amount", le, _clamped(filter.max_amount)),
    ):
        if value is None:
            continue
        if name in _INDEXED[order_by]:
            query = query.where(compare(columns[name], value))
        else:
            # PostgreSQL may plan a parameter once for all: a range must be planned for itself,
            # or pages of many rows decide how one of few is read.
            wanted = bindparam(None, value, columns[name].type, literal_execute=compare is not eq)
            query = query.where(compare(unindexed(columns[name]), wanted))
    if filter.occurred_from is not None and order_by is TransactionOrderField.CREATED_AT:
        query = query.where(columns.id >= first_key(max(filter.occurred_from, EPOCH) - _AHEAD))
    if filter.search is not None:
        query = query.where(contains(filter.search, columns.description))
    return query


def _clamped(amount: Decimal | None) -> Decimal | None:
    """A bound beyond what any row holds, brought to where 64 bits can compare it."""
    return amount and max(-MAX_TRANSACTION - 1, min(amount, MAX_TRANSACTION + 1))


def _of_accounts(mandate_id: str) -> Select[Any]:
    """Count and sums of a whole mandate: its accounts carry them."""
    sums: Select[Any] = select(
        func.coalesce(func.sum(accounts.c.sequence), 0).label("rows"),
        exact_sum(accounts.c.credited).label("credits"),
        exact_sum(accounts.c.debited).label("debits"),
    )
    return sums.where(accounts.c.mandate_id == mandate_id)


def _of_rows(query: Select[Any]) -> Any:
    amount, kind = transactions.c.amount, transactions.c.transaction_type
    return query.with_only_columns(
        func.count().label("rows"),
        exact_sum(case((kind == TransactionType.CREDIT, amount))).label("credits"),
        exact_sum(case((kind == TransactionType.DEBIT, amount))).label("debits"),
        maintain_column_froms=True,
    )
