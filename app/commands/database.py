"""Commands for the database as a whole."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from app import backup, migrate, revision
from app.commands.shared import check_there, progress
from app.config import load_settings
from app.database import Database


async def upgrade() -> None:
    """Creates the tables, or brings them to the revision that this version needs."""
    async with Database(load_settings().direct_url) as database:
        await migrate.migrate(database)
    typer.echo(f"The database is at revision {revision.revision_needed()}.")


def back_up(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
) -> None:
    """Writes the whole database into one new file, while others write."""
    settings = load_settings()
    check_there(settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else what is half done would stay
    with progress() as bars:
        backup.back_up(settings.direct_url, file, bars)
    typer.echo(f"The database is in {file}.")
