"""Commands for users and their tokens."""

from typing import Annotated, Any

import typer

from app.auth import is_active, issue_token
from app.billing import directory
from app.billing.enums import UserKind
from app.billing.viewer import OPERATOR
from app.commands.shared import Failure, migrated
from app.config import load_settings

_UserId = Annotated[str, typer.Argument(metavar="ID", help="The user's id, as in tokens.")]


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
    async with migrated(load_settings()) as database:
        await directory.upsert_user(database, OPERATOR, user_id, changes)
    typer.echo(f"User {user_id} is saved.")


async def user_erase(user_id: _UserId) -> None:
    """Blanks a user's names and e-mail address, in the audit trail too. It cannot be undone.

    Account, history and id stay: the ledger must add up.
    """
    async with migrated(load_settings()) as database:
        if not await directory.erase_user(database, OPERATOR, user_id):
            raise Failure(f"There is no user {user_id}.")
    typer.echo(f"Names and e-mail address of user {user_id} are erased.")


async def token(
    user_id: _UserId,
    ttl: Annotated[
        int, typer.Option(min=1, max=366 * 86_400, metavar="SECONDS", help="How long it is valid.")
    ] = 3600,
) -> None:
    """Prints a bearer token for a user, and nothing else."""
    settings = load_settings()
    async with migrated(settings) as database:
        if not await is_active(database, user_id):
            raise Failure(f"User {user_id} is unknown or disabled.")
    typer.echo(issue_token(settings, user_id, ttl))
