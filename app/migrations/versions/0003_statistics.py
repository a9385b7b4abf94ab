"""Daily totals of all users, and an index for each filter of transactions."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# By index: the column, and whether rows without a value are left out of it.
FILTERS = {
    "transaction_of_type": ("transaction_type", False),
    "transaction_of_reference": ("reference_type", False),
    "transaction_of_workflow": ("workflow_id", True),
    "transaction_of_feature": ("feature_code", True),
    "transaction_of_provider": ("aicore_provider", True),
    "transaction_of_model": ("aicore_model", True),
    "transaction_amount": ("amount", False),
}


def create_index(name: str, *columns: str, partial: bool) -> None:
    where = sa.text(f"{columns[0]} IS NOT NULL") if partial else None
    op.create_index(
        name,
        "transaction",
        ["mandate_id", *columns],
        postgresql_where=where,
        sqlite_where=where,
    )


def upgrade() -> None:
    op.drop_index("transaction_of_workflow", "transaction")
    create_index("transaction_workflow_occurred", "workflow_id", "occurred_at", partial=True)
    for name, (column, partial) in FILTERS.items():
        create_index(name, column, "id", partial=partial)
    # Nothing is totalled yet: the server's housekeeping does it day by day.
    op.add_column(
        "billing_settings",
        sa.Column("totalled_until", sa.Date(), nullable=False, server_default="0001-01-01"),
    )
    # The sum of many accounts may be beyond 64 bits, which SQLite would make a float.
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    kind = sa.BigInteger() if is_sqlite else sa.Numeric(38, 0)
    checks = ["typeof(cost) = 'integer'"] if is_sqlite else []
    names = ["aicore_provider", "aicore_model", "feature_code"]
    for table, columns in (("daily_total", names), ("daily_user_total", ["user_id"])):
        op.create_table(
            table,
            sa.Column("mandate_id", sa.String(128), nullable=False),
            sa.Column("local_date", sa.Date(), nullable=False),
            *(sa.Column(column, sa.String(128), nullable=False) for column in columns),
            sa.Column("cost", kind, nullable=False),
            sa.Column("transaction_count", sa.BigInteger(), nullable=False),
            sa.ForeignKeyConstraint(["mandate_id"], ["mandate.id"]),
            sa.PrimaryKeyConstraint("mandate_id", "local_date", *columns),
            *(sa.CheckConstraint(check, f"{table}_cost") for check in checks),
        )


def downgrade() -> None:
    op.drop_table("daily_user_total")
    op.drop_table("daily_total")
    op.drop_column("billing_settings", "totalled_until")
    for name in FILTERS:
        op.drop_index(name, "transaction")
    op.drop_index("transaction_workflow_occurred", "transaction")
    create_index("transaction_of_workflow", "workflow_id", "occurred_at", partial=True)
