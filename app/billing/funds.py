"""Who pays and what can still be paid: the rules of the billing models. Nothing here reads a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from app.billing.checks import invalid
from app.billing.errors import BillingError, UserErrorCode
from app.billing.limits import SpendLimit
from app.billing.models import AccountType, BillingModel
from app.billing.money import MAX_BALANCE, ZERO, format_decimal, from_nano, to_nano, within_limits

PAYING_ACCOUNT: Mapping[BillingModel, AccountType] = {
    BillingModel.PREPAY_USER: AccountType.USER,
    BillingModel.PREPAY_MANDATE: AccountType.MANDATE,
    BillingModel.CREDIT_POSTPAY: AccountType.MANDATE,
    BillingModel.UNLIMITED: AccountType.UNLIMITED,
}

Owner = tuple[AccountType, str | None]
"""What an account is found by within its mandate: its type, and its user under USER."""


def payer(model: BillingModel, user_id: str | None) -> Owner:
    """The owner of the account that pays for this user."""
    kind = PAYING_ACCOUNT[model]
    return kind, user_id if kind == AccountType.USER else None


@dataclass(frozen=True, slots=True)
class Funds:
    """What an account can still pay. One code path for every place that shows or judges it."""

    available: Decimal | None
    """Null: without limit."""
    credit_limit: Decimal | None
    """The limit in force; null but for a postpaid account."""
    warning_threshold: Decimal
    is_warning: bool


def funds(
    terms: Any,
    account_type: AccountType,
    *,
    balance: Decimal,
    held: Decimal,
    funding_base: Decimal,
    own_credit_limit: Decimal | None,
) -> Funds:
    """The funds of an account under the mandate's settings row `terms`."""
    credit_limit = None
    if account_type == AccountType.UNLIMITED:
        available = None
    elif account_type == AccountType.MANDATE and terms.billing_model == BillingModel.CREDIT_POSTPAY:
        credit_limit = terms.credit_limit if own_credit_limit is None else own_credit_limit
        funding_base = credit_limit or ZERO
        available = None if credit_limit is None else credit_limit + balance - held
    else:
        available = balance - held
    if available is None:
        return Funds(None, credit_limit, ZERO, is_warning=False)
    percent_of_nano = to_nano(terms.warning_threshold_percent) * to_nano(funding_base)
    threshold = max(ZERO, from_nano(percent_of_nano // (100 * 10**9)))
    return Funds(available, credit_limit, threshold, is_warning=available <= threshold)


def check_spend(
    terms: Any,
    funds: Funds,
    *,
    enabled: bool,
    amount: Decimal,
    provider: str | None,
    registered: Sequence[str],
    limit: SpendLimit | None,
) -> None:
    """Refuses a spend of `amount` that may not or cannot be paid, the first reason first.

    `registered` are the providers that a mandate without a list of its own may use; `limit` is
    the member's own, as it stands now.
    """
    if not enabled:
        raise BillingError(UserErrorCode.ACCOUNT_DISABLED, "The account is disabled.")
    if not provider_allowed(terms.allowed_providers, provider, registered):
        raise BillingError(
            UserErrorCode.PROVIDER_NOT_ALLOWED,
            f"This mandate does not allow the provider {provider}."
            if provider
            else "This mandate allows named providers only: name one.",
            "aicore_provider",
        )
    if limit is not None and (limit.remaining <= ZERO or amount > limit.remaining):
        raise BillingError(
            UserErrorCode.SPEND_LIMIT_EXCEEDED,
            f"{format_decimal(amount)} is more than the {format_decimal(limit.remaining)} left of"
            f" the member's limit of {format_decimal(limit.amount)} for the {limit.period.lower()},"
            f" which resets at {limit.resets_at:%Y-%m-%dT%H:%M:%SZ}.",
            "amount",
        )
    available = funds.available
    if available is None:
        return
    if terms.billing_model == BillingModel.CREDIT_POSTPAY:
        if amount > available:
            raise BillingError(
                UserErrorCode.CREDIT_LIMIT_EXCEEDED,
                f"{format_decimal(amount)} is more than the {format_decimal(available)} left of the"
                " credit limit.",
                "amount",
            )
    elif terms.block_on_zero_balance and (available <= ZERO or amount > available):
        raise BillingError(
            UserErrorCode.INSUFFICIENT_FUNDS,
            f"{format_decimal(amount)} cannot be paid from the {format_decimal(available)} available:"
            " add credit first.",
            "amount",
        )


def provider_allowed(
    allowed: Sequence[str] | None, provider: str | None, registered: Sequence[str]
) -> bool:
    """A spend that names no provider is judged only against a list that is set, and refused by it."""
    if provider is None:
        return allowed is None
    return provider in registered and (allowed is None or provider in allowed)


def check_limit(limit: Decimal | None, *field: str) -> None:
    """A limit is 0 or more and within what a balance may be; None is no limit."""
    if limit is None:
        return
    if limit < ZERO:
        raise invalid(f"{field[-1]} must be 0 or more.", *field)
    if not within_limits(limit):
        raise BillingError(
            UserErrorCode.LIMIT_EXCEEDED, f"{field[-1]} must be at most {MAX_BALANCE}.", *field
        )
