"""Who pays and what can still be paid: the rules of the billing models. Nothing here reads a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from app.billing.enums import AccountType, BillingModel
from app.billing.money import ZERO, from_nano, to_nano

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


def provider_allowed(
    allowed: Sequence[str] | None, provider: str | None, registered: Sequence[str]
) -> bool:
    """A spend that names no provider is judged only against a list that is set, and refused by it."""
    if provider is None:
        return allowed is None
    return provider in registered and (allowed is None or provider in allowed)
