"""Brings a database to the revision this program needs.

Alembic is loaded where it is used: it takes 7 MiB, which no server needs.
"""

from typing import TYPE_CHECKING

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app import distribution
from app.database import Database
from app.revision import MIGRATIONS, check_revision

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = 0x6D616E64  # any number that all our processes share: "mand"


def _config(connection: Connection) -> "Config":
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


async def migrate(database: Database, revision: str = "head") -> None:
    """Upgrades to `revision`; a second process that migrates at once waits and finds it done."""
    from alembic import command  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    def upgrade(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        with distribution.keeping_layout(connection):
            command.upgrade(_config(connection), revision)

    async def unit(connection: AsyncConnection) -> None:
        await connection.run_sync(upgrade)

    try:
        await database.write(unit)
    except CommandError:
        await check_revision(database)  # it says more when the database is of a newer version
        raise
