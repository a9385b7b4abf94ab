"""The figures of each account, and the balance after each transaction, from the amounts alone."""

from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.enums import ReferenceType, TransactionType
from app.billing.models import accounts, transactions
from app.billing.money import format_nano
from app.billing.verify.check import LedgerCheck, nano, stream

_FIGURES = ("balance", "credited", "debited", "sequence", "funding_base")


async def verify_balances(connection: AsyncConnection, check: LedgerCheck) -> None:
    """Walks through each account's transactions in their order."""
    query = (
        select(
            accounts.c.id,
            *(nano(accounts.c[name], f"stored_{name}") for name in _FIGURES),
            transactions.c.sequence,
            transactions.c.transaction_type,
            transactions.c.reference_type,
            nano(transactions.c.amount, "amount"),
            nano(transactions.c.balance_after, "balance_after"),
        )
        .outerjoin_from(
            accounts,
            transactions,
            (transactions.c.mandate_id == accounts.c.mandate_id)
            & (transactions.c.account_id == accounts.c.id),
        )
        .where(accounts.c.mandate_id == check.mandate_id)
        .order_by(accounts.c.id, transactions.c.sequence)
    )
    account: Any = None
    figures: dict[str, int] = {}
    before = 0

    def close() -> None:
        if account is None:
            return
        check.accounts_checked += 1
        figures["balance"] = figures["credited"] - figures["debited"]
        for name, computed in figures.items():
            stored = getattr(account, f"stored_{name}")
            if stored != computed:
                check.found(account.id, name, _shown(name, stored), _shown(name, computed))

    async for row in stream(connection, query):
        if account is None or row.id != account.id:
            close()
            account, figures, before = row, dict.fromkeys(_FIGURES, 0), 0
        if row.sequence is None:  # an account without transactions
            continue
        check.transactions_checked += 1
        place = f"transaction {row.sequence}"
        expected = figures["sequence"] + 1
        if row.sequence != expected:
            check.found(row.id, f"the sequence of {place}", str(row.sequence), str(expected))
        is_credit = row.transaction_type == TransactionType.CREDIT
        after = before + row.amount if is_credit else before - row.amount
        if row.balance_after != after:
            figure = f"the balance after {place}"
            check.found(row.id, figure, format_nano(row.balance_after), format_nano(after))
        figures["credited" if is_credit else "debited"] += row.amount
        figures["sequence"] = row.sequence
        before = row.balance_after
        if is_credit and row.reference_type != ReferenceType.REVERSAL:
            figures["funding_base"] = row.balance_after
    close()


def _shown(name: str, value: int) -> str:
    return str(value) if name == "sequence" else format_nano(value)


async def verify_accounts_exist(connection: AsyncConnection, check: LedgerCheck) -> None:
    """A database whose foreign keys were off may have lost an account and kept its history."""
    owner = exists().where(
        accounts.c.mandate_id == check.mandate_id,
        accounts.c.id == transactions.c.account_id,
    )
    query = (
        select(transactions.c.account_id)
        .where(transactions.c.mandate_id == check.mandate_id, ~owner)
        .distinct()
    )
    async for row in stream(connection, query):
        check.found(row.account_id, "the account of its transactions", "missing", "there")
