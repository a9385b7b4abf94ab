"""What every root field does before its resolver: who asks is known and counted, and the call is watched."""

from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import isawaitable
from typing import Any

from graphql import GraphQLObjectType

from app.logs import note_operation
from app.metrics import ROOT_FIELDS
from app.tracing import span

Resolve = Callable[..., Any]


def guard(*roots: GraphQLObjectType | None) -> None:
    """Puts the guard before each field of these types: no field can be added without it."""
    for root in roots:
        for name, field in root.fields.items() if root else ():
            if field.subscribe:
                field.subscribe = _guarded(name, field.subscribe)
            elif field.resolve:
                field.resolve = _guarded(name, field.resolve)


def _guarded(name: str, resolve: Resolve) -> Callable[..., Awaitable[Any]]:
    seconds = ROOT_FIELDS.labels(name)

    @wraps(resolve)
    async def resolve_guarded(source: Any, info: Any, **arguments: Any) -> Any:
        if info.operation.name:
            note_operation(info.operation.name.value)
        context, is_write = info.context, info.parent_type is info.schema.mutation_type
        await context.limiter.admit(context.viewer, name, is_write=is_write)
        with seconds.time(), span(name):
            result = resolve(source, info, **arguments)
            return await result if isawaitable(result) else result

    return resolve_guarded
