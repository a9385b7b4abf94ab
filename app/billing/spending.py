"""Whether a spend is allowed: one judgement for holds, for REQUIRE_FUNDS and for whoever asks before."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from app.billing.accounts import BalanceView, balances_by_user
from app.billing.checks import check_name
from app.billing.directory import no_such_member
from app.billing.enums import BillingModel
from app.billing.errors import BadInput, BillingError, Forbidden, SpendDenial, UserErrorCode
from app.billing.funds import provider_allowed
from app.billing.ledger import Ledger
from app.billing.locked import LockedAccount, Needs
from app.billing.money import ZERO, check_amount, format_decimal
from app.billing.settings import read_terms
from app.billing.viewer import Viewer, sees
from app.database import Database


def judge(
    ledger: Ledger,
    user_id: str | None,
    amount: Decimal,
    provider: str | None,
    registered: Sequence[str],
    *,
    occurred_at: datetime | None = None,
) -> LockedAccount:
    """The account that pays for this spend; the first reason against it is raised.

    A spend limit is that of the period in which the call occurred, now when it is left out.

    NOT_FOUND for a user who is disabled or no member. Without a user the mandate's own account is
    judged.
    """
    if user_id is not None:
        member = ledger.members.get(user_id)
        if member is None or not member.may_spend:
            raise no_such_member()
    terms, account = ledger.terms, ledger.paying_account(user_id)
    if not account.enabled:
        raise BillingError(UserErrorCode.ACCOUNT_DISABLED, "The account is disabled.")
    if not provider_allowed(terms.allowed_providers, provider, registered):
        raise BillingError(
            UserErrorCode.PROVIDER_NOT_ALLOWED,
            f"This mandate does not allow the provider {provider}."
            if provider
            else "This mandate allows named providers only: name one.",
            "aicore_provider",
        )
    limit = ledger.limits.find(user_id, occurred_at)
    if limit is not None and (limit.remaining <= ZERO or amount > limit.remaining):
        raise BillingError(
            UserErrorCode.SPEND_LIMIT_EXCEEDED,
            f"{_too_much(amount, limit.remaining)} left of the member's limit of"
            f" {format_decimal(limit.amount)} for the {limit.period.lower()}, which resets at"
            f" {limit.resets_at:%Y-%m-%dT%H:%M:%SZ}.",
            "amount",
        )
    available = ledger.funds(account).available
    if available is None:
        return account
    if terms.billing_model == BillingModel.CREDIT_POSTPAY:
        if amount > available:
            raise BillingError(
                UserErrorCode.CREDIT_LIMIT_EXCEEDED,
                f"{_too_much(amount, available)} left of the credit limit.",
                "amount",
            )
    elif terms.block_on_zero_balance and (available <= ZERO or amount > available):
        raise BillingError(
            UserErrorCode.INSUFFICIENT_FUNDS,
            f"{_too_much(amount, available)} available: add credit first.",
            "amount",
        )
    return account


def _too_much(amount: Decimal, left: Decimal) -> str:
    if left <= ZERO:
        return "Nothing is"
    return f"{format_decimal(amount)} is more than the {format_decimal(left)}"


@dataclass(frozen=True, slots=True)
class SpendCheck:
    """The answer to "would this be allowed now?", with the balance it was judged on."""

    denial: SpendDenial | None
    message: str
    balance: BalanceView

    @property
    def allowed(self) -> bool:
        return self.denial is None


async def check_spending(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    *,
    amount: Decimal,
    user_id: str | None,
    provider: str | None,
    registered: Sequence[str],
) -> SpendCheck | None:
    """Judges a spend as a hold would, in one snapshot; it writes and locks nothing.

    None where the mandate is not the viewer's or the user may not spend in it at all. Forbidden
    for those who name another user and are no service; BadInput where nobody is named and the
    viewer has no balance there.
    """
    try:
        check_amount(amount, "amount", zero=True)
        check_name(provider, "provider")
    except BillingError as error:
        raise BadInput(error.message) from None
    async with database.snapshot() as connection:
        if not await sees(connection, viewer, mandate_id):
            return None
        if user_id is None:
            user_id = viewer.user_id if mandate_id in viewer.roles else None
        elif user_id != viewer.user_id and not viewer.sees_every_mandate:
            raise Forbidden("userId names another user: only services check for others.")
        ledger = Ledger(connection, await read_terms(connection, mandate_id), locking=False)
        await ledger.prepare(Needs(spends=[(user_id, None)]))
        [balance] = await balances_by_user(connection, [(mandate_id, user_id)])
    if balance is None:
        raise BadInput("userId is required: you have no balance of your own in this mandate.")
    try:
        judge(ledger, user_id, amount, provider, registered)
    except BillingError as error:
        if error.code == UserErrorCode.NOT_FOUND:
            return None
        return SpendCheck(SpendDenial(error.code), error.message, balance)
    return SpendCheck(None, f"{format_decimal(amount)} may be spent now.", balance)
