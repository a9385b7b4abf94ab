"""The commands of `billing`, in the order of its help, and a module for each noun."""

import asyncio
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

import typer

from app.commands import data, database, ledger, serving, users

_COMMANDS: dict[str, Callable[..., Any]] = {
    "serve": serving.serve,
    "migrate": database.upgrade,
    "distribute": database.distribute,
    "user-add": users.user_add,
    "user-erase": users.user_erase,
    "token": users.token,
    "seed-demo": data.seed_demo,
    "import-usage": data.import_usage,
    "export": data.write_export,
    "backup": database.back_up,
    "copy-from": database.copy_from,
    "verify-ledger": ledger.verify_ledger,
    "rebuild-rollups": ledger.rebuild_rollups,
    "set-time-zone": ledger.set_time_zone,
    "export-schema": serving.export_schema,
}

cli = typer.Typer(
    name="billing",
    help="Runs and looks after the billing system of a multi-tenant AI platform.\n\n"
    "Settings come from the environment: BILLING_DATABASE_URL names the database"
    " (sqlite:///billing.db unless set), BILLING_ENVIRONMENT=production asks for secrets of your own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _in_a_loop(work: Callable[..., Any]) -> Callable[..., None]:
    @wraps(work)
    def run(*arguments: Any, **options: Any) -> None:
        asyncio.run(work(*arguments, **options))

    return run


for _name, _work in _COMMANDS.items():
    cli.command(_name)(_in_a_loop(_work) if iscoroutinefunction(_work) else _work)
