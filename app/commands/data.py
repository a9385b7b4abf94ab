"""Commands for what is brought into the ledger and taken out of it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app import demo, export, imports, parameters
from app.billing.viewer import OPERATOR
from app.commands.shared import Failure, migrated, progress
from app.config import Environment, load_settings


async def seed_demo(
    if_empty: Annotated[
        bool, typer.Option("--if-empty", help="Do nothing where there are mandates already.")
    ] = False,
) -> None:
    """Fills an empty database with five mandates and a year of usage. For development alone."""
    settings = load_settings()
    if settings.environment == Environment.PRODUCTION:
        if not if_empty:
            raise Failure("Demo data has no place in production.")
        return
    try:
        async with migrated(settings) as database:
            with progress() as bars:
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
    async with migrated(settings) as database:
        with (
            progress() as bars,
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
    async with migrated(load_settings()) as database:
        wanted = await export.open_export(database, OPERATOR, kind, asked)
        if output is None:
            async for chunk in wanted.chunks():
                typer.echo(chunk, nl=False)
        else:
            with progress() as bars:
                await wanted.save(output, bars)
            typer.echo(f"{wanted.written:,} rows are in {output}.")
