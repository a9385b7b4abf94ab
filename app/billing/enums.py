"""The kinds of things that the tables hold; each value is stored as it is written."""

from enum import StrEnum


class BillingModel(StrEnum):
    PREPAY_USER = "PREPAY_USER"
    PREPAY_MANDATE = "PREPAY_MANDATE"
    CREDIT_POSTPAY = "CREDIT_POSTPAY"
    UNLIMITED = "UNLIMITED"


class AccountType(StrEnum):
    USER = "USER"
    MANDATE = "MANDATE"
    UNLIMITED = "UNLIMITED"


class TransactionType(StrEnum):
    CREDIT = "CREDIT"
    DEBIT = "DEBIT"


class ReferenceType(StrEnum):
    ADMIN = "ADMIN"
    PAYMENT = "PAYMENT"
    SYSTEM = "SYSTEM"
    USAGE = "USAGE"
    REVERSAL = "REVERSAL"
    TRANSFER = "TRANSFER"


class MembershipRole(StrEnum):
    MEMBER = "MEMBER"
    ADMIN = "ADMIN"


class UserKind(StrEnum):
    HUMAN = "HUMAN"
    SERVICE = "SERVICE"


class PeriodType(StrEnum):
    DAY = "DAY"
    MONTH = "MONTH"
    YEAR = "YEAR"


class HoldStatus(StrEnum):
    OPEN = "OPEN"
    SETTLED = "SETTLED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class AlertLevel(StrEnum):
    """How low an account has come; each is above the one before."""

    NONE = "NONE"
    WARNING = "WARNING"
    EMPTY = "EMPTY"


class Channel(StrEnum):
    EMAIL = "EMAIL"
    WEBHOOK = "WEBHOOK"


class NoticeType(StrEnum):
    """What the outbox tells; the values are the event types of webhooks."""

    BALANCE_WARNING = "balance.warning"
    BALANCE_DEPLETED = "balance.depleted"
    CREDIT_ADDED = "credit.added"
    USAGE_REJECTED = "usage.rejected"
