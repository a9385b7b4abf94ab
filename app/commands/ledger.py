"""Commands for what is computed from the transactions."""

from typing import Annotated

import typer

from app.billing import directory, verify
from app.billing.roll_up import rebuild_roll_up
from app.billing.viewer import OPERATOR
from app.commands.shared import Failure, migrated, progress
from app.config import load_settings
from app.database import Database


async def verify_ledger() -> None:
    """Computes every stored figure again from the transactions, while others write."""
    async with migrated(load_settings()) as database:
        await prove(database)


async def prove(database: Database) -> None:
    """Says whether every mandate's figures follow from its transactions; Failure where one does not."""
    wrong = 0
    mandate_ids = await directory.mandate_ids(database)
    with progress() as bars:
        for mandate_id in bars.track(mandate_ids, description="Verifying"):
            async with database.snapshot() as connection:
                check = await verify.verify_ledger(connection, mandate_id)
            wrong += len(check.mismatches)
            for mismatch in check.mismatches:
                typer.echo(mismatch)
    if wrong:
        raise Failure(f"{wrong} figures do not follow from the transactions.")
    typer.echo(f"{len(mandate_ids)} mandates: every figure follows from the transactions.")


async def rebuild_rollups() -> None:
    """Computes again, from the transactions, the roll-up that statistics read, while others write.

    For when verify-ledger finds a daily cost that is wrong.
    """
    async with migrated(load_settings()) as database:
        mandate_ids = await directory.mandate_ids(database)
        with progress() as bars:
            task = bars.add_task("Rebuilding", total=len(mandate_ids))
            for place, mandate_id in enumerate(mandate_ids):
                async for done in rebuild_roll_up(database, mandate_id):
                    bars.update(task, completed=place + done)
    typer.echo(f"The roll-ups of {len(mandate_ids)} mandates are rebuilt.")


async def set_time_zone(
    mandate_id: Annotated[str, typer.Argument(metavar="MANDATE", help="The mandate's id.")],
    time_zone: Annotated[
        str, typer.Argument(metavar="ZONE", help="An IANA name, such as Europe/Zurich.")
    ],
) -> None:
    """Changes a mandate's time zone and counts its usage anew by its days.

    Its spends wait meanwhile; on SQLite every write does.
    """
    async with migrated(load_settings()) as database:
        with progress() as bars:
            task = bars.add_task("Rebuilding", total=1)
            await directory.set_time_zone(
                database,
                OPERATOR,
                mandate_id,
                time_zone,
                lambda done: bars.update(task, completed=done),
            )
    typer.echo(f"The days of mandate {mandate_id} are those of {time_zone}.")
