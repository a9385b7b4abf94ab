"""The domain's enums with their public documentation. Importing this module makes them GraphQL enums."""

from enum import Enum

import strawberry

from app.billing import enums, errors, periods, statistics, transactions, usage


def _document(enum: type[Enum], description: str, **values: str) -> None:
    """Every value must have a description: KeyError otherwise."""
    strawberry.enum(enum, description=description)
    for value in enum.__strawberry_definition__.values:  # type: ignore[attr-defined]
        value.description = values[value.name]


_document(
    transactions.SortDirection,
    "Which end of an order comes first.",
    ASC="Smallest or oldest first.",
    DESC="Largest or newest first.",
)
_document(
    enums.BillingModel,
    "Who pays for the AI calls of a mandate.",
    PREPAY_USER="Each user has credit of their own; spending stops when it is used up.",
    PREPAY_MANDATE="All users share the mandate's credit; spending stops when it is used up.",
    CREDIT_POSTPAY="The mandate owes what was spent, up to a credit limit if there is one.",
    UNLIMITED="Usage is counted and never refused for want of money.",
)
_document(
    enums.AccountType,
    "Whose account it is.",
    USER="One user's, in one mandate; pays under PREPAY_USER.",
    MANDATE="The mandate's own; pays under PREPAY_MANDATE and CREDIT_POSTPAY.",
    UNLIMITED="The mandate's running total of usage under UNLIMITED; never owed, never spent from.",
)
_document(
    enums.TransactionType,
    "Which way a transaction moves the balance.",
    CREDIT="Up.",
    DEBIT="Down.",
)
_document(
    enums.ReferenceType,
    "What a transaction was written for.",
    ADMIN="An admin's credit or correction.",
    PAYMENT="Money received or paid out.",
    SYSTEM="The default credit of a new account.",
    USAGE="An AI call.",
    REVERSAL="Undoes another transaction.",
    TRANSFER="Between two accounts of one mandate.",
)
_document(
    enums.MembershipRole,
    "What a user may see of a mandate.",
    MEMBER="Their own balance, usage, holds and transactions.",
    ADMIN="All of the mandate.",
)
_document(
    enums.UserKind,
    "Whether a person or a program.",
    HUMAN="A person.",
    SERVICE="A program, such as the AI gateway: it sees every mandate and may spend for users.",
)
_document(
    enums.PeriodType,
    "A period of the calendar: of a statistic, or of a spend limit.",
    DAY="A statistic of one month, by day; a limit for each day.",
    MONTH="A statistic of one year, by month; a limit for each month.",
    YEAR="A statistic of one year as a whole; a limit for each year.",
)
_document(
    transactions.TransactionOrderField,
    "What transactions are ordered by; ties by when they were written.",
    CREATED_AT="When they were written: the order of the ledger.",
    OCCURRED_AT="When they happened.",
    AMOUNT="The amount, whatever its direction.",
)
_document(
    usage.UsageMode,
    "Whether a debit depends on the payer's funds.",
    RECORD="Write it whatever the balance, the account's state or the provider: the call has already happened.",
    REQUIRE_FUNDS="Write it only if the payer may and can afford it.",
)
_document(
    usage.UsageOutcome,
    "What became of a usage event.",
    RECORDED="It was written now.",
    DUPLICATE="It had been written before, under the same key and with the same content.",
    REJECTED="It was not written; the error says why.",
)
_document(
    enums.HoldStatus,
    "What has become of a hold.",
    OPEN="The money is set aside.",
    SETTLED="The call was booked.",
    RELEASED="The money was given back.",
    EXPIRED="Its time is over: nothing is set aside any more, and it may still be settled.",
)
_document(
    errors.SpendDenial,
    "Why a spend is refused.",
    ACCOUNT_DISABLED="The paying account is disabled.",
    PROVIDER_NOT_ALLOWED="The mandate does not allow this AI provider.",
    SPEND_LIMIT_EXCEEDED="The member's spend limit does not allow it.",
    CREDIT_LIMIT_EXCEEDED="The mandate's credit limit does not allow it.",
    INSUFFICIENT_FUNDS="There is not enough credit.",
)
_document(
    errors.UserErrorCode,
    "What kind of fault a mutation found.",
    INVALID="A value that is never accepted there.",
    NOT_FOUND="Nothing of that id, or nothing the viewer may see.",
    ACCOUNT_DISABLED="The paying account is disabled.",
    PROVIDER_NOT_ALLOWED="The mandate does not allow this AI provider.",
    SPEND_LIMIT_EXCEEDED="The member's spend limit does not allow it.",
    CREDIT_LIMIT_EXCEEDED="The mandate's credit limit does not allow it.",
    INSUFFICIENT_FUNDS="There is not enough credit.",
    BILLING_MODEL_MISMATCH="The mandate's billing model does not know this operation.",
    BALANCE_NOT_ZERO="Money or an open hold would be left behind, or money is owed.",
    IDEMPOTENCY_CONFLICT="The idempotency key was used with other content, or the hold settled with it.",
    VERSION_CONFLICT="Somebody else has changed it meanwhile.",
    ALREADY_REVERSED="The transaction was undone before.",
    HOLD_NOT_OPEN="A released hold cannot be settled, and a settled one cannot be released.",
    LIMIT_EXCEEDED="Beyond what one transaction moves or one balance holds.",
)
_document(
    periods.Granularity,
    "What a bucket of a usage report is, of the report's time zone.",
    HOUR="An hour of the local clock. For at most 93 days, unless the filter names a workflow.",
    DAY="A day: 23 or 25 hours when clocks change.",
    MONTH="A month, or the part of it that the range covers.",
    YEAR="A year, or the part of it that the range covers.",
)
_document(
    statistics.UsageDimension,
    "What usage is grouped by.",
    PROVIDER="The AI provider.",
    MODEL="The AI model.",
    FEATURE="The feature that called.",
    USER="The user whose call it was.",
    WORKFLOW="The workflow that called. For at most 93 days, unless the filter names one.",
)
