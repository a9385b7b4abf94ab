"""What Alembic runs: the project's migrations on a connection given by app.migrate, or for `alembic revision`."""

from alembic import context
from sqlalchemy import Connection, create_engine
from sqlmodel import SQLModel

from app import lease  # noqa: F401  (fills the metadata, as models does)
from app.billing import models  # noqa: F401


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        transaction_per_migration=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with create_engine("sqlite:///billing.db").connect() as connection:
        run(connection)
