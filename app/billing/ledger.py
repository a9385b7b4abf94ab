"""The one door to the money: whatever moves a balance is posted here, under the mandate's locks.

`in_ledger` locks a mandate's books, lets its caller judge and post, and writes what was posted:
transactions, account balances and the daily roll-up, in one database transaction.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.errors import BillingError, UserErrorCode
from app.billing.funds import PAYING_ACCOUNT, Funds, funds
from app.billing.models import (
    AccountType,
    AlertLevel,
    BillingModel,
    ReferenceType,
    TransactionType,
    accounts,
    daily_usage,
    transactions,
)
from app.billing.money import MAX_BALANCE, ZERO, within_limits
from app.billing.settings import lock_settings
from app.billing.types import new_key
from app.database import Database

T = TypeVar("T")

MAX_LIFETIME = 9 * MAX_BALANCE
"""The most that one account is credited, or debited, in all: what 64 bits of nano units hold."""
_STEP = timedelta(microseconds=1)
_UNSET_COLUMNS = dict.fromkeys(column.name for column in transactions.c)
_MOVED = ("balance", "credited", "debited", "sequence", "funding_base", "last_transaction_at")

_COLUMNS = tuple(column.name for column in accounts.c)
_ROLLED_UP = ("user_id", "account_id", "aicore_provider", "aicore_model", "feature_code")


@dataclass(slots=True)
class LockedAccount:
    """An account as it stands after what this unit has posted to it."""

    mandate_id: str
    id: str
    account_type: AccountType
    user_id: str | None
    created_at: datetime
    last_transaction_at: datetime
    balance: Decimal = ZERO
    credited: Decimal = ZERO
    debited: Decimal = ZERO
    sequence: int = 0
    funding_base: Decimal = ZERO
    credit_limit: Decimal | None = None
    alert_level: AlertLevel = AlertLevel.NONE
    enabled: bool = True
    is_new: bool = False
    is_needed: bool = False
    """Whether anything but its own opening was posted; else a new one is not opened after all."""
    rows: list[SimpleNamespace] = field(default_factory=list)


class Ledger:
    """The books of one mandate, locked until the database transaction ends."""

    def __init__(self, connection: AsyncConnection, terms: Any) -> None:
        self.connection = connection
        self.terms = terms
        """The mandate's settings row, with its currency and time zone."""
        self.mandate_id: str = terms.mandate_id
        self.now = datetime.now(UTC)
        self._zone = ZoneInfo(terms.time_zone)
        self._accounts: dict[str | None, LockedAccount] = {}

    async def lock_paying_accounts(self, user_ids: Iterable[str]) -> None:
        """Locks, in the order of their ids, the accounts that pay for these users."""
        paying: ColumnElement[bool]
        if self.terms.billing_model == BillingModel.PREPAY_USER:
            paying = accounts.c.user_id.in_(set(user_ids))
        else:
            paying = accounts.c.account_type == PAYING_ACCOUNT[self.terms.billing_model]
        await self._lock(paying)

    async def _lock(self, condition: ColumnElement[bool]) -> None:
        rows = await self.connection.execute(
            select(accounts)
            .where(accounts.c.mandate_id == self.mandate_id, condition)
            .order_by(accounts.c.id)
            .with_for_update()
        )
        for row in rows:
            self._accounts[row.user_id] = LockedAccount(**row._asdict())
        self.now = datetime.now(UTC)  # after the wait

    async def written_under(self, keys: Iterable[str]) -> dict[str, Any]:
        """The transactions that these idempotency keys have written, read after the locks."""
        rows = await self.connection.execute(
            select(transactions).where(
                transactions.c.mandate_id == self.mandate_id,
                transactions.c.idempotency_key.in_(set(keys)),
            )
        )
        return {row.idempotency_key: row for row in rows}

    def paying_account(self, user_id: str | None) -> LockedAccount:
        """The account that pays for this user: one that was locked, or a new one."""
        owner = user_id if self.terms.billing_model == BillingModel.PREPAY_USER else None
        account = self._accounts.get(owner)
        return account if account else self._open(owner)

    def _open(self, owner: str | None) -> LockedAccount:
        """A new account with its default credit; written only if something else is posted to it."""
        account = LockedAccount(
            mandate_id=self.mandate_id,
            id=new_key(self.now),
            account_type=PAYING_ACCOUNT[self.terms.billing_model],
            user_id=owner,
            created_at=self.now,
            last_transaction_at=self.now - _STEP,
            is_new=True,
        )
        self._accounts[owner] = account
        if owner is not None and self.terms.default_user_credit > ZERO:
            self.post(
                account,
                TransactionType.CREDIT,
                ReferenceType.SYSTEM,
                self.terms.default_user_credit,
                description="Default credit",
                user_id=owner,
            )
        return account

    def funds(self, account: LockedAccount) -> Funds:
        """What can still be paid from an account after what was posted to it."""
        return funds(
            self.terms,
            account.account_type,
            balance=account.balance,
            held=ZERO,
            funding_base=account.funding_base,
            own_credit_limit=account.credit_limit,
        )

    def post(
        self,
        account: LockedAccount,
        transaction_type: TransactionType,
        reference_type: ReferenceType,
        amount: Decimal,
        *,
        occurred_at: datetime | None = None,
        **details: Any,
    ) -> SimpleNamespace:
        """Moves the balance by one transaction and returns its row; LIMIT_EXCEEDED moves nothing.

        `details` are further columns of the row. `created_at` never repeats within an account, so
        the order of ids is the order of its history, whichever process wrote a row.
        """
        is_credit = transaction_type == TransactionType.CREDIT
        balance = account.balance + amount if is_credit else account.balance - amount
        credited = account.credited + amount if is_credit else account.credited
        debited = account.debited if is_credit else account.debited + amount
        if not within_limits(balance) or max(credited, debited) > MAX_LIFETIME:
            raise BillingError(
                UserErrorCode.LIMIT_EXCEEDED,
                f"The account's balance must stay within {MAX_BALANCE} of 0, and its credits and"
                f" its debits each within {MAX_LIFETIME} in all.",
                "amount",
            )
        account.balance, account.credited, account.debited = balance, credited, debited
        account.sequence += 1
        account.last_transaction_at = max(self.now, account.last_transaction_at + _STEP)
        if is_credit and reference_type != ReferenceType.REVERSAL:
            account.funding_base = balance
        if reference_type != ReferenceType.SYSTEM:
            account.is_needed = True
        row = SimpleNamespace(
            **(
                _UNSET_COLUMNS
                | {
                    "mandate_id": self.mandate_id,
                    "id": new_key(account.last_transaction_at),
                    "account_id": account.id,
                    "sequence": account.sequence,
                    "transaction_type": transaction_type,
                    "reference_type": reference_type,
                    "amount": amount,
                    "balance_after": balance,
                    "occurred_at": occurred_at or account.last_transaction_at,
                    "created_at": account.last_transaction_at,
                }
                | details
            )
        )
        account.rows.append(row)
        return row

    async def write(self) -> None:
        """Writes what was posted: new accounts, transactions, balances, roll-up.

        An account that another unit opens at the same time is a unique violation, so the database
        lets one of them through and runs the other again: it is opened, and credited, once.
        """
        moved = [account for account in self._accounts.values() if account.is_needed]
        opened = sorted(
            (account for account in moved if account.is_new), key=lambda new: new.user_id or ""
        )
        rows = [vars(row) for account in moved for row in account.rows]
        if opened:
            await self.connection.execute(
                insert(accounts),
                [{name: getattr(account, name) for name in _COLUMNS} for account in opened],
            )
        if rows:
            await self.connection.execute(insert(transactions), rows)
        standing = [
            {"this": account.id} | {name: getattr(account, name) for name in _MOVED}
            for account in moved
            if not account.is_new
        ]
        if standing:
            await self.connection.execute(
                update(accounts)
                .where(accounts.c.mandate_id == self.mandate_id, accounts.c.id == bindparam("this"))
                .values({name: bindparam(name) for name in _MOVED}),
                standing,
            )
        await self._roll_up(rows)

    async def _roll_up(self, rows: Iterable[dict[str, Any]]) -> None:
        days: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in rows:
            if row["reference_type"] != ReferenceType.USAGE:
                continue
            day: dict[str, Any] = {"local_date": self._local_date(row["occurred_at"])}
            day |= {name: row[name] or "" for name in _ROLLED_UP}
            total = days.setdefault(
                tuple(day.values()),
                day | {"mandate_id": self.mandate_id, "cost": ZERO, "transaction_count": 0},
            )
            total["cost"] += row["amount"]
            total["transaction_count"] += 1
        if not days:
            return
        dialect = sqlite if self.connection.dialect.name == "sqlite" else postgresql
        upsert = dialect.insert(daily_usage)
        await self.connection.execute(
            upsert.on_conflict_do_update(
                index_elements=list(daily_usage.primary_key),
                set_={
                    name: daily_usage.c[name] + upsert.excluded[name]
                    for name in ("cost", "transaction_count")
                },
            ),
            [days[key] for key in sorted(days)],
        )

    def _local_date(self, instant: datetime) -> date:
        """The day in the mandate's time zone that statistics count an instant to."""
        return instant.astimezone(self._zone).date()


async def in_ledger(
    database: Database, mandate_id: str, work: Callable[[Ledger], Awaitable[T]]
) -> T:
    """Runs `work` on a mandate's locked books and writes what it posted; NOT_FOUND without a mandate.

    It may run more than once: whoever loses a race judges again on what the winner has written.
    """

    async def unit(connection: AsyncConnection) -> T:
        ledger = Ledger(connection, await lock_settings(connection, mandate_id, change=False))
        result = await work(ledger)
        await ledger.write()
        return result

    return await database.write(unit)


def first_result(written: dict[str, Any], key: str, content_hash: str) -> Any:
    """What this idempotency key has written, or None; IDEMPOTENCY_CONFLICT for other content."""
    row = written.get(key)
    if row is not None and row.content_hash != content_hash:
        raise BillingError(
            UserErrorCode.IDEMPOTENCY_CONFLICT,
            "This idempotency_key was used with other content: use a new key for a new operation.",
            "idempotency_key",
        )
    return row
