"""Commands for the database as a whole."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskID

from app import backup, distribution, migrate, revision
from app.commands.shared import check_there, migrated, progress
from app.config import load_settings
from app.database import Database


async def upgrade() -> None:
    """Creates the tables, or brings them to the revision that this version needs."""
    async with Database(load_settings().direct_url) as database:
        await migrate.migrate(database)
    typer.echo(f"The database is at revision {revision.revision_needed()}.")


async def distribute() -> None:
    """Spreads the database over a Citus cluster: its tables, empty or filled, and what is new since.

    Stop the servers first: each table's writes wait while it is copied, and a spend needs several.
    Run again, it goes on where it was stopped.
    """
    settings = load_settings()
    async with migrated(settings) as database:
        with progress() as bars:
            tasks: dict[str, TaskID] = {}
            async for table, done in distribution.distribute(database):
                if table not in tasks:
                    tasks[table] = bars.add_task(table, total=None)
                bars.update(tasks[table], total=1 if done else None, completed=int(done))
    typer.echo(f"{len(tasks)} tables are spread over the cluster.")


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
