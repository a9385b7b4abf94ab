"""One execution of a plan: what it waits for, and what comes of it."""

from asyncio import CancelledError, Future, gather
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from typing import Any

from aiodataloader import DataLoader
from graphql import Executor
from graphql.execution.executor import CollectedErrors
from graphql.pyutils import Path

from schema.planning.columns import Plan, Rows, Values

Found = Callable[[Values], None]


class Run:
    """One execution of a plan, by which the rows are filled at once or in `finish`."""

    def __init__(self, executor: Executor[Any], path: Path, paths: Sequence[Path]) -> None:
        self.executor = executor
        self.path = path
        self.paths = paths
        self.late: list[tuple[dict[str, Any], str]] = []
        """Where the stock executor has left what is still to be awaited."""
        self._late: Future[Values] | None = None
        self._loads: list[tuple[DataLoader[Any, Any], Values, Values, Found]] = []

    def start(self, plan: Plan, items: Values) -> Rows:
        try:
            rows = plan.rows(self, items)
        except Exception:
            self.executor.track_async_work([row[name] for row, name in self.late])
            raise
        if self.late:
            self._late = gather(*(row[name] for row, name in self.late), return_exceptions=True)
        return rows

    @cached_property
    def stock(self) -> Executor[Any]:
        """The executor with errors of its own: they count only if the plan ends well."""
        executor = copy(self.executor)
        executor.collected_errors = CollectedErrors()
        return executor

    def load(self, loader: str, keys: Values, found: Found) -> None:
        """Asks for the keys; what is known already is found at once, the rest in `finish`."""
        load = getattr(self.executor.context_value.load, loader)
        futures = [load.load(key) for key in keys]
        if all(future.done() for future in futures):
            found([future.result() for future in futures])
        else:
            self._loads.append((load, keys, futures, found))

    @property
    def is_done(self) -> bool:
        return not self._loads and self._late is None

    async def finish(self) -> None:
        """Waits for what was asked for, and then for what that asks for, a round at a time."""
        late = self._late
        try:
            while self._loads:
                await self._round()
            answers = _unless_failed(await late) if late else []
        except CancelledError:
            if late:
                late.cancel()
            raise
        except Exception:
            if late:
                await late
            raise
        for (row, name), answer in zip(self.late, answers, strict=True):
            row[name] = answer

    async def _round(self) -> None:
        loads, self._loads = self._loads, []
        answers = [await gather(*futures, return_exceptions=True) for _, _, futures, _ in loads]
        for (load, keys, _, found), values in zip(loads, answers, strict=True):
            for key, value in zip(keys, values, strict=True):
                if isinstance(value, Exception):
                    load.prime(key, value)  # the stock executor need not ask for it again
            found(_unless_failed(values))

    def report(self) -> None:
        """Adds what went wrong in single fields to the errors of the operation."""
        if "stock" in vars(self):
            own, all_ = self.stock.collected_errors, self.executor.collected_errors
            if not all_.has_nulled_position(self.path):
                all_._errors.extend(own._errors)
                all_._error_positions.update(own._error_positions)


def _unless_failed(values: Values) -> Values:
    for value in values:
        if isinstance(value, BaseException):
            raise value
    return values
