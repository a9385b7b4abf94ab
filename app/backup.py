"""The whole database in one file, taken while others write: a database file, or pg_dump's custom format."""

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import Progress
from sqlalchemy import URL, make_url

_PAGES = 1_000
"""Of SQLite, in one step of the progress bar."""
_MISMATCH = re.compile(r"server version: (\S+?); pg_dump version: (\S+)")


class BackupFailed(Exception):
    """There is no backup; the message says why and what to do."""


def back_up(database_url: str, file: Path, bars: Progress) -> None:
    """Writes the file, which nobody else may read; there is none where it fails."""
    if not file.parent.is_dir():
        raise BackupFailed(f"There is no directory {file.parent}.")
    try:
        file.open("xb").close()  # the name is ours from now on
    except FileExistsError:
        raise BackupFailed(
            f"{file} exists already: a backup replaces nothing. Name a new file."
        ) from None
    url = make_url(database_url)
    try:
        with TemporaryDirectory(dir=file.parent, prefix=".billing-backup-") as directory:
            part = Path(directory) / "part"
            part.touch(0o600)
            if url.get_backend_name() == "sqlite":
                _copy(Path(str(url.database)), part, bars)
            else:
                _dump(url, part, bars)
            part.replace(file)
    except BaseException:  # SIGTERM among them
        file.unlink()
        raise


def _copy(database: Path, part: Path, bars: Progress) -> None:
    task = bars.add_task("Backing up", total=None)
    try:
        with (
            closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as source,
            closing(sqlite3.connect(part)) as copy,
        ):
            # One snapshot for all steps: else each write of another process begins the copy anew.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master")
            source.backup(
                copy,
                pages=_PAGES,
                progress=lambda _, left, total: bars.update(
                    task, total=total, completed=total - left
                ),
            )
            copy.execute("PRAGMA journal_mode=DELETE")  # nothing beside the file
            bars.update(task, description="Checking", total=None)
            found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise BackupFailed(f"The database cannot be copied: {error}") from error
    if found != "ok":
        raise BackupFailed(f"The database is damaged: {found}")


def _dump(url: URL, part: Path, bars: Progress) -> None:
    program = shutil.which("pg_dump")
    if program is None:
        raise BackupFailed("There is no pg_dump on PATH: install PostgreSQL's client programs.")
    bars.add_task("Backing up", total=None)
    done = subprocess.run(  # noqa: S603  (of the operator, as pg_dump itself)
        [program, "--format=custom", "--no-password", f"--file={part}"],
        check=False,
        env=os.environ | server_environment(url) | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    complaint = done.stderr.decode(errors="replace")
    if mismatch := _MISMATCH.search(complaint):
        server, client = mismatch.groups()
        raise BackupFailed(
            f"The server is PostgreSQL {server} and pg_dump {client}: put a pg_dump of version"
            f" {server.partition('.')[0]} or newer first on PATH."
        )
    if done.returncode:
        raise BackupFailed(complaint or f"pg_dump ended with exit code {done.returncode}.")


def server_environment(url: URL) -> Mapping[str, str]:
    """Where it is, as PostgreSQL's programs read it; others see their arguments."""
    dialect = url.set(drivername="postgresql+asyncpg").get_dialect()()
    _, options = dialect.create_connect_args(url)
    return {
        f"PG{'SSLMODE' if name == 'ssl' else name.upper()}": (
            ",".join(map(str, value)) if isinstance(value, list) else str(value)
        )
        for name, value in options.items()
    }
