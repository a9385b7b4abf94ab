"""What transactions say of holds and of each other: every link has both its ends, and they agree."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.corrections import REVERSIBLE
from app.billing.enums import HoldStatus, ReferenceType, TransactionType
from app.billing.models import holds, transactions
from app.billing.money import format_decimal
from app.billing.verify.check import LedgerCheck, stream

_this = transactions.c
_table = transactions.alias("other")
_other = _table.c

_CREDIT, _DEBIT = literal(TransactionType.CREDIT.value), literal(TransactionType.DEBIT.value)
_USAGE = literal(ReferenceType.USAGE.value)
_REVERSAL = literal(ReferenceType.REVERSAL.value)
_TRANSFER = literal(ReferenceType.TRANSFER.value)
_SETTLED = literal(HoldStatus.SETTLED.value)
_OPPOSITE = case((_other.transaction_type == _CREDIT, _DEBIT), else_=_CREDIT)

_Pairs = Mapping[str, tuple[ColumnElement[Any], ColumnElement[Any]]]
"""What is stored and what must be, by the words for it."""


async def verify_holds(connection: AsyncConnection, check: LedgerCheck) -> None:
    """A SETTLED hold has one transaction, a debit of what it settled for; no other hold has any."""
    await _verify_links(
        connection,
        check,
        named=_this.hold_id,
        concerned=_this.hold_id.is_not(None),
        end=holds.c,
        role="a settlement",
        missing="the hold of {}",
        pairs={
            "the status of the hold of {}": (holds.c.status, _SETTLED),
            "the account of {}": (_this.account_id, holds.c.account_id),
            "the type of {}": (_this.transaction_type, _DEBIT),
            "the reference type of {}": (_this.reference_type, _USAGE),
            "the amount of {}": (
                _this.amount,
                func.coalesce(holds.c.settled_amount, _this.amount),  # the status says it already
            ),
            "the number of settlements of the hold of {}": _only_one("hold_id", check.mandate_id),
        },
    )
    settlement = exists().where(_this.mandate_id == check.mandate_id, _this.hold_id == holds.c.id)
    unsettled = select(holds.c.account_id, holds.c.id, holds.c.settled_amount).where(
        holds.c.mandate_id == check.mandate_id, holds.c.status == _SETTLED, ~settlement
    )
    async for row in stream(connection, unsettled):
        debit = f"a debit of {_shown(row.settled_amount)}"
        check.found(row.account_id, f"the settlement of hold {row.id}", "missing", debit)


async def verify_reversals(connection: AsyncConnection, check: LedgerCheck) -> None:
    """A reversal is the opposite of one transaction of its account, which no other one undoes."""
    final = _other.reference_type.not_in(REVERSIBLE)
    await _verify_links(
        connection,
        check,
        named=_this.reverses_id,
        concerned=or_(
            _this.reference_type == _REVERSAL,
            _this.reverses_id.is_not(None),
            _this.reversed_type.is_not(None),
        ),
        end=_other,
        role="a reversal",
        missing="what {} undoes",
        pairs={
            "the reference type of {}": (_this.reference_type, _REVERSAL),
            "the account of {}": (_this.account_id, _other.account_id),
            "the amount of {}": (_this.amount, _other.amount),
            "the type of {}": (_this.transaction_type, _OPPOSITE),
            "the reversed type of {}": (_this.reversed_type, _other.reference_type),
            "the reference type of what {} undoes": (
                _other.reference_type,
                case((final, literal("one that can be undone")), else_=_other.reference_type),
            ),
            "the number of reversals of what {} undoes": _only_one("reverses_id", check.mandate_id),
        },
    )


async def verify_transfers(connection: AsyncConnection, check: LedgerCheck) -> None:
    """A transfer has two legs that name each other: what leaves one account arrives on another."""
    same = _this.account_id == _other.account_id
    await _verify_links(
        connection,
        check,
        named=_this.counterpart_id,
        concerned=or_(_this.reference_type == _TRANSFER, _this.counterpart_id.is_not(None)),
        end=_other,
        role="a leg of a transfer",
        missing="the other leg of {}",
        pairs={
            "the reference type of {}": (_this.reference_type, _TRANSFER),
            "the amount of {}": (_this.amount, _other.amount),
            "the type of {}": (_this.transaction_type, _OPPOSITE),
            "the counterpart of the other leg of {}": (_other.counterpart_id, _this.id),
            "the account of the other leg of {}": (
                case((same, literal("the same")), else_=literal("another")),
                literal("another"),
            ),
        },
    )


def _only_one(link: str, mandate_id: str) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """How many transactions name the same other end; the unique index that sees to it may be gone."""
    alike = and_(_other.mandate_id == mandate_id, _other[link] == _this[link])
    counted = select(func.count()).select_from(_table).where(alike).correlate(transactions)
    return counted.scalar_subquery(), literal(1)


async def _verify_links(
    connection: AsyncConnection,
    check: LedgerCheck,
    *,
    named: ColumnElement[Any],
    concerned: ColumnElement[bool],
    end: Any,
    role: str,
    missing: str,
    pairs: _Pairs,
) -> None:
    """Reads only the faulty transactions. Where the other end is missing, that alone is reported."""
    linked = and_(end.mandate_id == _this.mandate_id, end.id == named)
    query = (
        select(
            _this.account_id,
            _this.sequence,
            named.label("named"),
            end.id.label("end"),
            *(stored.label(f"stored_{place}") for place, (stored, _) in enumerate(pairs.values())),
            *(must.label(f"computed_{place}") for place, (_, must) in enumerate(pairs.values())),
        )
        .outerjoin_from(transactions, end.id.table, linked)
        .where(
            _this.mandate_id == check.mandate_id,
            concerned,
            or_(
                end.id.is_(None),
                *(stored.is_distinct_from(computed) for stored, computed in pairs.values()),
            ),
        )
        .order_by(_this.account_id, _this.sequence)
    )
    async for row in stream(connection, query):
        place = f"transaction {row.sequence} ({role})"
        if row.end is None:
            check.found(row.account_id, missing.format(place), "missing", row.named or "named")
            continue
        found, computed = row[4 : 4 + len(pairs)], row[4 + len(pairs) :]
        for words, is_now, must_be in zip(pairs, found, computed, strict=True):
            if is_now != must_be:
                check.found(row.account_id, words.format(place), _shown(is_now), _shown(must_be))


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    return format_decimal(value) if isinstance(value, Decimal) else str(value)
