"""The ledger as it is read: one transaction, and lists filtered, ordered, paged and totalled."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from operator import eq, ge, le, lt
from typing import Any, cast

from sqlalchemy import Column, ColumnElement, Select, String, bindparam, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.directory import ShownUser, readable_emails, shown_columns
from app.billing.enums import ReferenceType, TransactionType
from app.billing.errors import BadInput
from app.billing.models import accounts, transactions, users
from app.billing.money import MAX_TRANSACTION, ZERO
from app.billing.paging import (
    Keyset,
    Page,
    PageArguments,
    check_wanted,
    contains,
    fetch_listed,
    once,
    pattern_of,
)
from app.billing.types import (
    EPOCH,
    IdempotencyKey,
    exact_sum,
    first_key,
    is_among,
    last_key,
    unindexed,
)
from app.billing.viewer import Viewer, sees
from app.database import Database
from app.statements import Source, Statement


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
_ALWAYS_INDEXED = {"mandate_id", "idempotency_key"}
_INDEXED: dict[TransactionOrderField, set[str]] = {
    TransactionOrderField.CREATED_AT: {"id", *_EQUAL, *_ALWAYS_INDEXED},
    TransactionOrderField.OCCURRED_AT: {"occurred_at", *_ALWAYS_INDEXED},
    TransactionOrderField.AMOUNT: {"amount", *_ALWAYS_INDEXED},
}
"""The columns whose conditions an index meets in that order: a page reads little more than itself."""
_JOINED = 100
"""The rows of a page that is read together with its users."""
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
    columns: Collection[str] | None = None,
    with_users: bool = False,
) -> Page | None:
    """A mandate's transactions that the viewer may see; None where it is not the viewer's.

    Without an order, newest first by the time that the filter bounds, so that an index has the page.
    Rows have the `columns` that are named, or all; a page of few has their users, too.

    BadInput for a page or a filter that no row can meet.
    """
    check_wanted(filter.workflow_id, "workflowId")
    check_wanted(filter.feature_code, "featureCode")
    check_wanted(filter.aicore_provider, "aicoreProvider")
    check_wanted(filter.aicore_model, "aicoreModel")
    check_wanted(filter.idempotency_key, "idempotencyKey", IdempotencyKey.most)
    only_user = viewer.only_user(mandate_id)
    order_by = order_by or _usual_order(filter)
    values = _values(mandate_id, only_user, filter, order_by)
    if filter.idempotency_key is not None and not viewer.may_read_keys(mandate_id):
        values["idempotency_key"] = None  # which no key equals
    query = _matching(order_by, *values)
    # On a long page each user comes many times: then they are read apart, once.
    with_users = with_users and max(page.first or 0, page.last or 0) <= _JOINED
    readable, email_values = readable_emails(viewer) if with_users else (None, {})
    chosen = None if columns is None else frozenset(columns)
    rows = _with_columns(query, order_by, chosen, readable)
    keyset = Keyset(
        _ORDER_COLUMNS[order_by],
        descending,
        binding=("transactions", mandate_id, only_user, filter),
    )
    if not viewer.may_see(mandate_id):
        return None
    try:
        found = await fetch_listed(database, rows, values | email_values, keyset, page)
    except BadInput:  # which is told of a mandate that there is
        if await sees(database, viewer, mandate_id):
            raise
        return None
    if not found.nodes and not await sees(database, viewer, mandate_id):
        return None
    is_whole = only_user is None and filter == TransactionFilter()

    @once
    async def read_sums() -> Any:
        sums = _of_accounts(mandate_id) if is_whole else _of_rows(query)

        async def add_up(connection: AsyncConnection) -> Any:
            return (await connection.execute(sums, values)).one()

        return await database.reader.consult(add_up)

    async def count() -> int:
        return int((await read_sums()).rows)

    async def totals() -> TransactionTotals:
        row = await read_sums()
        return TransactionTotals(credits=row.credits, debits=row.debits)

    page_users: dict[str, ShownUser] = {}
    for row in found.nodes if readable else ():
        if row.user_id and row.user_id not in page_users:
            page_users[row.user_id] = ShownUser(*row[-len(ShownUser._fields) :])
    return replace(found, count=count, totals=totals, users=page_users)


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
    only_user = viewer.only_user(mandate_id)
    values = {"mandate_id": mandate_id, "only_user": only_user, "id": transaction_id}
    return await (_ONE if only_user is None else _ONE_OF_USER).first(database, **values)


def _of_keys(column: Column[Any]) -> Statement:
    mandate_id = is_among(transactions.c.mandate_id, "mandate_ids")
    return Statement(select(transactions).where(mandate_id, is_among(column, "keys")))


_BY_ID = _of_keys(transactions.c.id)
_BY_REVERSED = _of_keys(transactions.c.reverses_id)
_BY_HOLD = _of_keys(transactions.c.hold_id)


async def transactions_by_id(source: Source, keys: Sequence[tuple[str, str]]) -> list[Any]:
    """The transactions of (mandate id, id) pairs the caller may see, in the order asked."""
    return await _by_key(source, _BY_ID, "id", keys)


async def reversals_by_id(source: Source, keys: Sequence[tuple[str, str]]) -> list[Any]:
    """For (mandate id, id) pairs the transaction that reverses each, or None."""
    return await _by_key(source, _BY_REVERSED, "reverses_id", keys)


async def settlements_by_hold(source: Source, keys: Sequence[tuple[str, str]]) -> list[Any]:
    """For (mandate id, hold id) pairs the transaction that settled each, or None."""
    return await _by_key(source, _BY_HOLD, "hold_id", keys)


async def _by_key(
    source: Source, statement: Statement, name: str, keys: Sequence[tuple[str, str]]
) -> list[Any]:
    rows = await statement.rows(
        source,
        mandate_ids=list({mandate_id for mandate_id, _ in keys}),
        keys=list({key for _, key in keys}),
    )
    found = {(row.mandate_id, getattr(row, name)): row for row in rows}
    return [found.get(key) for key in keys]


async def balances_at(source: Source, keys: Sequence[tuple[str, str, datetime]]) -> list[Decimal]:
    """The balances of (mandate id, account id, instant), by one SELECT for each instant.

    That after the account's last transaction written up to then; 0 before the first.
    """
    asked: dict[datetime, list[tuple[str, str]]] = {}
    for mandate_id, account_id, at in keys:
        asked.setdefault(at, []).append((mandate_id, account_id))
    found: dict[tuple[str, str, datetime], Decimal] = {}
    for at, these in asked.items():
        for mandate_id, account_id, balance in await _LATEST_BALANCES.rows(
            source,
            mandate_ids=list({mandate_id for mandate_id, _ in these}),
            account_ids=list({account_id for _, account_id in these}),
            last_key=last_key(at),
        ):
            found[mandate_id, account_id, at] = ZERO if balance is None else balance
    return [found[key] for key in keys]


_LATEST_BALANCES = Statement(
    select(
        accounts.c.mandate_id,
        accounts.c.id,
        select(transactions.c.balance_after)
        .where(
            is_among(transactions.c.mandate_id, "mandate_ids"),  # for a cluster: it sees no further
            transactions.c.mandate_id == accounts.c.mandate_id,
            transactions.c.account_id == accounts.c.id,
            transactions.c.id <= bindparam("last_key", type_=transactions.c.id.type),
        )
        .order_by(transactions.c.id.desc())
        .limit(1)
        .scalar_subquery()
        .label("balance"),
    ).where(is_among(accounts.c.mandate_id, "mandate_ids"), is_among(accounts.c.id, "account_ids"))
)


def _usual_order(filter: TransactionFilter) -> TransactionOrderField:  # noqa: A002
    if filter.occurred_from is None and filter.occurred_to is None:
        return TransactionOrderField.CREATED_AT
    return TransactionOrderField.OCCURRED_AT


_CONDITIONS: Mapping[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "mandate_id": ("mandate_id", eq),
    "only_user": ("user_id", eq),
    **{name: (name, eq) for name in (*_EQUAL, "idempotency_key")},
    "id": ("id", eq),
    "created_from": ("id", ge),
    "created_to": ("id", lt),
    "written_from": ("id", ge),
    "occurred_from": ("occurred_at", ge),
    "occurred_to": ("occurred_at", lt),
    "min_amount": ("amount", ge),
    "max_amount": ("amount", le),
}
"""By the name of a value: the column that it is compared with, and how."""


def _values(
    mandate_id: str,
    only_user: str | None,
    filter: TransactionFilter,  # noqa: A002
    order_by: TransactionOrderField,
) -> dict[str, Any]:
    """What rows are compared with, by name."""
    values: dict[str, Any] = {"mandate_id": mandate_id, "only_user": only_user}
    values |= {name: getattr(filter, name) for name in TransactionFilter.__slots__}
    for name in ("created_from", "created_to"):
        values[name] = values[name] and first_key(values[name])
    for name in ("min_amount", "max_amount"):
        values[name] = _clamped(values[name])
    if filter.occurred_from is not None and order_by is TransactionOrderField.CREATED_AT:
        values["written_from"] = first_key(max(filter.occurred_from, EPOCH) - _AHEAD)
    if filter.search is not None:
        values["search"] = pattern_of(filter.search)
    return {name: value for name, value in values.items() if value is not None}


@lru_cache(256)
def _matching(order_by: TransactionOrderField, *names: str) -> Select[Any]:
    """The rows for which what these names ask for holds."""
    columns = transactions.c
    query = select(transactions)
    for name in names:
        if name == "search":
            query = query.where(contains(bindparam(name, type_=String), columns.description))
            continue
        column_name, compare = _CONDITIONS[name]
        column = columns[column_name]
        if column_name in _INDEXED[order_by]:
            query = query.where(compare(column, bindparam(name, type_=column.type)))
        else:
            # PostgreSQL may plan a parameter once for all: a range must be planned for itself,
            # or pages of many rows decide how one of few is read.
            is_range = compare is not eq
            wanted = bindparam(name, type_=column.type, literal_execute=is_range)
            query = query.where(compare(unindexed(column), wanted))
    return query


@lru_cache(256)
def _with_columns(
    query: Select[Any],
    order_by: TransactionOrderField,
    columns: frozenset[str] | None,
    readable: str | None,
) -> Select[Any]:
    """The rows of `_matching` with these columns, and with their users."""
    chosen: list[ColumnElement[Any]] = [
        column
        for column in transactions.c
        if columns is None or column.name in columns or column in _ORDER_COLUMNS[order_by]
    ]
    if readable is None:
        return query.with_only_columns(*chosen)
    joined = query.with_only_columns(*chosen, *shown_columns(readable))
    return joined.outerjoin_from(transactions, users, users.c.id == transactions.c.user_id)


_ONE = Statement(_matching(TransactionOrderField.CREATED_AT, "mandate_id", "id"))
_ONE_OF_USER = Statement(
    _matching(TransactionOrderField.CREATED_AT, "mandate_id", "only_user", "id")
)


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
