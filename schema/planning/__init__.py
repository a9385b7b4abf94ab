"""Planned execution: a list of objects is read column by column, not row by row and field by field.

For an object type and what an operation selects of it, a plan is made once and kept with the parsed
document. It reads each column of all rows at once, by what the field is:

- an attribute, or a method that takes nothing but the object: read, and written by its type;
- an object or a list of objects found so: its own selection, planned, over all of them together;
- a field that is loaded by key: each key is asked for once, and the selection is planned over what
  was found; rows of one key share one answer;
- any other field of the list's own rows: the stock executor's, row by row.

What is not plainly one of these is left to the stock executor, and so is a whole list as soon as
anything in its plan fails: errors and their paths are always the stock ones.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from operator import itemgetter
from types import NoneType
from typing import Any

from graphql import (
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
)
from graphql.pyutils import Path
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from schema.planning.columns import Details, Plan, Refused, Rows, check
from schema.planning.plans import Asked, Planner, Plans, Selecting, asked
from schema.planning.run import Run

__all__ = ["COUNTS", "Asked", "PlannedExecution", "asked"]

COUNTS: Counter[str] = Counter()
"""Plans that were made, taken, and given up for the stock executor."""


class PlannedExecution(StrawberryGraphQLCoreExecutionContext):
    """Strawberry's executor, but for the objects that it has a plan for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._refused: set[int] = set()
        """Selections of which a plan has failed here."""
        self._plans = Plans.of(self.operation)
        self._choice: tuple[Any, ...] | None = None
        """What decides what is selected; None where nothing is planned."""
        has_middleware = bool(getattr(self.middleware_manager, "middlewares", ()))
        if self._plans and not has_middleware and not self.abort_signal:
            fragments = self.fragment_definitions.values()
            variables = self.variable_values.coerced
            self._choice = self._plans.choice(self.operation, fragments, variables)

    def complete_iterable_value(
        self,
        item_type: GraphQLOutputType,
        field_details_list: Details,
        info: GraphQLResolveInfo[Any],
        path: Path,
        items: Iterable[Any],
        position_context: Any,
    ) -> Any:
        stock = partial(
            super().complete_iterable_value,
            item_type,
            field_details_list,
            info,
            path,
            items,
            position_context,
        )
        if (
            not isinstance(item_type, GraphQLNonNull)
            or not isinstance(items, list | tuple)
            or (plan := self._plan(item_type.of_type, field_details_list)) is None
        ):
            return stock()
        paths = [path.add_key(index, None) for index in range(len(items))] if plan.is_mixed else []
        return self._take(plan, list(items), path, paths, list, field_details_list, stock)

    def complete_object_value(
        self,
        return_type: GraphQLObjectType,
        field_details_list: Details,
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> Any:
        stock = partial(
            super().complete_object_value,
            return_type,
            field_details_list,
            info,
            path,
            result,
            position_context,
        )
        plan = self._plan(return_type, field_details_list)
        if plan is None:
            return stock()
        return self._take(plan, [result], path, [path], itemgetter(0), field_details_list, stock)

    def _plan(self, kind: GraphQLOutputType, details: Details) -> Plan | None:
        if (
            self._choice is None
            or self._plans is None
            or not isinstance(kind, GraphQLObjectType)
            or id(details) in self._refused
        ):
            return None
        key = (kind.name, self._choice, *(id(each.node) for each in details))
        if key not in self._plans.made:
            COUNTS["made"] += 1
            planner = Planner(
                Selecting(self.schema, self.fragments, self.variable_values, self.operation)
            )
            self._plans.keep(key, planner.plan(kind, details, is_own=True), planner.columns)
        return self._plans.made[key]

    def _take(
        self,
        plan: Plan,
        items: list[Any],
        path: Path,
        paths: list[Path],
        shape: Callable[[Rows], Any],
        details: Details,
        stock: Callable[[], Any],
    ) -> Any:
        COUNTS["taken"] += 1
        run = Run(self, path, paths)
        try:
            types = set(map(type, items))
            check(types)
            if NoneType in types:
                raise Refused
            rows = run.start(plan, items)
        except Exception:
            return self.give_up(details, path, stock)
        if run.is_done:
            run.report()
            return shape(rows)

        async def finish() -> Any:
            try:
                await run.finish()
            except Exception:
                completed = self.give_up(details, path, stock)
                return await completed if self.is_awaitable(completed) else completed
            run.report()
            return shape(rows)

        return finish()

    def give_up(self, details: Details, path: Path, stock: Callable[[], Any]) -> Any:
        """Leaves what a plan has failed for to the stock executor, which finds and tells why."""
        COUNTS["given up"] += 1
        self._refused.add(id(details))
        return stock()
