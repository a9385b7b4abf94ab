"""What every field of Query and Mutation does before its resolver: it asks who is asking, and counts the call."""

from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import isawaitable
from typing import Any

from graphql import GraphQLObjectType

Resolve = Callable[..., Any]


def guard(*roots: GraphQLObjectType | None) -> None:
    """Puts the guard before each field of these types: no field can be added without it."""
    for root in roots:
        for name, field in root.fields.items() if root else ():
            if field.resolve:
                field.resolve = _guarded(name, field.resolve)


def _guarded(name: str, resolve: Resolve) -> Callable[..., Awaitable[Any]]:
    @wraps(resolve)
    async def resolve_guarded(source: Any, info: Any, **arguments: Any) -> Any:
        is_write = info.parent_type is info.schema.mutation_type
        await info.context.limiter.admit(info.context.viewer, name, is_write=is_write)
        result = resolve(source, info, **arguments)
        return await result if isawaitable(result) else result

    return resolve_guarded
