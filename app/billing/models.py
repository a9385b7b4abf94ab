"""The tables. Every row of a mandate carries `mandate_id` first in each key, so that a mandate is one shard.

Money is nano units, instants are UTC, ids from the platform are text and our own are UUIDv7.
No rule lives here.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from app.billing.enums import (
    AccountType,
    AlertLevel,
    BillingModel,
    Channel,
    HoldStatus,
    MembershipRole,
    NoticeType,
    PeriodType,
    ReferenceType,
    TransactionType,
    UserKind,
)
from app.billing.types import Document, IdempotencyKey, Identifier, Instant, Key, Nano, NanoSum


def _partial(name: str, condition: str, *columns: str, unique: bool = False) -> Index:
    """An index of the mandate's rows that meet the condition, on both databases."""
    where = text(condition)
    return Index(
        name, "mandate_id", *columns, unique=unique, postgresql_where=where, sqlite_where=where
    )


class Mandate(SQLModel, table=True):
    """A tenant. Currency and time zone are fixed once an account exists."""

    id: str = Field(sa_type=Identifier, primary_key=True)
    name: str = Field(sa_type=String)
    currency: str = Field(sa_type=String)
    time_zone: str = Field(sa_type=String)
    created_at: datetime = Field(sa_type=Instant)


class User(SQLModel, table=True):
    """A person or a service of the platform; never deleted."""

    id: str = Field(sa_type=Identifier, primary_key=True)
    email: str | None = Field(sa_type=String, nullable=True)
    first_name: str | None = Field(sa_type=String, nullable=True)
    last_name: str | None = Field(sa_type=String, nullable=True)
    kind: UserKind = Field(sa_type=String)
    is_sys_admin: bool
    enabled: bool
    created_at: datetime = Field(sa_type=Instant)


class Membership(SQLModel, table=True):
    """A user of a mandate; kept, with `left_at`, when the user leaves."""

    mandate_id: str = Field(sa_type=Identifier)
    user_id: str = Field(sa_type=Identifier)
    role: MembershipRole = Field(sa_type=String)
    created_at: datetime = Field(sa_type=Instant)
    left_at: datetime | None = Field(sa_type=Instant, nullable=True)
    spend_limit: Decimal | None = Field(sa_type=Nano, nullable=True)
    spend_period: PeriodType | None = Field(sa_type=String, nullable=True)

    __table_args__ = (
        PrimaryKeyConstraint("mandate_id", "user_id"),
        ForeignKeyConstraint(["mandate_id"], ["mandate.id"]),
        ForeignKeyConstraint(["user_id"], ["user.id"]),
        Index("membership_of_user", "user_id"),
    )


class BillingSettings(SQLModel, table=True):
    """Exists from the mandate's creation, so that it can be locked; version 0 means none yet."""

    __tablename__ = "billing_settings"

    mandate_id: str = Field(sa_type=Identifier, primary_key=True)
    version: int
    billing_model: BillingModel = Field(sa_type=String)
    default_user_credit: Decimal = Field(sa_type=Nano)
    warning_threshold_percent: Decimal = Field(sa_type=Nano)
    block_on_zero_balance: bool
    notify_on_warning: bool
    notify_emails: list[str] = Field(sa_type=Document, nullable=False)
    billing_address: dict[str, str | None] | None = Field(sa_type=Document, nullable=True)
    credit_limit: Decimal | None = Field(sa_type=Nano, nullable=True)
    allowed_providers: list[str] | None = Field(sa_type=Document, nullable=True)
    updated_at: datetime = Field(sa_type=Instant)
    totalled_until: date
    """The usage of the days before it stands in the totals, too."""

    __table_args__ = (ForeignKeyConstraint(["mandate_id"], ["mandate.id"]),)


class Account(SQLModel, table=True):
    """What pays. balance = credited - debited = the sum of its transactions; sequence counts them."""

    mandate_id: str = Field(sa_type=Identifier)
    id: str = Field(sa_type=Key)
    account_type: AccountType = Field(sa_type=String)
    user_id: str | None = Field(sa_type=Identifier, nullable=True)
    balance: Decimal = Field(sa_type=Nano)
    credited: Decimal = Field(sa_type=Nano)
    debited: Decimal = Field(sa_type=Nano)
    sequence: int = Field(sa_type=BigInteger)
    funding_base: Decimal = Field(sa_type=Nano)
    """The balance right after the latest credit that is no reversal: what a warning is measured by."""
    credit_limit: Decimal | None = Field(sa_type=Nano, nullable=True)
    alert_level: AlertLevel | None = Field(sa_type=String, nullable=True)
    """As it was last judged; null on an account from before levels were kept."""
    enabled: bool
    created_at: datetime = Field(sa_type=Instant)
    last_transaction_at: datetime = Field(sa_type=Instant)

    __table_args__ = (
        PrimaryKeyConstraint("mandate_id", "id"),
        ForeignKeyConstraint(["mandate_id"], ["mandate.id"]),
        ForeignKeyConstraint(["user_id"], ["user.id"]),
        CheckConstraint("(account_type = 'USER') = (user_id IS NOT NULL)", "account_owner"),
        CheckConstraint("balance = credited - debited", "account_balance"),
        _partial("account_of_user", "user_id IS NOT NULL", "user_id", unique=True),
        _partial("account_of_mandate", "user_id IS NULL", "account_type", unique=True),
    )


class Transaction(SQLModel, table=True):
    """A row of the ledger, append-only: triggers of both databases refuse to change or delete one."""

    mandate_id: str = Field(sa_type=Identifier)
    id: str = Field(sa_type=Key)
    account_id: str = Field(sa_type=Key)
    sequence: int = Field(sa_type=BigInteger)
    user_id: str | None = Field(sa_type=Identifier, nullable=True)
    transaction_type: TransactionType = Field(sa_type=String)
    reference_type: ReferenceType = Field(sa_type=String)
    amount: Decimal = Field(sa_type=Nano)
    balance_after: Decimal = Field(sa_type=Nano)
    description: str = Field(sa_type=String)
    workflow_id: str | None = Field(sa_type=Identifier, nullable=True)
    feature_code: str | None = Field(sa_type=Identifier, nullable=True)
    aicore_provider: str | None = Field(sa_type=Identifier, nullable=True)
    aicore_model: str | None = Field(sa_type=Identifier, nullable=True)
    idempotency_key: str | None = Field(sa_type=IdempotencyKey, nullable=True)
    content_hash: str | None = Field(sa_type=String, nullable=True)
    """SHA-256 of the operation and its input, which tells a retry from a conflict."""
    actor_id: str | None = Field(sa_type=Identifier, nullable=True)
    reverses_id: str | None = Field(sa_type=Key, nullable=True)
    reversed_type: ReferenceType | None = Field(sa_type=String, nullable=True)
    """What the transaction that it reverses was written for: only that of usage lowers a cost."""
    hold_id: str | None = Field(sa_type=Key, nullable=True)
    counterpart_id: str | None = Field(sa_type=Key, nullable=True)
    """The other leg of a transfer."""
    occurred_at: datetime = Field(sa_type=Instant)
    created_at: datetime = Field(sa_type=Instant)

    __table_args__ = (
        PrimaryKeyConstraint("mandate_id", "id"),
        ForeignKeyConstraint(["mandate_id", "account_id"], ["account.mandate_id", "account.id"]),
        ForeignKeyConstraint(["user_id"], ["user.id"]),
        UniqueConstraint("mandate_id", "account_id", "sequence", name="transaction_sequence"),
        UniqueConstraint("mandate_id", "idempotency_key", name="transaction_key"),
        CheckConstraint("amount >= 0", "transaction_amount"),
        # A page of each filter and order, in the order of the page.
        Index("transaction_of_account", "mandate_id", "account_id", "id"),
        Index("transaction_of_user", "mandate_id", "user_id", "id"),
        Index("transaction_of_type", "mandate_id", "transaction_type", "id"),
        Index("transaction_of_reference", "mandate_id", "reference_type", "id"),
        _partial("transaction_of_workflow", "workflow_id IS NOT NULL", "workflow_id", "id"),
        _partial("transaction_of_feature", "feature_code IS NOT NULL", "feature_code", "id"),
        _partial("transaction_of_provider", "aicore_provider IS NOT NULL", "aicore_provider", "id"),
        _partial("transaction_of_model", "aicore_model IS NOT NULL", "aicore_model", "id"),
        Index("transaction_occurred", "mandate_id", "occurred_at", "id"),
        Index("transaction_amount", "mandate_id", "amount", "id"),
        # Statistics of a workflow, of any range.
        _partial(
            "transaction_workflow_occurred",
            "workflow_id IS NOT NULL",
            "workflow_id",
            "occurred_at",
        ),
        _partial("transaction_reversal", "reverses_id IS NOT NULL", "reverses_id", unique=True),
        _partial("transaction_settlement", "hold_id IS NOT NULL", "hold_id", unique=True),
    )


class Hold(SQLModel, table=True):
    """Money set aside before a call. An OPEN one past `expires_at` counts for nothing, tidied or not."""

    mandate_id: str = Field(sa_type=Identifier)
    id: str = Field(sa_type=Key)
    account_id: str = Field(sa_type=Key)
    user_id: str = Field(sa_type=Identifier)
    amount: Decimal = Field(sa_type=Nano)
    status: HoldStatus = Field(sa_type=String)
    settled_amount: Decimal | None = Field(sa_type=Nano, nullable=True)
    aicore_provider: str | None = Field(sa_type=Identifier, nullable=True)
    feature_code: str | None = Field(sa_type=Identifier, nullable=True)
    workflow_id: str | None = Field(sa_type=Identifier, nullable=True)
    idempotency_key: str = Field(sa_type=IdempotencyKey)
    content_hash: str = Field(sa_type=String)
    expires_at: datetime = Field(sa_type=Instant)
    created_at: datetime = Field(sa_type=Instant)

    __table_args__ = (
        PrimaryKeyConstraint("mandate_id", "id"),
        ForeignKeyConstraint(["mandate_id", "account_id"], ["account.mandate_id", "account.id"]),
        ForeignKeyConstraint(["user_id"], ["user.id"]),
        UniqueConstraint("mandate_id", "idempotency_key", name="hold_key"),
        CheckConstraint("amount > 0", "hold_amount"),
        CheckConstraint("(status = 'SETTLED') = (settled_amount IS NOT NULL)", "hold_settled"),
        Index("hold_of_user", "mandate_id", "user_id", "id"),
        Index("hold_of_account", "mandate_id", "account_id", "id"),
        _partial("hold_open", "status = 'OPEN'", "account_id", "expires_at", "amount"),
        _partial("hold_open_of_user", "status = 'OPEN'", "user_id", "expires_at", "amount"),
    )


class DailyUsage(SQLModel, table=True):
    """The roll-up of cost by the mandate's local date; "" stands for none, so that a key has no NULL."""

    __tablename__ = "daily_usage"

    mandate_id: str = Field(sa_type=Identifier)
    local_date: date
    user_id: str = Field(sa_type=Identifier)
    account_id: str = Field(sa_type=Key)
    aicore_provider: str = Field(sa_type=Identifier)
    aicore_model: str = Field(sa_type=Identifier)
    feature_code: str = Field(sa_type=Identifier)
    cost: Decimal = Field(sa_type=Nano)
    transaction_count: int = Field(sa_type=BigInteger)

    __table_args__ = (
        PrimaryKeyConstraint(
            "mandate_id",
            "local_date",
            "user_id",
            "account_id",
            "aicore_provider",
            "aicore_model",
            "feature_code",
        ),
        ForeignKeyConstraint(["mandate_id", "account_id"], ["account.mandate_id", "account.id"]),
        Index("daily_usage_of_user", "mandate_id", "user_id", "local_date"),
    )


class DailyTotal(SQLModel, table=True):
    """The roll-up of days that are over, of all users together: far fewer rows for a long range."""

    __tablename__ = "daily_total"

    mandate_id: str = Field(sa_type=Identifier)
    local_date: date
    aicore_provider: str = Field(sa_type=Identifier)
    aicore_model: str = Field(sa_type=Identifier)
    feature_code: str = Field(sa_type=Identifier)
    cost: Decimal = Field(sa_type=NanoSum)
    transaction_count: int = Field(sa_type=BigInteger)

    __table_args__ = (
        PrimaryKeyConstraint(
            "mandate_id", "local_date", "aicore_provider", "aicore_model", "feature_code"
        ),
        ForeignKeyConstraint(["mandate_id"], ["mandate.id"]),
        # What is too large would become a float.
        CheckConstraint("typeof(cost) = 'integer'", "daily_total_cost").ddl_if(dialect="sqlite"),
    )


class DailyUserTotal(SQLModel, table=True):
    """The roll-up of days that are over by user alone."""

    __tablename__ = "daily_user_total"

    mandate_id: str = Field(sa_type=Identifier)
    local_date: date
    user_id: str = Field(sa_type=Identifier)
    cost: Decimal = Field(sa_type=NanoSum)
    transaction_count: int = Field(sa_type=BigInteger)

    __table_args__ = (
        PrimaryKeyConstraint("mandate_id", "local_date", "user_id"),
        ForeignKeyConstraint(["mandate_id"], ["mandate.id"]),
        # What is too large would become a float.
        CheckConstraint("typeof(cost) = 'integer'", "daily_user_total_cost").ddl_if(
            dialect="sqlite"
        ),
    )


class Notice(SQLModel, table=True):
    """The outbox: what is still to be told, once per channel. A row is deleted when it has arrived."""

    __tablename__ = "outbox"

    mandate_id: str = Field(sa_type=Identifier)
    id: str = Field(sa_type=Key)
    channel: Channel = Field(sa_type=String)
    notice_type: NoticeType = Field(sa_type=String)
    data: dict[str, Any] = Field(sa_type=Document, nullable=False)
    attempts: int
    due_at: datetime = Field(sa_type=Instant)
    """When to try next. Who tries moves it on first, so that no other does meanwhile."""
    last_error: str | None = Field(sa_type=String, nullable=True)
    created_at: datetime = Field(sa_type=Instant)

    __table_args__ = (
        PrimaryKeyConstraint("mandate_id", "id"),
        ForeignKeyConstraint(["mandate_id"], ["mandate.id"]),
        Index("outbox_due", "channel", "due_at"),
        Index("outbox_of_type", "mandate_id", "notice_type"),
    )


class AuditEvent(SQLModel, table=True):
    """Who changed what; mandate_id is "" for what concerns no mandate, actor_id NULL for the operator."""

    __tablename__ = "audit_event"

    mandate_id: str = Field(sa_type=Identifier)
    id: str = Field(sa_type=Key)
    actor_id: str | None = Field(sa_type=Identifier, nullable=True)
    action: str = Field(sa_type=String)
    subject: str = Field(sa_type=String)
    before: dict[str, Any] | None = Field(sa_type=Document, nullable=True)
    after: dict[str, Any] | None = Field(sa_type=Document, nullable=True)
    created_at: datetime = Field(sa_type=Instant)

    __table_args__ = (
        PrimaryKeyConstraint("mandate_id", "id"),
        Index("audit_event_of_subject", "mandate_id", "subject", "id"),
    )


def table(model: type[SQLModel]) -> Table:
    """The Core table behind a model: hot paths select columns and get rows, never entities."""
    return SQLModel.metadata.tables[str(model.__tablename__)]


mandates = table(Mandate)
users = table(User)
memberships = table(Membership)
settings = table(BillingSettings)
accounts = table(Account)
transactions = table(Transaction)
daily_usage = table(DailyUsage)
daily_totals = table(DailyTotal)
daily_user_totals = table(DailyUserTotal)
holds = table(Hold)
outbox = table(Notice)
audit_events = table(AuditEvent)

TOTALS = (daily_totals, daily_user_totals)
"""Each has columns of `daily_usage`, and adds up what that has of the days that are totalled."""
