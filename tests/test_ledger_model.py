"""Random credits, debits, retries, conflicts and refusals against a plain Python model of the rules."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.billing.accounts import update_account
from app.billing.directory import remove_membership, upsert_membership
from app.billing.enums import AccountType, BillingModel
from app.billing.errors import BillingError
from app.billing.models import accounts, daily_usage
from app.billing.usage import UsageEvent, UsageMode
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.world import (
    PROVIDERS,
    add_mandate,
    change_settings,
    credit,
    fresh,
    ledger_rows,
    outcomes,
    read_rows,
    record,
    usage_event,
)

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC)
NANO = Decimal("0.000000001")
ZONE = "Asia/Kolkata"
USERS = ("alice", "bob")
PREPAID = (BillingModel.PREPAY_USER, BillingModel.PREPAY_MANDATE)
KINDS = {
    BillingModel.PREPAY_USER: AccountType.USER,
    BillingModel.PREPAY_MANDATE: AccountType.MANDATE,
    BillingModel.CREDIT_POSTPAY: AccountType.MANDATE,
    BillingModel.UNLIMITED: AccountType.UNLIMITED,
}


@dataclass
class PlainAccount:
    kind: AccountType
    owner: str | None
    enabled: bool = True
    limit: Decimal | None = None
    funding_base: Decimal = Decimal(0)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    """Type, reference, amount, balance after, user and key of each transaction."""

    @property
    def balance(self) -> Decimal:
        return self.rows[-1][3] if self.rows else Decimal(0)

    def total(self, kind: str) -> Decimal:
        return sum((row[2] for row in self.rows if row[0] == kind), Decimal(0))

    def add(
        self, kind: str, reference: str, amount: Decimal, user: str | None, key: str | None
    ) -> None:
        after = self.balance + (amount if kind == "CREDIT" else -amount)
        self.rows.append((kind, reference, amount, after, user, key))
        if kind == "CREDIT":
            self.funding_base = after


@dataclass
class PlainMandate:
    model: BillingModel = BillingModel.UNLIMITED
    default: Decimal = Decimal(10)
    blocks: bool = True
    limit: Decimal | None = None
    allowed: list[str] | None = None
    members: set[str] = field(default_factory=lambda: set(USERS))
    accounts: dict[tuple[AccountType, str | None], PlainAccount] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    days: dict[tuple[date, str, str], tuple[Decimal, int]] = field(default_factory=dict)

    def payer(self, user: str | None) -> PlainAccount:
        """The account that pays, or what it would be."""
        kind = KINDS[self.model]
        owner = user if kind == AccountType.USER else None
        if (kind, owner) in self.accounts:
            return self.accounts[kind, owner]
        new = PlainAccount(kind, owner)
        if kind == AccountType.USER and self.default > 0:
            new.add("CREDIT", "SYSTEM", self.default, owner, None)
        return new

    def keep(self, account: PlainAccount) -> None:
        self.accounts[account.kind, account.owner] = account

    def refusal(self, account: PlainAccount, event: UsageEvent) -> str | None:
        provider = event.aicore_provider
        allowed = PROVIDERS if self.allowed is None else self.allowed
        if not account.enabled:
            return "ACCOUNT_DISABLED"
        if provider not in allowed and (provider or self.allowed is not None):
            return "PROVIDER_NOT_ALLOWED"
        if self.model == BillingModel.CREDIT_POSTPAY:
            limit = self.limit if account.limit is None else account.limit
            if limit is not None and event.amount > limit + account.balance:
                return "CREDIT_LIMIT_EXCEEDED"
        if self.model in PREPAID and self.blocks:
            left = account.balance
            if left <= 0 or event.amount > left:
                return "INSUFFICIENT_FUNDS"
        return None

    def use(self, event: UsageEvent) -> str:
        content = replace(event, mode=UsageMode.RECORD)
        key = event.idempotency_key
        if key in self.keys:
            return "DUPLICATE" if self.keys[key] == content else "IDEMPOTENCY_CONFLICT"
        assert event.occurred_at is not None
        if event.amount < 0:
            return "INVALID"
        if event.amount > 1_000_000:
            return "LIMIT_EXCEEDED"
        if event.occurred_at < NOW - timedelta(days=35):
            return "INVALID"
        spends = event.mode == UsageMode.REQUIRE_FUNDS
        if event.user_id not in (self.members if spends else USERS):
            return "NOT_FOUND"
        account = self.payer(event.user_id)
        if spends and (refusal := self.refusal(account, event)):
            return refusal
        account.add("DEBIT", "USAGE", event.amount, event.user_id, key)
        self.keep(account)
        self.keys[key] = content
        day = event.occurred_at.astimezone(ZoneInfo(ZONE)).date()
        place = (day, event.user_id, event.aicore_provider or "")
        cost, count = self.days.get(place, (Decimal(0), 0))
        self.days[place] = (cost + event.amount, count + 1)
        return "RECORDED"

    def credit(self, user: str | None, amount: Decimal, key: str) -> str:
        content = (user, amount)
        if key in self.keys:
            return "DUPLICATE" if self.keys[key] == content else "IDEMPOTENCY_CONFLICT"
        if amount <= 0:
            return "INVALID"
        if amount > 1_000_000:
            return "LIMIT_EXCEEDED"
        of_user = self.model == BillingModel.PREPAY_USER
        if self.model == BillingModel.UNLIMITED or of_user != (user is not None):
            return "BILLING_MODEL_MISMATCH"
        if user is not None and user not in self.members:
            return "NOT_FOUND"
        account = self.payer(user)
        account.add("CREDIT", "ADMIN", amount, user, key)
        self.keep(account)
        self.keys[key] = content
        return "RECORDED"

    def change_model(self, model: BillingModel) -> str:
        if model == self.model:
            return "DONE"
        used = [each for each in self.accounts.values() if each.kind != AccountType.UNLIMITED]
        if any(each.balance for each in used if each.kind != KINDS[model]):
            return "BALANCE_NOT_ZERO"
        owes = self.model == BillingModel.CREDIT_POSTPAY and any(each.balance < 0 for each in used)
        if owes and model in PREPAID:
            return "BALANCE_NOT_ZERO"
        self.model = model
        return "DONE"


# Steps

amounts = st.one_of(
    st.sampled_from([Decimal(0), NANO, Decimal(5), Decimal(10), 10 + NANO]),
    st.sampled_from([Decimal(0), Decimal(5), Decimal(10)]),
    st.integers(0, 20 * 10**9).map(lambda nano: nano * NANO),
    st.sampled_from([-NANO, Decimal(1_000_000), 1_000_000 + NANO]),
)
keys = st.integers(0, 12).map("key-{}".format)  # few, so that they meet
limits = st.none() | st.sampled_from([Decimal(0), Decimal(7), Decimal(20)])
people = st.sampled_from([*USERS, "alice", "alice", "nobody"])


@dataclass(frozen=True)
class Use:
    events: Sequence[UsageEvent]


@dataclass(frozen=True)
class Credit:
    user: str | None
    amount: Decimal
    key: str


@dataclass(frozen=True)
class SetAccount:
    """Of the account that pays for the user, where there is one."""

    user: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class SetTerms:
    changes: dict[str, Any]


@dataclass(frozen=True)
class Join:
    """Or leave."""

    user: str
    member: bool


events = st.builds(
    usage_event,
    amount=amounts,
    user_id=people,
    key=keys,
    mode=st.sampled_from(UsageMode),
    aicore_provider=st.sampled_from([None, None, "azure", "openai", "unregistered"]),
    occurred_at=st.sampled_from([NOW, NOW, NOW - timedelta(days=34), NOW - timedelta(days=36)]),
)
models = {"billing_model": st.sampled_from(BillingModel)}
others: dict[str, st.SearchStrategy[Any]] = {
    "default_user_credit": st.sampled_from([Decimal(0), NANO, Decimal(10)]),
    "block_on_zero_balance": st.booleans(),
    "credit_limit": limits,
    "allowed_providers": st.sampled_from([None, None, [], ["azure"]]),
}
terms = st.fixed_dictionaries({}, optional=models | others)
uses = st.builds(Use, st.lists(events, min_size=1, max_size=6))
steps = st.one_of(
    uses,
    uses,
    st.builds(Credit, st.none() | people, amounts, keys),
    st.builds(
        SetAccount,
        st.sampled_from(USERS),
        st.fixed_dictionaries({}, optional={"enabled": st.booleans(), "credit_limit": limits}),
    ),
    st.builds(SetTerms, terms),
    st.builds(Join, st.sampled_from(USERS), st.booleans()),
)


async def do(database: Database, mandate_id: str, step: Any) -> list[str]:
    """What the program answers."""
    try:
        match step:
            case Use(sent):
                return outcomes(
                    await record(database, *(replace(e, mandate_id=mandate_id) for e in sent))
                )
            case Credit(user, amount, key):
                row = await credit(database, str(amount), user, mandate_id=mandate_id, key=key)
                return [row.amount]
            case SetTerms(changes):
                await change_settings(database, mandate_id, **changes)
            case Join(user, True):
                await upsert_membership(database, OPERATOR, mandate_id, user, {})
            case Join(user, False):
                await remove_membership(database, OPERATOR, mandate_id, user)
    except BillingError as error:
        return [str(error.code)]
    return ["DONE"]


def expect(mandate: PlainMandate, step: Any) -> list[Any]:
    """What the model answers."""
    match step:
        case Use(sent):
            return [mandate.use(event) for event in sent]
        case Credit(user, amount, key):
            outcome = mandate.credit(user, amount, key)
            return [amount] if outcome in ("RECORDED", "DUPLICATE") else [outcome]
        case SetTerms(changes):
            answer = mandate.change_model(changes.get("billing_model", mandate.model))
            if answer == "DONE":
                mandate.default = changes.get("default_user_credit", mandate.default)
                mandate.blocks = changes.get("block_on_zero_balance", mandate.blocks)
                mandate.limit = changes.get("credit_limit", mandate.limit)
                mandate.allowed = changes.get("allowed_providers", mandate.allowed)
            return [answer]
        case Join(user, member):
            (mandate.members.add if member else mandate.members.discard)(user)
    return ["DONE"]


async def set_account(
    database: Database, mandate_id: str, mandate: PlainMandate, step: SetAccount
) -> None:
    account = mandate.payer(step.user)
    stored = await read_rows(
        database,
        accounts,
        mandate_id=mandate_id,
        account_type=account.kind,
        user_id=account.owner,
    )
    if not stored:
        return
    await update_account(database, OPERATOR, mandate_id, stored[0].id, step.changes)
    account.enabled = step.changes.get("enabled", account.enabled)
    account.limit = step.changes.get("credit_limit", account.limit)


@hypothesis_settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    first=st.fixed_dictionaries(models, optional=others),
    taken=st.lists(steps, min_size=3, max_size=12),
)
async def test_the_books_are_those_of_the_model(
    database: Database, first: dict[str, Any], taken: list[Any]
) -> None:
    mandate_id, mandate = fresh("mandate"), PlainMandate()
    await add_mandate(database, mandate_id, users=USERS, time_zone=ZONE)
    for step in [SetTerms(first), *taken]:
        if isinstance(step, SetAccount):
            await set_account(database, mandate_id, mandate, step)
        else:
            assert await do(database, mandate_id, step) == expect(mandate, step)
    for row in await read_rows(database, accounts, mandate_id=mandate_id):
        account = mandate.accounts.pop((row.account_type, row.user_id))
        assert (row.balance, row.sequence) == (account.balance, len(account.rows))
        assert (row.credited, row.debited) == (account.total("CREDIT"), account.total("DEBIT"))
        assert (row.enabled, row.credit_limit) == (account.enabled, account.limit)
        assert row.funding_base == account.funding_base
        history = await ledger_rows(database, mandate_id=mandate_id, account_id=row.id)
        assert [entry.sequence for entry in history] == list(range(1, len(history) + 1))
        assert [
            (
                entry.transaction_type,
                entry.reference_type,
                entry.amount,
                entry.balance_after,
                entry.user_id,
                entry.idempotency_key,
            )
            for entry in history
        ] == account.rows
    assert mandate.accounts == {}
    days = await read_rows(database, daily_usage, mandate_id=mandate_id)
    found: dict[Any, tuple[Decimal, int]] = {}
    for day in days:  # a day has a row for each account
        place = (day.local_date, day.user_id, day.aicore_provider)
        cost, count = found.get(place, (Decimal(0), 0))
        found[place] = (cost + day.cost, count + day.transaction_count)
    assert found == mandate.days
