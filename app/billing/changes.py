"""Balances and transactions as they change: streams for those who may see them, checked anew each time."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, select

from app.billing.accounts import BalanceView, find_balance
from app.billing.errors import BadInput, Unavailable
from app.billing.models import transactions
from app.billing.types import is_among
from app.billing.viewer import Viewer, sees
from app.database import LAST_WAIT_SECONDS, Database
from app.feed import Watch
from app.statements import Statement

PACE_SECONDS = 0.25
"""Nothing is read more often for one stream: what changes meanwhile is seen together."""
LOOK_SECONDS = 10.0
"""So often a stream looks even if it has heard nothing: a hold may have run out, a role been taken."""
PAGE = 100
MAX_STREAMS = 100
"""Of one viewer, in one process."""

Look = Callable[[], Awaitable[Viewer]]
"""Who watches, with the roles held right now."""

_BY_ID = (
    select(transactions)
    .where(transactions.c.mandate_id == bindparam("mandate_id"), is_among(transactions.c.id, "ids"))
    .order_by(transactions.c.id)
)
_ADDED = Statement(_BY_ID)
_ADDED_OF_USER = Statement(_BY_ID.where(transactions.c.user_id == bindparam("only_user")))


async def balance_changes(
    database: Database, look: Look, mandate_id: str, user_id: str | None
) -> AsyncGenerator[BalanceView, None]:
    """The balance that `find_balance` finds, at once and whenever it has changed.

    It ends where the mandate is not, or no longer, the viewer's; errors are those of `find_balance`.
    Unavailable where the server is ending.
    """
    viewer = await _first_look(database, look)
    shown: BalanceView | None = None
    with database.feed.watch(mandate_id, viewer.user_id) as watch:
        while found := await find_balance(database, viewer, mandate_id, user_id):
            watch.narrow(found.user_id)
            if shown is None or replace(found, as_of=shown.as_of) != shown:
                yield found
                shown = found
            await _next(watch)
            viewer = await look()


async def added_transactions(
    database: Database, look: Look, mandate_id: str
) -> AsyncGenerator[Any, None]:
    """The transactions that are written from now on and that the viewer may see, each once.

    It ends where the mandate is not, or no longer, the viewer's. Unavailable where some may be missing,
    as for a client that is too slow, and where the server is ending.
    """
    viewer = await _first_look(database, look)
    with database.feed.watch(mandate_id, viewer.user_id) as watch:
        if not await database.feed.is_hearing(LAST_WAIT_SECONDS):
            watch.lose()
        while await sees(database, viewer, mandate_id):
            only_user = viewer.only_user(mandate_id)
            watch.narrow(only_user)
            if watch.is_behind:
                raise Unavailable(
                    "Some transactions may be missing: read them, and subscribe again."
                )
            if ids := watch.take(PAGE):
                for row in await _added(database, mandate_id, only_user, ids):
                    viewer = await look()
                    if not viewer.may_see(mandate_id):
                        return
                    if viewer.only_user(mandate_id) in (None, row.user_id):
                        yield row
            else:
                await _next(watch)
                viewer = await look()


async def _first_look(database: Database, look: Look) -> Viewer:
    viewer = await look()
    if database.feed.count(viewer.user_id) >= MAX_STREAMS:
        raise BadInput(f"You have {MAX_STREAMS} subscriptions here: end some of them first.")
    return viewer


async def _added(
    database: Database, mandate_id: str, only_user: str | None, ids: list[str]
) -> Sequence[Any]:
    statement = _ADDED if only_user is None else _ADDED_OF_USER
    return await statement.rows(database, mandate_id=mandate_id, only_user=only_user, ids=ids)


async def _next(watch: Watch) -> None:
    """Waits until there may be something new."""
    if not watch.is_over:
        await asyncio.sleep(PACE_SECONDS)
        await watch.wait(LOOK_SECONDS)
    if watch.is_over:
        raise Unavailable("The server is ending: subscribe again.")
