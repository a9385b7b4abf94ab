"""What every command shares: its database, its progress bar, and how it says that it cannot."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from sqlalchemy import make_url

from app import revision
from app.config import Settings
from app.database import PATIENT, Database, Waits
from app.replica import following


class Failure(Exception):
    """The command cannot do what was asked; the message is all there is to say."""


@asynccontextmanager
async def migrated(settings: Settings, waits: Waits = PATIENT) -> AsyncIterator[Database]:
    """The database, at the revision this program needs."""
    check_there(settings)
    async with (
        Database(settings.direct_url, waits=waits) as database,
        following(database, settings.read_database_url, waits),
    ):
        await revision.check_revision(database)
        yield database


def check_there(settings: Settings) -> None:
    """Refuses a command for a database that `billing migrate` has yet to create."""
    if file := missing_file(settings.direct_url):
        way = "run `billing migrate` to create it, or set BILLING_DATABASE_URL"
        raise Failure(f"There is no database {file}: {way}.")


def missing_file(database_url: str) -> Path | None:
    """To connect to SQLite would create an empty database, wherever the command happens to run."""
    url = make_url(database_url)
    file = Path(str(url.database)).absolute()
    return file if url.get_backend_name() == "sqlite" and not file.exists() else None


@contextmanager
def progress() -> Iterator[Progress]:
    """Shows how far long work is, on a terminal only."""
    is_terminal = sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=not is_terminal) as bars:
        yield bars
