"""The whole proof of a mandate's books, in one snapshot while others write."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import and_, case, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.enums import TransactionType
from app.billing.models import accounts, mandates, transactions
from app.billing.types import NOW, exact_sum
from app.billing.verify.balances import verify_accounts_exist, verify_balances
from app.billing.verify.check import LedgerCheck
from app.billing.verify.links import verify_holds, verify_reversals, verify_transfers
from app.billing.verify.roll_up import verify_roll_up, verify_totals
from app.billing.viewer import Viewer, sees
from app.database import Database

MAX_PROBLEMS = 100
"""Told of one account; the command line tells all."""
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class WrongAccount:
    """An account of which something does not follow from the transactions, be it its balance or not."""

    mandate_id: str
    account_id: str
    stored_balance: Decimal
    ledger_balance: Decimal
    """The sum of its transactions."""
    problems: Sequence[str]


async def verify_ledger(connection: AsyncConnection, mandate_id: str) -> LedgerCheck:
    """What is wrong in a mandate's books: accounts, history, roll-up, holds, reversals, transfers.

    `connection` must be a snapshot. However long the history, little of it is in memory at once.
    """
    mandate = await connection.execute(
        select(mandates.c.time_zone, NOW).where(mandates.c.id == mandate_id)
    )
    check = LedgerCheck(mandate_id, *mandate.one())
    await verify_balances(connection, check)
    await verify_accounts_exist(connection, check)
    await verify_roll_up(connection, check)
    await verify_totals(connection, check)
    await verify_holds(connection, check)
    await verify_reversals(connection, check)
    await verify_transfers(connection, check)
    return check


async def check_ledger(
    database: Database, viewer: Viewer, mandate_id: str
) -> tuple[LedgerCheck, list[WrongAccount]] | None:
    """The proof for the mandate's admins, with each account concerned; Forbidden for others.

    None where the mandate does not exist or is not the viewer's.
    """
    async with database.read() as connection:
        if not await sees(connection, viewer, mandate_id):
            return None
        viewer.require_admin(mandate_id)
    async with database.long_work, database.snapshot(long=True) as connection:
        check = await verify_ledger(connection, mandate_id)
        return check, await _wrong_accounts(connection, check)


async def _wrong_accounts(connection: AsyncConnection, check: LedgerCheck) -> list[WrongAccount]:
    """Once each, by id; one that is missing itself cannot be shown."""
    problems: dict[str, list[str]] = {}
    for mismatch in check.mismatches:
        if mismatch.account_id is not None:
            problems.setdefault(mismatch.account_id, []).append(mismatch.problem)
    concerned = sorted(problems)
    signed = case(
        (transactions.c.transaction_type == TransactionType.CREDIT, transactions.c.amount),
        else_=-transactions.c.amount,
    )
    of_account = and_(
        transactions.c.mandate_id == accounts.c.mandate_id,
        transactions.c.account_id == accounts.c.id,
    )
    query = (
        select(accounts.c.id, accounts.c.balance, exact_sum(signed))
        .outerjoin_from(accounts, transactions, of_account)
        .where(accounts.c.mandate_id == check.mandate_id)
        .group_by(accounts.c.id, accounts.c.balance)
        .order_by(accounts.c.id)
    )
    wrong = []
    for start in range(0, len(concerned), _AT_ONCE):
        some = query.where(accounts.c.id.in_(concerned[start : start + _AT_ONCE]))
        for account_id, stored, computed in await connection.execute(some):
            told = _shortened(problems[account_id])
            wrong.append(WrongAccount(check.mandate_id, account_id, stored, computed, told))
    return wrong


def _shortened(problems: Sequence[str]) -> Sequence[str]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    return [*problems[:MAX_PROBLEMS], f"and {len(problems) - MAX_PROBLEMS} more"]
