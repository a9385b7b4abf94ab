"""One loader per kind of row and key: whatever a request asks for by key is read in one SELECT."""

from asyncio import Future
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

from aiodataloader import DataLoader
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.accounts import accounts_by_id, balances_by_user, visible_balances
from app.billing.directory import mandates_by_id, users_by_id
from app.billing.holds import HoldKey, holds_by_id
from app.billing.limits import Spender, spend_limits
from app.billing.statistics import BalanceKey, paces
from app.billing.transactions import (
    balances_at,
    reversals_by_id,
    settlements_by_hold,
    transactions_by_id,
)
from app.billing.viewer import Viewer
from app.database import Database

K = TypeVar("K")
Read = Callable[[Database, list[K]], Awaitable[list[Any]]]


class Loader(DataLoader[K, Any]):
    """A DataLoader that knows some answers beforehand."""

    def __init__(self, read: Callable[[list[K]], Coroutine[Any, Any, list[Any]]]) -> None:
        super().__init__(read)
        self.known: dict[K, Any] = {}
        """By key: looked at one by one only where they are asked for so."""

    def load(self, key: K) -> Future[Any]:
        if key in self.known:
            self.prime(key, self.known.pop(key))
        return super().load(key)


def _on_one_connection(
    read: Callable[[AsyncConnection, list[K]], Awaitable[list[Any]]],
) -> Read[K]:
    async def read_on_one(database: Database, keys: list[K]) -> list[Any]:
        async with database.read() as connection:
            return await read(connection, keys)

    return read_on_one


class Loaders:
    """The loaders of one request; keys come from rows that the viewer may see, unless they say otherwise."""

    def __init__(self, database: Database, viewer: Viewer) -> None:
        self._database = database
        self._viewer = viewer

    def _loader(self, read: Read[K]) -> Loader[K]:
        async def batch(keys: list[K]) -> list[Any]:
            return await read(self._database, keys)

        return Loader(batch)

    @cached_property
    def user(self) -> Loader[str]:
        return self._loader(lambda database, ids: users_by_id(database, self._viewer, ids))

    @cached_property
    def mandate(self) -> Loader[str]:
        loader = self._loader(mandates_by_id)
        loader.known.update(self._viewer.mandates)
        return loader

    @cached_property
    def account(self) -> Loader[tuple[str, str]]:
        """By mandate id and account id."""
        return self._loader(accounts_by_id)

    @cached_property
    def balance(self) -> Loader[tuple[str, str | None]]:
        """By mandate id and user id."""
        return self._loader(balances_by_user)

    @cached_property
    def pace(self) -> Loader[BalanceKey]:
        """By mandate id and the user whose balance it is, None for the mandate's own."""
        return self._loader(_on_one_connection(paces))

    @cached_property
    def visible_balance(self) -> Loader[tuple[str, str | None]]:
        """By mandate id and user id, which anybody may have named."""
        return self._loader(lambda database, keys: visible_balances(database, self._viewer, keys))

    @cached_property
    def balance_at(self) -> Loader[tuple[str, str, datetime]]:
        """By mandate id, account id and instant."""
        return self._loader(balances_at)

    @cached_property
    def transaction(self) -> Loader[tuple[str, str]]:
        """By mandate id and transaction id."""
        return self._loader(transactions_by_id)

    @cached_property
    def reversal(self) -> Loader[tuple[str, str]]:
        """By mandate id and the id of the transaction that it reverses."""
        return self._loader(reversals_by_id)

    @cached_property
    def hold(self) -> Loader[HoldKey]:
        """By mandate id and hold id."""
        return self._loader(holds_by_id)

    @cached_property
    def settlement(self) -> Loader[HoldKey]:
        """By mandate id and the id of the hold that it settled."""
        return self._loader(settlements_by_hold)

    @cached_property
    def spend_limit(self) -> Loader[Spender]:
        """By mandate id and user id."""
        return self._loader(_on_one_connection(spend_limits))
