"""The one door to the money: whatever moves a balance is posted here, under the mandate's locks.

A Ledger is a mandate's books, locked: its callers judge and post, and it writes what was posted:
transactions, holds, account balances, the daily roll-up and what the outbox tells of it, in one
database transaction. An admin's change has that transaction to itself (`in_ledger`); the gateway's
calls share one with others that come at once (`group.in_group`).
"""

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, TypeVar

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.alerts import alert_level, alert_notices, notice, those_with_room
from app.billing.audit import note_event
from app.billing.bulk import insert_rows, update_rows
from app.billing.checks import same_content
from app.billing.directory import Member, members_by_user
from app.billing.enums import (
    AccountType,
    Channel,
    HoldStatus,
    NoticeType,
    ReferenceType,
    TransactionType,
)
from app.billing.errors import BillingError, UserErrorCode
from app.billing.funds import Funds, Owner, funds, payer
from app.billing.limits import LimitsInForce
from app.billing.locked import (
    LockedAccount,
    Needs,
    lock_accounts,
    lock_holds,
    read_held,
    read_written,
)
from app.billing.models import accounts, audit_events, holds, outbox, transactions
from app.billing.money import MAX_BALANCE, ZERO, within_limits
from app.billing.roll_up import roll_up
from app.billing.settings import lock_settings
from app.billing.types import new_key
from app.database import Database
from app.feed import note

T = TypeVar("T")

MAX_LIFETIME = 9 * MAX_BALANCE
"""The most that one account is credited, or debited, in all: what 64 bits of nano units hold."""
_STEP = timedelta(microseconds=1)
_UNSET_COLUMNS = dict.fromkeys(column.name for column in transactions.c)
_MOVED = (
    "balance",
    "credited",
    "debited",
    "sequence",
    "funding_base",
    "alert_level",
    "last_transaction_at",
)
_COLUMNS = tuple(column.name for column in accounts.c)


class Ledger:
    """The books of one mandate, locked until the database transaction ends."""

    def __init__(self, connection: AsyncConnection, terms: Any, *, locking: bool = True) -> None:
        """Without `locking` it can only be looked at: nothing may be written."""
        self.connection = connection
        self.terms = terms
        """The mandate's settings row, with its name, currency and time zone."""
        self.mandate_id: str = terms.mandate_id
        self.locked_at = self.now = datetime.now(UTC)
        """The database's clock after the locks were taken; `now` moves on with each row posted."""
        self.members: dict[str, Member] = {}
        self.limits = LimitsInForce(terms, self.members, self.now)
        self._locking = locking
        self._accounts: dict[Owner, LockedAccount] = {}
        self._accounts_by_id: dict[str, LockedAccount] = {}
        self._held: dict[str, Decimal] = {}
        self._written: dict[str, Any] = {}
        """Transactions by their idempotency keys."""
        self._holds: dict[str, SimpleNamespace] = {}
        self._holds_by_key: dict[str, SimpleNamespace] = {}
        self._settlements: dict[str, Any] = {}
        """Transactions by the holds that they settle."""
        self._unjudged: dict[str, LockedAccount] = {}
        """Accounts to which something was posted since their alert level was judged."""
        self._made: list[SimpleNamespace] = []
        self._closed: list[SimpleNamespace] = []
        self._notices: list[dict[str, Any]] = []
        self._audited: list[dict[str, Any]] = []
        self.changes = 0
        """How much was posted, held, closed and told: what one who is refused must leave as it was."""

    async def prepare(self, needs: Needs) -> None:
        """Locks and reads all that the calls of this unit need: then they judge without waiting.

        Once in a unit: the order of locks is by id.
        """
        named = {user_id for user_id, _ in needs.spends if user_id is not None}
        if named:
            self.members = await members_by_user(self.connection, self.mandate_id, named)
        payers = {self.payer(user_id) for user_id, _ in needs.spends}
        await self._lock(payers, hold_ids=needs.hold_ids)
        self.limits = LimitsInForce(self.terms, self.members, self.locked_at)
        await self.limits.read(self.connection, needs.spends)
        if needs.hold_ids or needs.hold_keys:
            for hold in await lock_holds(
                self.connection, self.mandate_id, needs.hold_ids, needs.hold_keys
            ):
                self._holds[hold.id] = self._holds_by_key[hold.idempotency_key] = hold
        settled = [h.id for h in self._holds.values() if h.status == HoldStatus.SETTLED]
        if needs.keys or settled:
            for row in await read_written(self.connection, self.mandate_id, needs.keys, settled):
                self._remember(row)

    async def lock(self, *owners: Owner) -> None:
        """Locks the accounts of these owners, those that are open. Once in a unit, too."""
        await self._lock(owners)

    async def lock_account(self, account_id: str) -> LockedAccount:
        """Locks one account that is known to exist, whichever model it belongs to."""
        await self._lock(account_ids=[account_id])
        return self._accounts_by_id[account_id]

    async def _lock(self, owners: Collection[Owner] = (), **ids: Collection[str]) -> None:
        for account in await lock_accounts(
            self.connection, self.mandate_id, owners, locking=self._locking, **ids
        ):
            if account.alert_level is None:
                account.alert_level = alert_level(self.terms, account)
            self._accounts[account.account_type, account.user_id] = account
            self._accounts_by_id[account.id] = account
        now, self._held = await read_held(self.connection, self.mandate_id, self._accounts_by_id)
        self.locked_at = self.now = now

    async def first_result(self, key: str, content_hash: str) -> Any:
        """What this idempotency key has written, or None; IDEMPOTENCY_CONFLICT for other content."""
        for row in await read_written(self.connection, self.mandate_id, [key]):
            self._remember(row)
        return self.written_under(key, content_hash)

    def _remember(self, row: Any) -> None:
        if row.idempotency_key is not None:
            self._written[row.idempotency_key] = row
        if row.hold_id is not None:
            self._settlements[row.hold_id] = row

    def written_under(self, key: str, content_hash: str) -> Any:
        """As first_result, of a key that was prepared."""
        return same_content(self._written.get(key), content_hash)

    def hold(self, hold_id: str) -> SimpleNamespace | None:
        """A hold of this mandate, as it is now."""
        return self._holds.get(hold_id)

    def held_under(self, key: str, content_hash: str) -> Any:
        """The hold that this idempotency key has made, or None; IDEMPOTENCY_CONFLICT likewise."""
        return same_content(self._holds_by_key.get(key), content_hash)

    def settlement(self, hold: SimpleNamespace) -> Any:
        """The transaction that has settled a hold."""
        return self._settlements[hold.id]

    def account_of(self, hold: SimpleNamespace) -> LockedAccount:
        """The account on which money is held, whichever model it belongs to."""
        return self._accounts_by_id[hold.account_id]

    def payer(self, user_id: str | None) -> Owner:
        """The owner of the account that pays for this user."""
        return payer(self.terms.billing_model, user_id)

    def paying_account(self, user_id: str | None) -> LockedAccount:
        """The account that pays for this user: one that was locked, or a new one."""
        return self.account(self.payer(user_id))

    def account(self, owner: Owner) -> LockedAccount:
        """The account of this owner: one that was locked, or a new one."""
        account = self._accounts.get(owner)
        return account if account else self._open(*owner)

    def _open(self, account_type: AccountType, user_id: str | None) -> LockedAccount:
        """A new account with its default credit; written only if something else needs it."""
        account = LockedAccount(
            mandate_id=self.mandate_id,
            id=new_key(self.now),
            account_type=account_type,
            user_id=user_id,
            created_at=self.now,
            last_transaction_at=self.now - _STEP,
            is_new=True,
        )
        self._accounts[account_type, user_id] = self._accounts_by_id[account.id] = account
        if user_id is not None and self.terms.default_user_credit > ZERO:
            self.post(
                account,
                TransactionType.CREDIT,
                ReferenceType.SYSTEM,
                self.terms.default_user_credit,
                description="Default credit",
                user_id=user_id,
            )
        account.alert_level = alert_level(self.terms, account)
        return account

    def held_on(self, account: LockedAccount) -> Decimal:
        """What its open holds set aside."""
        return self._held.get(account.id, ZERO)

    def funds(self, account: LockedAccount) -> Funds:
        """What can still be paid from an account after what was posted to it."""
        return funds(
            self.terms,
            account.account_type,
            balance=account.balance,
            held=self.held_on(account),
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
        the order of ids is the order of its history, whichever process wrote a row; nor within a
        unit, so that it is the order of posting, too.
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
        self.now = account.last_transaction_at + _STEP
        if is_credit and reference_type != ReferenceType.REVERSAL:
            account.funding_base = balance
        if reference_type != ReferenceType.SYSTEM:
            account.is_needed = True
            self.changes += 1
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
        self._unjudged[account.id] = account
        self._remember(row)
        if reference_type == ReferenceType.USAGE:
            self.limits.count_spent(row.user_id, occurred_at, amount)
        return row

    def set_aside(self, account: LockedAccount, **columns: Any) -> SimpleNamespace:
        """Adds a hold and returns its row, opening the account where it is new."""
        account.is_needed = True
        self.changes += 1
        hold = SimpleNamespace(mandate_id=self.mandate_id, account_id=account.id, **columns)
        self._made.append(hold)
        self._holds[hold.id] = self._holds_by_key[hold.idempotency_key] = hold
        self._count_held(hold, hold.amount)
        return hold

    def close(
        self, hold: SimpleNamespace, status: HoldStatus, settled_amount: Decimal | None = None
    ) -> None:
        """Settles or releases a hold; one that is open does not count from then on."""
        self.changes += 1
        if hold.status == HoldStatus.OPEN:
            self._count_held(hold, -hold.amount)
        hold.status, hold.settled_amount = status, settled_amount
        self._closed.append(hold)

    def _count_held(self, hold: SimpleNamespace, amount: Decimal) -> None:
        self._held[hold.account_id] = self._held.get(hold.account_id, ZERO) + amount
        self.limits.count_held(hold.user_id, amount)

    def notify(self, kind: NoticeType, data: dict[str, Any]) -> None:
        """Adds a webhook notice to the outbox."""
        self.changes += 1
        data = {"mandateId": self.mandate_id} | data
        self._notices.append(notice(self.mandate_id, Channel.WEBHOOK, kind, data, self.now))

    def audit(self, event: dict[str, Any]) -> None:
        """Adds the row of an audit event."""
        self.changes += 1
        self._audited.append(event)

    def judge_levels(self) -> None:
        """Judges how low the accounts stand that one call has moved, and adds what is told of it."""
        for account in self._unjudged.values():
            if account.is_needed:
                level = alert_level(self.terms, account)
                self._notices += alert_notices(self.terms, account, level, self.now)
                account.alert_level = level
        self._unjudged.clear()

    async def write(self) -> None:
        """Writes what was posted, set aside and closed, and what is to be told of it.

        An account that another unit opens at the same time is a unique violation, so the database
        lets one of them through and runs the other again: it is opened, and credited, once.
        """
        self.judge_levels()
        connection = self.connection
        moved = [account for account in self._accounts.values() if account.is_needed]
        opened = sorted(
            (account for account in moved if account.is_new), key=lambda new: new.user_id or ""
        )
        rows = [vars(row) for account in moved for row in account.rows]
        standing = [account for account in moved if account.rows and not account.is_new]
        for table, new_rows in (
            (accounts, [_columns(new, _COLUMNS) for new in opened]),
            (transactions, rows),
            (holds, [vars(hold) for hold in self._made]),
        ):
            await insert_rows(connection, table, self.mandate_id, new_rows)
        await update_rows(
            connection,
            holds,
            self.mandate_id,
            ("status", "settled_amount"),
            [vars(hold) for hold in self._closed],
        )
        await update_rows(
            connection,
            accounts,
            self.mandate_id,
            _MOVED,
            [_columns(account, ("id", *_MOVED)) for account in standing],
        )
        await roll_up(connection, self.terms, rows)
        notices = await those_with_room(connection, self.mandate_id, self._notices)
        for table, told in ((outbox, notices), (audit_events, self._audited)):
            if told:
                await connection.execute(insert(table), told)
        for account in moved:
            note(connection, self.mandate_id, account.user_id)
            for row in account.rows:
                note(connection, self.mandate_id, row.user_id, row.id)
        for hold in self._closed:
            note(connection, self.mandate_id, self.account_of(hold).user_id)
        for event in self._audited:
            note_event(connection, event)


def _columns(account: LockedAccount, names: Collection[str]) -> dict[str, Any]:
    return {name: getattr(account, name) for name in names}


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
