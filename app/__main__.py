"""The command line of the operator: `billing --help` lists the commands.

An expected failure is one line on stderr and exit code 1; a traceback is a bug.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from app import backup, demo, export, imports, migrate, parameters, process, revision
from app.auth import is_active, issue_token
from app.billing import directory, verify
from app.billing.enums import UserKind
from app.billing.errors import BillingError, RequestError
from app.billing.roll_up import rebuild_roll_up
from app.billing.viewer import OPERATOR
from app.config import Environment, Settings, SettingsError, load_settings
from app.database import PATIENT, PROMPT, Database, DatabaseUnavailable, Waits

cli = typer.Typer(
    name="billing",
    help="Runs and looks after the billing system of a multi-tenant AI platform.\n\n"
    "Settings come from the environment: BILLING_DATABASE_URL names the database"
    " (sqlite:///billing.db unless set), BILLING_ENVIRONMENT=production asks for secrets of your own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_Work = Callable[..., Coroutine[Any, Any, None]]
_UserId = Annotated[str, typer.Argument(metavar="ID", help="The user's id, as in tokens.")]


class _Failure(Exception):
    """The command cannot do what was asked; the message is all there is to say."""


def main() -> None:
    """Runs one command and ends the process with its exit code."""
    try:
        cli()
    except DatabaseUnavailable as error:
        cause = getattr(error.__cause__, "orig", None) or error.__cause__
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
        _Failure,
        backup.BackupFailed,
        RequestError,
        SettingsError,
        revision.WrongRevision,
        demo.NotEmpty,
        imports.WrongHeader,
    ) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    typer.echo(f"billing: {' '.join(message.split())}", err=True)
    sys.exit(1)


def _command(name: str | None = None) -> Callable[[_Work], _Work]:
    """Makes a coroutine function a command of the same name."""

    def register(work: _Work) -> _Work:
        @cli.command(name)
        @wraps(work)
        def run(*arguments: Any, **options: Any) -> None:
            asyncio.run(work(*arguments, **options))

        return work

    return register


@asynccontextmanager
async def _migrated(settings: Settings, waits: Waits = PATIENT) -> AsyncIterator[Database]:
    """The database, at the revision this program needs."""
    _check_there(settings)
    async with Database(settings.database_url, waits=waits) as database:
        await revision.check_revision(database)
        yield database


def _check_there(settings: Settings) -> None:
    """To connect to SQLite would create an empty database, wherever the command happens to run."""
    url = make_url(settings.database_url)
    file = Path(str(url.database)).absolute()
    if url.get_backend_name() == "sqlite" and not file.exists():
        way = "run `billing migrate` to create it, or set BILLING_DATABASE_URL"
        raise _Failure(f"There is no database {file}: {way}.")


@contextmanager
def _progress() -> Iterator[Progress]:
    """Shows how far long work is, on a terminal only."""
    is_terminal = sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=not is_terminal) as bars:
        yield bars


@cli.command()
def serve(
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 for every one.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="How many processes serve.")] = 1,
    drain: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="How long to go on serving after SIGTERM, while /readyz says 503; Ctrl-C skips it.",
        ),
    ] = 5,
    demo_users: Annotated[
        bool, typer.Option("--demo", help="Print tokens of demo users; pages sign in as them.")
    ] = False,
) -> None:
    """Serves the GraphQL API and the pages. The database must be migrated."""
    settings = load_settings(workers)
    if settings.trusted_documents:
        from app.server.persisted import load_trusted  # noqa: PLC0415  (as export-schema)

        load_trusted(settings)  # a worker that finds a fault is started again for ever

    async def prepare() -> None:
        async with _migrated(settings, PROMPT) as database:
            process.check_free(host, port)
            if demo_users and settings.environment == Environment.DEVELOPMENT:
                typer.echo(await demo.invitation(settings, database, f"http://{host}:{port}"))

    asyncio.run(prepare())
    if settings.smtp_url is None:
        typer.echo("BILLING_SMTP_URL is not set: alerts by e-mail wait in the outbox.", err=True)
    process.serve(settings, host, port, workers, drain, demo_users)


@_command("migrate")
async def upgrade() -> None:
    """Creates the tables, or brings them to the revision that this version needs."""
    async with Database(load_settings().database_url) as database:
        await migrate.migrate(database)
    typer.echo(f"The database is at revision {revision.revision_needed()}.")


@_command()
async def user_add(
    user_id: _UserId,
    email: Annotated[str | None, typer.Option(help="E-mail address.")] = None,
    first_name: Annotated[str | None, typer.Option(help="First name.")] = None,
    last_name: Annotated[str | None, typer.Option(help="Last name.")] = None,
    sysadmin: Annotated[
        bool | None, typer.Option("--sysadmin/--no-sysadmin", help="Sees and may do everything.")
    ] = None,
    service: Annotated[
        bool | None,
        typer.Option("--service/--human", help="A service, such as the AI gateway."),
    ] = None,
) -> None:
    """Adds a user, or changes what is given of one; what is left out stays as it is."""
    given: dict[str, Any] = {
        "email": email,
        "first_name": first_name,
        "last_name": last_name,
        "is_sys_admin": sysadmin,
        "kind": None if service is None else UserKind.SERVICE if service else UserKind.HUMAN,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    async with _migrated(load_settings()) as database:
        await directory.upsert_user(database, OPERATOR, user_id, changes)
    typer.echo(f"User {user_id} is saved.")


@_command()
async def user_erase(user_id: _UserId) -> None:
    """Blanks a user's names and e-mail address, in the audit trail too. It cannot be undone.

    Account, history and id stay: the ledger must add up.
    """
    async with _migrated(load_settings()) as database:
        if not await directory.erase_user(database, OPERATOR, user_id):
            raise _Failure(f"There is no user {user_id}.")
    typer.echo(f"Names and e-mail address of user {user_id} are erased.")


@_command()
async def token(
    user_id: _UserId,
    ttl: Annotated[
        int, typer.Option(min=1, max=366 * 86_400, metavar="SECONDS", help="How long it is valid.")
    ] = 3600,
) -> None:
    """Prints a bearer token for a user, and nothing else."""
    settings = load_settings()
    async with _migrated(settings) as database:
        if not await is_active(database, user_id):
            raise _Failure(f"User {user_id} is unknown or disabled.")
    typer.echo(issue_token(settings, user_id, ttl))


@_command()
async def seed_demo(
    if_empty: Annotated[
        bool, typer.Option("--if-empty", help="Do nothing where there are mandates already.")
    ] = False,
) -> None:
    """Fills an empty database with five mandates and a year of usage. For development alone."""
    settings = load_settings()
    if settings.environment == Environment.PRODUCTION:
        if not if_empty:
            raise _Failure("Demo data has no place in production.")
        return
    try:
        async with _migrated(settings) as database:
            with _progress() as bars:
                task = bars.add_task("Booking demo usage", total=None)
                booked = await demo.seed_demo(
                    database,
                    datetime.now(UTC),
                    advance=lambda done, total: bars.update(task, completed=done, total=total),
                )
    except demo.NotEmpty:
        if not if_empty:
            raise
        typer.echo("The database has mandates already: no demo data is added.")
    else:
        typer.echo(f"Five mandates with {booked:,} usage events are booked.")


@_command()
async def import_usage(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV file in UTF-8.")],
    create_missing: Annotated[
        bool,
        typer.Option(
            "--create-missing",
            help="Create mandates (in CHF and UTC), users and memberships that the file names.",
        ),
    ] = False,
) -> None:
    """Books the usage events of a CSV file that are not booked yet, however old they are."""
    settings = load_settings()
    async with _migrated(settings) as database:
        with (
            _progress() as bars,
            bars.open(
                file,
                "r",
                encoding="utf-8-sig",
                errors="surrogateescape",  # so that one bad row is one rejected row
                newline="",
                description="Importing",
            ) as lines,
        ):
            report = await imports.import_usage(
                database, lines, settings.providers, create_missing=create_missing
            )
    typer.echo(report.summary)
    for complaint in report.complaints:
        typer.echo(complaint, err=True)
    if report.complaints:
        raise typer.Exit(1)


@_command("export")
async def write_export(
    kind: Annotated[export.ExportKind, typer.Argument(help="What to export.")],
    mandate_id: Annotated[str, typer.Argument(metavar="MANDATE", help="The mandate's id.")],
    given: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help=export.HELP)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write, else stdout.")] = None,
) -> None:
    """Writes transactions or usage of a mandate as CSV. A file is replaced only by a whole one.

    For example: billing export usage acme from=2026-01-01 to=2027-01-01 granularity=MONTH
    """
    asked = [("mandateId", mandate_id), *parameters.split(given or ())]
    async with _migrated(load_settings()) as database:
        wanted = await export.open_export(database, OPERATOR, kind, asked)
        if output is None:
            async for chunk in wanted.chunks():
                typer.echo(chunk, nl=False)
        else:
            with _progress() as bars:
                await wanted.save(output, bars)
            typer.echo(f"{wanted.written:,} rows are in {output}.")


@cli.command("backup")
def back_up(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
) -> None:
    """Writes the whole database into one new file, while others write."""
    settings = load_settings()
    _check_there(settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else what is half done would stay
    with _progress() as bars:
        backup.back_up(settings.database_url, file, bars)
    typer.echo(f"The database is in {file}.")


@_command()
async def verify_ledger() -> None:
    """Computes every stored figure again from the transactions, while others write."""
    wrong = 0
    async with _migrated(load_settings()) as database:
        mandate_ids = await directory.mandate_ids(database)
        with _progress() as bars:
            for mandate_id in bars.track(mandate_ids, description="Verifying"):
                async with database.snapshot() as connection:
                    check = await verify.verify_ledger(connection, mandate_id)
                wrong += len(check.mismatches)
                for mismatch in check.mismatches:
                    typer.echo(mismatch)
    if wrong:
        raise _Failure(f"{wrong} figures do not follow from the transactions.")
    typer.echo(f"{len(mandate_ids)} mandates: every figure follows from the transactions.")


@_command()
async def rebuild_rollups() -> None:
    """Computes again, from the transactions, the roll-up that statistics read, while others write.

    For when verify-ledger finds a daily cost that is wrong.
    """
    async with _migrated(load_settings()) as database:
        mandate_ids = await directory.mandate_ids(database)
        with _progress() as bars:
            task = bars.add_task("Rebuilding", total=len(mandate_ids))
            for place, mandate_id in enumerate(mandate_ids):
                async for done in rebuild_roll_up(database, mandate_id):
                    bars.update(task, completed=place + done)
    typer.echo(f"The roll-ups of {len(mandate_ids)} mandates are rebuilt.")


@_command()
async def set_time_zone(
    mandate_id: Annotated[str, typer.Argument(metavar="MANDATE", help="The mandate's id.")],
    time_zone: Annotated[
        str, typer.Argument(metavar="ZONE", help="An IANA name, such as Europe/Zurich.")
    ],
) -> None:
    """Changes a mandate's time zone and counts its usage anew by its days.

    Its spends wait meanwhile; on SQLite every write does.
    """
    async with _migrated(load_settings()) as database:
        with _progress() as bars:
            task = bars.add_task("Rebuilding", total=1)
            await directory.set_time_zone(
                database,
                OPERATOR,
                mandate_id,
                time_zone,
                lambda done: bars.update(task, completed=done),
            )
    typer.echo(f"The days of mandate {mandate_id} are those of {time_zone}.")


@cli.command()
def export_schema(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to write it, else to stdout.")
    ] = None,
) -> None:
    """Prints the GraphQL schema in its own language, for clients to generate types from."""
    from app.server import schema_text  # noqa: PLC0415  (no other command needs GraphQL)

    if file is None:
        typer.echo(schema_text(), nl=False)
    else:
        file.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
