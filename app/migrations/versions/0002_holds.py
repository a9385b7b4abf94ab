"""Holds, spend limits, corrections that are linked to what they correct, and the outbox."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")

ADDED = (
    ("account", "alert_level", sa.String()),
    ("membership", "spend_limit", sa.BigInteger()),
    ("membership", "spend_period", sa.String()),
    ("transaction", "reversed_type", sa.String()),
    ("transaction", "hold_id", sa.Uuid()),
    ("transaction", "counterpart_id", sa.Uuid()),
)


def upgrade() -> None:
    # Plain ADD COLUMN on SQLite too: to rebuild a table would drop the triggers of the ledger.
    for table, name, kind in ADDED:
        op.add_column(table, sa.Column(name, kind, nullable=True))
    op.create_index(
        "transaction_settlement",
        "transaction",
        ["mandate_id", "hold_id"],
        unique=True,
        postgresql_where=sa.text("hold_id IS NOT NULL"),
        sqlite_where=sa.text("hold_id IS NOT NULL"),
    )
    op.create_index("transaction_of_account", "transaction", ["mandate_id", "account_id", "id"])
    op.create_table(
        "hold",
        sa.Column("mandate_id", sa.String(128), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("settled_amount", sa.BigInteger(), nullable=True),
        sa.Column("aicore_provider", sa.String(128), nullable=True),
        sa.Column("feature_code", sa.String(128), nullable=True),
        sa.Column("workflow_id", sa.String(128), nullable=True),
        sa.Column("idempotency_key", sa.String(255), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("amount > 0", name="hold_amount"),
        sa.CheckConstraint(
            "(status = 'SETTLED') = (settled_amount IS NOT NULL)", name="hold_settled"
        ),
        sa.ForeignKeyConstraint(
            ["mandate_id", "account_id"],
            ["account.mandate_id", "account.id"],
        ),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"]),
        sa.PrimaryKeyConstraint("mandate_id", "id"),
        sa.UniqueConstraint("mandate_id", "idempotency_key", name="hold_key"),
    )
    op.create_index("hold_of_user", "hold", ["mandate_id", "user_id", "id"])
    op.create_index("hold_of_account", "hold", ["mandate_id", "account_id", "id"])
    for name, column in (("hold_open", "account_id"), ("hold_open_of_user", "user_id")):
        op.create_index(
            name,
            "hold",
            ["mandate_id", column, "expires_at", "amount"],
            postgresql_where=sa.text("status = 'OPEN'"),
            sqlite_where=sa.text("status = 'OPEN'"),
        )
    op.create_table(
        "outbox",
        sa.Column("mandate_id", sa.String(128), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("notice_type", sa.String(), nullable=False),
        sa.Column("data", DOCUMENT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["mandate_id"], ["mandate.id"]),
        sa.PrimaryKeyConstraint("mandate_id", "id"),
    )
    op.create_index("outbox_due", "outbox", ["channel", "due_at"])
    op.create_index("outbox_of_type", "outbox", ["mandate_id", "notice_type"])


def downgrade() -> None:
    op.drop_table("outbox")
    op.drop_table("hold")
    op.drop_index("transaction_of_account", "transaction")
    op.drop_index("transaction_settlement", "transaction")
    for table, name, _ in ADDED:
        op.drop_column(table, name)
