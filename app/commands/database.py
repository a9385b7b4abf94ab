"""Commands for the database as a whole."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskID
from sqlalchemy import make_url

from app import backup, copying, distribution, migrate, revision
from app.addresses import check_database_url
from app.commands.ledger import prove
from app.commands.shared import Failure, check_there, migrated, missing_file, progress
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
    async with Database(load_settings().direct_url) as database:
        await distribution.check_coordinator(database)
        await revision.check_revision(database)
        with progress() as bars:
            tasks: dict[str, TaskID] = {}
            async for table, done in distribution.distribute(database):
                if done:
                    bars.update(tasks[table], total=1, completed=1)
                else:
                    tasks[table] = bars.add_task(table, total=None)
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


async def copy_from(
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="The old database, such as sqlite:///billing.db."),
    ],
) -> None:
    """Copies all of another database into this one, which must be migrated and empty.

    This is the way from SQLite to PostgreSQL.
    Stop the servers first: what is written once it has begun is not copied.
    The old database stays as it is; broken off, the new one stays empty.
    """
    settings = load_settings()
    _check_url(url)
    async with migrated(settings) as target, Database(url) as source:
        await _check_old(source, url)
        with progress() as bars:
            task = bars.add_task("Copying", total=None)
            copied = await copying.copy_database(
                source, target, lambda done, total: bars.update(task, completed=done, total=total)
            )
        typer.echo(
            f"{copied:,} rows are copied. Their proof follows, as by `billing verify-ledger`."
        )
        await prove(target)


def _check_url(url: str) -> None:
    """By the rules for BILLING_DATABASE_URL."""
    try:
        check_database_url(url)
    except ValueError as fault:
        raise Failure(f"URL {fault}.") from None
    if file := missing_file(url):
        raise Failure(f"There is no database {file}.")


async def _check_old(source: Database, url: str) -> None:
    try:
        await revision.check_revision(source)
    except revision.WrongRevision:
        raise Failure(
            f"The old database is not at revision {revision.revision_needed()}, which this program"
            f" needs: let BILLING_DATABASE_URL name {make_url(url).render_as_string()} and run"
            " `billing migrate`."
        ) from None
