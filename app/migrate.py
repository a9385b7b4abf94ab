"""Brings a database to the revision this program needs, and tells when it is not there."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import Database

_LOCK = 0x6D616E64  # any number that all our processes share: "mand"


class WrongRevision(Exception):
    """The database was made by another version; the message says which command mends it."""


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


@cache
def revision_needed() -> str:
    """The newest revision that this program knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


async def migrate(database: Database, revision: str = "head") -> None:
    """Upgrades to `revision`; a second process that migrates at once waits and finds it done."""

    def upgrade(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        command.upgrade(_config(connection), revision)

    async def unit(connection: AsyncConnection) -> None:
        await connection.run_sync(upgrade)

    try:
        await database.write(unit)
    except CommandError:
        await check_revision(database)  # it says more when the database is of a newer version
        raise


async def find_revision(connection: AsyncConnection) -> str | None:
    """The revision of the database; None before the first."""

    def current(connection: Connection) -> str | None:
        return MigrationContext.configure(connection).get_current_revision()

    return await connection.run_sync(current)


async def check_revision(database: Database) -> None:
    """Raises WrongRevision unless the database has exactly the revision this program needs."""
    async with database.read() as connection:
        found, needed = await find_revision(connection), revision_needed()
    if found == needed:
        return
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found is None or found in known:
        raise WrongRevision(
            f"The database is at revision {found or 'none'} and this program needs {needed}:"
            " run `billing migrate`."
        )
    raise WrongRevision(
        f"The database is at revision {found}, which this program (at {needed}) does not know:"
        " install the newer version of mandate-billing that made it."
    )
