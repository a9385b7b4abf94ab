"""Which revision a database is at, and which one this program needs. Alembic is for `app.migrate` alone."""

from functools import cache
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"


class WrongRevision(Exception):
    """The database was made by another version; the message says which command mends it."""


@cache
def _known() -> list[str]:
    """All revisions that this program knows, the newest last: the files' names begin with them."""
    return sorted(path.name[:4] for path in MIGRATIONS.glob("versions/[0-9]*.py"))


def revision_needed() -> str:
    """The newest revision that this program knows."""
    return _known()[-1]


async def find_revision(connection: AsyncConnection) -> str | None:
    """The revision of the database; None before the first."""

    def current(connection: Connection) -> str | None:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()

    return await connection.run_sync(current)


async def check_revision(database: Database) -> None:
    """Raises WrongRevision unless the database has exactly the revision this program needs."""
    async with database.read() as connection:
        found, needed = await find_revision(connection), revision_needed()
    if found == needed:
        return
    if found is None or found in _known():
        raise WrongRevision(
            f"The database is at revision {found or 'none'} and this program needs {needed}:"
            " run `billing migrate`."
        )
    raise WrongRevision(
        f"The database is at revision {found}, which this program (at {needed}) does not know:"
        " install the newer version of mandate-billing that made it."
    )
