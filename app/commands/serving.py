"""`billing serve`, and the schema of what it serves."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from app import demo, process
from app.commands.shared import migrated
from app.config import Environment, load_settings
from app.database import PROMPT


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
        async with migrated(settings, PROMPT) as database:
            process.check_free(host, port)
            if demo_users and settings.environment == Environment.DEVELOPMENT:
                typer.echo(await demo.invitation(settings, database, f"http://{host}:{port}"))

    asyncio.run(prepare())
    if settings.smtp_url is None:
        typer.echo("BILLING_SMTP_URL is not set: alerts by e-mail wait in the outbox.", err=True)
    process.serve(settings, host, port, workers, drain, demo_users)


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
