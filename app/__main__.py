"""The command line of the operator: `billing --help` lists the commands.

An expected failure is one line on stderr and exit code 1; a traceback is a bug.
"""

import sys

import typer
from sqlalchemy.exc import DBAPIError

from app.backup import BackupFailed
from app.billing.errors import BillingError, RequestError
from app.commands import cli
from app.commands.shared import Failure
from app.config import SettingsError
from app.copying import CopyFailed
from app.database import DatabaseUnavailable
from app.demo import NotEmpty
from app.distribution import CannotDistribute
from app.imports import WrongHeader
from app.revision import WrongRevision


def main() -> None:
    """Runs one command and ends the process with its exit code."""
    try:
        cli()
    except DatabaseUnavailable as error:
        cause = str(getattr(error.__cause__, "orig", None) or error.__cause__)
        if "unsupported startup parameter" in cause:
            cause += (
                ". If that is PgBouncer, it needs BILLING_DATABASE_POOLED=on, and"
                " BILLING_DIRECT_DATABASE_URL to lead past it."
            )
        _fail(f"The database cannot be reached: {cause}")
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except DBAPIError as error:
        _fail(f"The database refused: {error.orig}")
    except UnicodeEncodeError:
        _fail("An argument is not UTF-8.")
    except BillingError as error:
        _fail(error.message)
    except (
        BackupFailed,
        CannotDistribute,
        CopyFailed,
        Failure,
        NotEmpty,
        RequestError,
        SettingsError,
        WrongHeader,
        WrongRevision,
    ) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    typer.echo(f"billing: {' '.join(message.split())}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
