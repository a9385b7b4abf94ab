"""The ledger, its directory, settings, roll-up and audit trail."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "audit_event",
        sa.Column("mandate_id", sa.String(128), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("actor_id", sa.String(128), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("before", DOCUMENT, nullable=True),
        sa.Column("after", DOCUMENT, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("mandate_id", "id"),
    )
    op.create_index(
        "audit_event_of_subject",
        "audit_event",
        ["mandate_id", "subject", "id"],
        unique=False,
    )
    op.create_table(
        "mandate",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("time_zone", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "user",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("first_name", sa.String(), nullable=True),
        sa.Column("last_name", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("is_sys_admin", sa.Boolean(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "account",
        sa.Column("mandate_id", sa.String(128), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_type", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=True),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("credited", sa.BigInteger(), nullable=False),
        sa.Column("debited", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("funding_base", sa.BigInteger(), nullable=False),
        sa.Column("credit_limit", sa.BigInteger(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_transaction_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(account_type = 'USER') = (user_id IS NOT NULL)", name="account_owner"),
        sa.CheckConstraint("balance = credited - debited", name="account_balance"),
        sa.ForeignKeyConstraint(
            ["mandate_id"],
            ["mandate.id"],
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["user.id"],
        ),
        sa.PrimaryKeyConstraint("mandate_id", "id"),
    )
    op.create_index(
        "account_of_mandate",
        "account",
        ["mandate_id", "account_type"],
        unique=True,
        postgresql_where=sa.text("user_id IS NULL"),
        sqlite_where=sa.text("user_id IS NULL"),
    )
    op.create_index(
        "account_of_user",
        "account",
        ["mandate_id", "user_id"],
        unique=True,
        postgresql_where=sa.text("user_id IS NOT NULL"),
        sqlite_where=sa.text("user_id IS NOT NULL"),
    )
    op.create_table(
        "billing_settings",
        sa.Column("mandate_id", sa.String(128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("billing_model", sa.String(), nullable=False),
        sa.Column("default_user_credit", sa.BigInteger(), nullable=False),
        sa.Column("warning_threshold_percent", sa.BigInteger(), nullable=False),
        sa.Column("block_on_zero_balance", sa.Boolean(), nullable=False),
        sa.Column("notify_on_warning", sa.Boolean(), nullable=False),
        sa.Column("notify_emails", DOCUMENT, nullable=False),
        sa.Column("billing_address", DOCUMENT, nullable=True),
        sa.Column("credit_limit", sa.BigInteger(), nullable=True),
        sa.Column("allowed_providers", DOCUMENT, nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["mandate_id"],
            ["mandate.id"],
        ),
        sa.PrimaryKeyConstraint("mandate_id"),
    )
    op.create_table(
        "membership",
        sa.Column("mandate_id", sa.String(128), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["mandate_id"],
            ["mandate.id"],
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["user.id"],
        ),
        sa.PrimaryKeyConstraint("mandate_id", "user_id"),
    )
    op.create_index("membership_of_user", "membership", ["user_id"], unique=False)
    op.create_table(
        "daily_usage",
        sa.Column("mandate_id", sa.String(128), nullable=False),
        sa.Column("local_date", sa.Date(), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("aicore_provider", sa.String(128), nullable=False),
        sa.Column("aicore_model", sa.String(128), nullable=False),
        sa.Column("feature_code", sa.String(128), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.Column("transaction_count", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["mandate_id", "account_id"],
            ["account.mandate_id", "account.id"],
        ),
        sa.PrimaryKeyConstraint(
            "mandate_id",
            "local_date",
            "user_id",
            "account_id",
            "aicore_provider",
            "aicore_model",
            "feature_code",
        ),
    )
    op.create_index(
        "daily_usage_of_user",
        "daily_usage",
        ["mandate_id", "user_id", "local_date"],
        unique=False,
    )
    op.create_table(
        "transaction",
        sa.Column("mandate_id", sa.String(128), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=True),
        sa.Column("transaction_type", sa.String(), nullable=False),
        sa.Column("reference_type", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(128), nullable=True),
        sa.Column("feature_code", sa.String(128), nullable=True),
        sa.Column("aicore_provider", sa.String(128), nullable=True),
        sa.Column("aicore_model", sa.String(128), nullable=True),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("content_hash", sa.String(), nullable=True),
        sa.Column("actor_id", sa.String(128), nullable=True),
        sa.Column("reverses_id", sa.Uuid(), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("amount >= 0", name="transaction_amount"),
        sa.ForeignKeyConstraint(
            ["mandate_id", "account_id"],
            ["account.mandate_id", "account.id"],
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["user.id"],
        ),
        sa.PrimaryKeyConstraint("mandate_id", "id"),
        sa.UniqueConstraint("mandate_id", "account_id", "sequence", name="transaction_sequence"),
        sa.UniqueConstraint("mandate_id", "idempotency_key", name="transaction_key"),
    )
    op.create_index(
        "transaction_occurred",
        "transaction",
        ["mandate_id", "occurred_at", "id"],
        unique=False,
    )
    op.create_index(
        "transaction_of_user",
        "transaction",
        ["mandate_id", "user_id", "id"],
        unique=False,
    )
    op.create_index(
        "transaction_of_workflow",
        "transaction",
        ["mandate_id", "workflow_id", "occurred_at"],
        unique=False,
        postgresql_where=sa.text("workflow_id IS NOT NULL"),
        sqlite_where=sa.text("workflow_id IS NOT NULL"),
    )
    op.create_index(
        "transaction_reversal",
        "transaction",
        ["mandate_id", "reverses_id"],
        unique=True,
        postgresql_where=sa.text("reverses_id IS NOT NULL"),
        sqlite_where=sa.text("reverses_id IS NOT NULL"),
    )
    make_append_only()


def make_append_only() -> None:
    """No code path changes or deletes a transaction; these triggers refuse whoever tries."""
    if op.get_bind().dialect.name == "sqlite":
        for event in ("UPDATE", "DELETE"):
            op.execute(
                f'CREATE TRIGGER transaction_no_{event.lower()} BEFORE {event} ON "transaction"'
                " BEGIN SELECT RAISE(ABORT, 'transactions are append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION refuse_transaction_change() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE EXCEPTION 'transactions are append-only'; END $$"
    )
    op.execute(
        'CREATE TRIGGER transaction_append_only BEFORE UPDATE OR DELETE ON "transaction"'
        " FOR EACH ROW EXECUTE FUNCTION refuse_transaction_change()"
    )
    op.execute(
        'CREATE TRIGGER transaction_no_truncate BEFORE TRUNCATE ON "transaction"'
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_transaction_change()"
    )


def downgrade() -> None:
    for table in (
        "transaction",
        "daily_usage",
        "account",
        "membership",
        "billing_settings",
        "audit_event",
        "user",
        "mandate",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION refuse_transaction_change()")
