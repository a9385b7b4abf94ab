"""The rules of spending as a plain Python model: lists, dicts and decimals, no database and no lock.

It is written from the design; where that leaves something open it says what the program does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from app.billing.enums import AccountType, BillingModel, PeriodType
from app.billing.holds import NewHold
from app.billing.usage import UsageEvent, UsageMode
from tests.world import CREDIT_POSTPAY, PREPAY_MANDATE, PREPAY_USER, PROVIDERS, UNLIMITED

NOW = datetime.now(UTC)
ZONE = f"Etc/GMT{NOW.hour - 12:+}"
"""Where it is noon, so that no day ends while a test runs."""
TODAY = NOW.astimezone(ZoneInfo(ZONE)).date()
ZERO = Decimal(0)
NANO = Decimal("0.000000001")

USER, MANDATE_OWN, RUNNING_TOTAL = AccountType.USER, AccountType.MANDATE, AccountType.UNLIMITED
PAYS: Mapping[BillingModel, AccountType] = {
    PREPAY_USER: USER,
    PREPAY_MANDATE: MANDATE_OWN,
    CREDIT_POSTPAY: MANDATE_OWN,
    UNLIMITED: RUNNING_TOTAL,
}
LEVELS = ["NONE", "WARNING", "EMPTY"]
SHOWN = {PeriodType.DAY: 10, PeriodType.MONTH: 7, PeriodType.YEAR: 4}
"""How much of a date, as text, two days of one period share."""

Owner = tuple[AccountType, str | None]


class Refused(Exception):
    """The error code is all it says."""


class Call(NamedTuple):
    provider: str | None = None
    model: str | None = None
    feature: str | None = None
    workflow: str | None = None


NOTHING_CALLED = Call()


@dataclass(frozen=True)
class Move:
    """Credit or debit by hand."""

    kind: str
    user: str | None
    amount: Decimal
    idempotency_key: str
    description: str = "By hand"


@dataclass(frozen=True)
class Transfer:
    giver: str | None
    receiver: str | None
    amount: Decimal
    idempotency_key: str
    description: str = "Transfer"


@dataclass(frozen=True)
class Reversal:
    """Of a row, or of one that does not exist."""

    row: "PlainRow | None"
    idempotency_key: str
    description: str = "Undone"


Correction = Move | Transfer | Reversal
Request = UsageEvent | Correction


@dataclass(frozen=True)
class Settlement:
    amount: Decimal
    aicore_provider: str | None = None
    aicore_model: str | None = None
    occurred_at: datetime | None = None
    description: str = "AI usage"


@dataclass(frozen=True)
class SetTerms:
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class SetAccount:
    """Of the account in that place, of those that are open."""

    place: int
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class SetLimit:
    """Or lift it. Who is no member joins by that."""

    user: str
    amount: Decimal | None
    period: PeriodType


@dataclass(frozen=True)
class Join:
    user: str


@dataclass(frozen=True)
class Leave:
    user: str


Rule = SetTerms | SetAccount | SetLimit | Join | Leave


@dataclass(eq=False, repr=False)
class PlainRow:
    account: "PlainAccount"
    kind: str
    reference: str
    amount: Decimal
    after: Decimal
    user: str | None
    key: str | None = None
    call: Call = NOTHING_CALLED
    day: date = TODAY
    hold: "PlainHold | None" = None
    reverses: "PlainRow | None" = None
    other_leg: "PlainRow | None" = None
    id: str | None = None
    """What the database calls it."""


@dataclass(eq=False, repr=False)
class PlainAccount:
    owner: Owner
    enabled: bool = True
    own_limit: Decimal | None = None
    level: str = "NONE"
    rows: list[PlainRow] = field(default_factory=list)
    id: str | None = None

    @property
    def balance(self) -> Decimal:
        return self.rows[-1].after if self.rows else ZERO

    @property
    def funding_base(self) -> Decimal:
        """The balance right after the latest credit that is no reversal."""
        paid = [row for row in self.rows if row.kind == "CREDIT" and row.reference != "REVERSAL"]
        return paid[-1].after if paid else ZERO

    def add(
        self, kind: str, reference: str, amount: Decimal, user: str | None, **rest: Any
    ) -> PlainRow:
        after = self.balance + amount if kind == "CREDIT" else self.balance - amount
        self.rows.append(PlainRow(self, kind, reference, amount, after, user, **rest))
        return self.rows[-1]

    def total(self, kind: str) -> Decimal:
        return sum((row.amount for row in self.rows if row.kind == kind), ZERO)


@dataclass(eq=False, repr=False)
class PlainHold:
    content: NewHold
    account: PlainAccount
    status: str = "OPEN"
    settlement: Settlement | None = None
    row: PlainRow | None = None
    id: str | None = None

    @property
    def amount(self) -> Decimal:
        return self.content.amount

    def may_be_settled(self) -> bool:
        return self.status in ("OPEN", "EXPIRED")


class Alert(NamedTuple):
    kind: str
    account: PlainAccount
    balance: Decimal
    available: Decimal
    threshold: Decimal


class PlainBooks:
    """One mandate."""

    def __init__(self, members: tuple[str, ...]) -> None:
        self.terms: dict[str, Any] = {
            "billing_model": UNLIMITED,
            "default_user_credit": Decimal(10),
            "warning_threshold_percent": Decimal(10),
            "block_on_zero_balance": True,
            "notify_on_warning": True,
            "credit_limit": None,
            "allowed_providers": None,
        }
        self.members = dict.fromkeys(members, True)
        """False for those who have left."""
        self.limits: dict[str, tuple[Decimal, PeriodType]] = {}
        self.accounts: dict[Owner, PlainAccount] = {}
        self.keys: dict[str, tuple[Request, PlainRow]] = {}
        self.holds: dict[str, PlainHold] = {}
        """By their keys."""
        self.alerts: list[Alert] = []

    # What stands

    @property
    def model(self) -> BillingModel:
        return BillingModel(self.terms["billing_model"])

    @property
    def is_prepaid(self) -> bool:
        return self.model in (PREPAY_USER, PREPAY_MANDATE)

    @property
    def rows(self) -> list[PlainRow]:
        return [row for account in self.accounts.values() for row in account.rows]

    def payer(self, user: str | None) -> PlainAccount:
        kind = PAYS[self.model]
        return self.account((kind, user if kind == USER else None))

    def account(self, owner: Owner) -> PlainAccount:
        """An open one, or what it would be opened as."""
        if owner in self.accounts:
            return self.accounts[owner]
        new = PlainAccount(owner)
        if owner[0] == USER and self.terms["default_user_credit"] > 0:
            new.add("CREDIT", "SYSTEM", self.terms["default_user_credit"], owner[1])
        new.level = self.level(new)
        return new

    def held(self, account: PlainAccount) -> Decimal:
        open_ = [hold for hold in self.holds.values() if hold.status == "OPEN"]
        return sum((hold.amount for hold in open_ if hold.account is account), ZERO)

    def held_by(self, user: str) -> Decimal:
        open_ = [hold for hold in self.holds.values() if hold.status == "OPEN"]
        return sum((hold.amount for hold in open_ if hold.content.user_id == user), ZERO)

    def spent_by(self, user: str, period: PeriodType, within: date | None = None) -> Decimal:
        """The member's cost of the period that the day is within; today's where none is given."""
        within = within or TODAY
        length = SHOWN[period]
        return sum(
            (
                cost
                for (day, spender, *_), (cost, _) in self.days().items()
                if spender == user and day.isoformat()[:length] == within.isoformat()[:length]
            ),
            ZERO,
        )

    def days(self) -> dict[tuple[Any, ...], tuple[Decimal, int]]:
        """Cost and count by day, user, account and what was called."""
        days: dict[tuple[Any, ...], tuple[Decimal, int]] = {}
        for row in self.rows:
            is_usage = row.reference == "USAGE"
            if is_usage or (row.reverses and row.reverses.reference == "USAGE"):
                place = (row.day, row.user, row.account, *row.call[:3])
                cost, count = days.get(place, (ZERO, 0))
                cost += row.amount if is_usage else -row.amount
                days[place] = (cost, count + is_usage)
        return days

    def credit_limit(self, account: PlainAccount) -> Decimal | None:
        """The one in force; none but for postpaid."""
        if self.model != CREDIT_POSTPAY or account.owner[0] != MANDATE_OWN:
            return None
        limit: Decimal | None = self.terms["credit_limit"]
        return limit if account.own_limit is None else account.own_limit

    def available(self, account: PlainAccount, held: Decimal) -> Decimal | None:
        if self.is_prepaid:
            return account.balance - held
        limit = self.credit_limit(account)
        return None if limit is None else limit + account.balance - held

    def threshold(self, account: PlainAccount) -> Decimal:
        if self.model == UNLIMITED:
            return ZERO
        base = account.funding_base if self.is_prepaid else self.credit_limit(account) or ZERO
        part: Decimal = base * self.terms["warning_threshold_percent"] / 100
        return max(ZERO, part.quantize(NANO, ROUND_FLOOR))

    # Alerts

    def level(self, account: PlainAccount) -> str:
        if account.owner[0] != PAYS[self.model]:
            return "NONE"
        left = self.available(account, ZERO)
        if left is None:
            return "NONE"
        if left <= 0:
            return "EMPTY"
        return "WARNING" if left <= self.threshold(account) else "NONE"

    def judge_levels(self) -> list[str]:
        """Once after each operation; what has become of each account's level."""
        changes = []
        for account in self.accounts.values():
            before, account.level = account.level, self.level(account)
            if LEVELS.index(account.level) < LEVELS.index(before):
                changes.append(f"{before} recovers to {account.level}")
            if LEVELS.index(account.level) <= LEVELS.index(before):
                continue
            changes.append(f"{before} falls to {account.level}")
            if self.terms["notify_on_warning"]:
                kind = {"WARNING": "balance.warning", "EMPTY": "balance.depleted"}[account.level]
                left = self.available(account, ZERO)
                assert left is not None
                self.alerts.append(
                    Alert(kind, account, account.balance, left, self.threshold(account))
                )
        return changes

    # Spending

    def spend(
        self, user: str, amount: Decimal, provider: str | None, day: date | None = None
    ) -> PlainAccount:
        """The account that pays, if it may and can; `day` is that of the call."""
        if not self.members.get(user):
            raise Refused("NOT_FOUND")
        account = self.payer(user)
        if not account.enabled:
            raise Refused("ACCOUNT_DISABLED")
        allowed = self.terms["allowed_providers"]
        if provider is None:
            is_allowed = allowed is None
        else:
            is_allowed = provider in (PROVIDERS if allowed is None else allowed)
        if not is_allowed:
            raise Refused("PROVIDER_NOT_ALLOWED")
        remaining = self.remaining(user, day)
        if remaining is not None and (remaining <= 0 or amount > remaining):
            raise Refused("SPEND_LIMIT_EXCEEDED")
        left = self.available(account, self.held(account))
        if self.is_prepaid and self.terms["block_on_zero_balance"]:
            assert left is not None
            if left <= 0 or amount > left:
                raise Refused("INSUFFICIENT_FUNDS")
        if self.model == CREDIT_POSTPAY and left is not None and amount > left:
            raise Refused("CREDIT_LIMIT_EXCEEDED")
        return account

    def remaining(self, user: str, day: date | None = None) -> Decimal | None:
        """What is left of a member's limit.

        The design leaves open which period's a call of another day counts to (its own), and whether
        what reversals take back of an earlier one raises it (no).
        """
        if user not in self.limits:
            return None
        limit, period = self.limits[user]
        spent = max(ZERO, self.spent_by(user, period, day))
        return max(ZERO, limit - spent - self.held_by(user))

    def left_to(self, user: str) -> Decimal | None:
        """The most that may be spent; None is without limit."""
        account = self.payer(user)
        left = [self.available(account, self.held(account)), self.remaining(user)]
        return min((each for each in left if each is not None), default=None)

    def hold(self, new: NewHold) -> PlainHold:
        content = replace(new, ttl_seconds=900)
        if new.idempotency_key in self.holds:
            first = self.holds[new.idempotency_key]
            if first.content != content:
                raise Refused("IDEMPOTENCY_CONFLICT")
            return first
        check_amount(new.amount)
        if not 1 <= new.ttl_seconds <= 86_400:
            raise Refused("INVALID")
        account = self.spend(new.user_id, new.amount, new.aicore_provider)
        self._keep(account)
        self.holds[new.idempotency_key] = PlainHold(content, account)
        return self.holds[new.idempotency_key]

    def settle(self, hold: PlainHold, settlement: Settlement) -> PlainRow:
        if hold.status == "RELEASED":
            raise Refused("HOLD_NOT_OPEN")
        if hold.row:
            if hold.settlement != settlement:
                raise Refused("IDEMPOTENCY_CONFLICT")
            return hold.row
        check_amount(settlement.amount, zero=True)
        call = Call(
            settlement.aicore_provider or hold.content.aicore_provider,
            settlement.aicore_model,
            hold.content.feature_code,
            hold.content.workflow_id,
        )
        hold.row = hold.account.add(
            "DEBIT",
            "USAGE",
            settlement.amount,
            hold.content.user_id,
            call=call,
            day=day_of(settlement.occurred_at),
            hold=hold,
        )
        hold.settlement, hold.status = settlement, "SETTLED"
        return hold.row

    def release(self, hold: PlainHold) -> PlainHold:
        if hold.status == "SETTLED":
            raise Refused("HOLD_NOT_OPEN")
        if hold.status == "OPEN":
            hold.status = "RELEASED"
        return hold

    def expire(self, hold: PlainHold) -> None:
        if hold.status == "OPEN":
            hold.status = "EXPIRED"

    # What has a key

    def take(self, request: Request) -> PlainRow:
        """The row of a request: a new one, or the first one under its key."""
        content = request
        if isinstance(request, UsageEvent):
            content = replace(request, mode=UsageMode.RECORD)
        if request.idempotency_key in self.keys:
            known, row = self.keys[request.idempotency_key]
            if known != content:
                raise Refused("IDEMPOTENCY_CONFLICT")
            return row
        match request:
            case UsageEvent():
                row = self._use(request)
            case Move():
                row = self._move(request)
            case Transfer():
                row = self._transfer(request)
            case Reversal():
                row = self._reverse(request)
        self.keys[request.idempotency_key] = content, row
        return row

    def _use(self, event: UsageEvent) -> PlainRow:
        check_amount(event.amount, zero=True)
        day = day_of(event.occurred_at)
        if event.mode == UsageMode.REQUIRE_FUNDS:
            account = self.spend(event.user_id, event.amount, event.aicore_provider, day)
        elif event.user_id not in self.members:
            raise Refused("NOT_FOUND")
        else:
            account = self.payer(event.user_id)
        call = Call(
            event.aicore_provider, event.aicore_model, event.feature_code, event.workflow_id
        )
        return self._keep(account).add(
            "DEBIT",
            "USAGE",
            event.amount,
            event.user_id,
            key=event.idempotency_key,
            call=call,
            day=day,
        )

    def _move(self, move: Move) -> PlainRow:
        check_amount(move.amount)
        if self.model == UNLIMITED or (self.model == PREPAY_USER) != (move.user is not None):
            raise Refused("BILLING_MODEL_MISMATCH")
        if move.user is not None and not self.members.get(move.user):
            raise Refused("NOT_FOUND")
        account = self.payer(move.user)
        if move.kind == "DEBIT":
            self._check_unheld(account, move.amount)
        return self._keep(account).add(
            move.kind, "ADMIN", move.amount, move.user, key=move.idempotency_key
        )

    def _transfer(self, transfer: Transfer) -> PlainRow:
        check_amount(transfer.amount)
        if transfer.giver == transfer.receiver:
            raise Refused("INVALID")
        if transfer.giver is not None and transfer.giver not in self.members:
            raise Refused("NOT_FOUND")
        giver, receiver = self.account(side(transfer.giver)), self.account(side(transfer.receiver))
        if transfer.receiver is not None and not self.members.get(transfer.receiver):
            # The design says so of who gives; that who receives may pay back what they owe is open.
            owes = receiver.owner in self.accounts and receiver.balance + transfer.amount <= 0
            if transfer.receiver not in self.members or not owes:
                raise Refused("NOT_FOUND")
        self._check_unheld(giver, transfer.amount)
        debit = self._keep(giver).add(
            "DEBIT", "TRANSFER", transfer.amount, transfer.giver, key=transfer.idempotency_key
        )
        credit = self._keep(receiver).add("CREDIT", "TRANSFER", transfer.amount, transfer.receiver)
        debit.other_leg, credit.other_leg = credit, debit
        return debit

    def _check_unheld(self, account: PlainAccount, amount: Decimal) -> None:
        if account.balance - self.held(account) < amount:
            raise Refused("INSUFFICIENT_FUNDS")

    def _reverse(self, reversal: Reversal) -> PlainRow:
        row = reversal.row
        if row is None:
            raise Refused("NOT_FOUND")
        if row.reference not in ("USAGE", "ADMIN"):
            raise Refused("INVALID")
        if any(other.reverses is row for other in self.rows):
            raise Refused("ALREADY_REVERSED")
        return row.account.add(
            "CREDIT" if row.kind == "DEBIT" else "DEBIT",
            "REVERSAL",
            row.amount,
            row.user,
            key=reversal.idempotency_key,
            call=row.call,
            reverses=row,
        )

    def _keep(self, account: PlainAccount) -> PlainAccount:
        return self.accounts.setdefault(account.owner, account)

    # What admins change

    def change(self, rule: Rule) -> None:
        match rule:
            case SetTerms(changes):
                if changes.get("billing_model", self.model) != self.model:
                    self._check_model_change(changes["billing_model"])
                self.terms.update(changes)
            case SetAccount(place, changes):
                account = self.opened(place)
                if account is None:
                    raise Refused("NOT_FOUND")
                account.enabled = changes.get("enabled", account.enabled)
                account.own_limit = changes.get("credit_limit", account.own_limit)
            case SetLimit(user, amount, period):
                self._join(user)
                self.limits.pop(user, None)
                if amount is not None:
                    self.limits[user] = amount, period
            case Join(user):
                self._join(user)
            case Leave(user):
                if user in self.members:
                    self.members[user] = False

    def opened(self, place: int) -> PlainAccount | None:
        opened = list(self.accounts.values())
        return opened[place % len(opened)] if opened else None

    def _join(self, user: str) -> None:
        """Or join again, under the limit of before."""
        if user == "nobody":
            raise Refused("NOT_FOUND")
        self.members[user] = True

    def _check_model_change(self, model: BillingModel) -> None:
        for (kind, _), account in self.accounts.items():
            if kind == RUNNING_TOTAL:
                continue
            if kind != PAYS[model] and (account.balance or self.held(account)):
                raise Refused("BALANCE_NOT_ZERO")
            # The design leaves open who but the mandate may owe: it is any account.
            is_to_be_prepaid = model in (PREPAY_USER, PREPAY_MANDATE)
            if self.model == CREDIT_POSTPAY and is_to_be_prepaid and account.balance < 0:
                raise Refused("BALANCE_NOT_ZERO")


def side(user: str | None) -> Owner:
    """Whose account a transfer names."""
    return (MANDATE_OWN, None) if user is None else (USER, user)


def check_amount(amount: Decimal, *, zero: bool = False) -> None:
    if amount < 0 or (amount == 0 and not zero):
        raise Refused("INVALID")
    if amount > 1_000_000:
        raise Refused("LIMIT_EXCEEDED")


def day_of(occurred_at: datetime | None) -> date:
    """The mandate's day of a call: today's where nothing is said."""
    if occurred_at is None:
        return TODAY
    if not NOW - timedelta(days=35) <= occurred_at <= NOW + timedelta(minutes=5):
        raise Refused("INVALID")
    return occurred_at.astimezone(ZoneInfo(ZONE)).date()
