"""How values of leaf types are written, many at once: what GraphQL and Strawberry do one by one."""

from collections.abc import Callable
from functools import cache
from types import NoneType
from typing import Any

from graphql import (
    GraphQLBoolean,
    GraphQLID,
    GraphQLInt,
    GraphQLLeafType,
    GraphQLString,
)
from strawberry.schema.schema_converter import CustomGraphQLEnumType

from schema.scalars import SCALARS


class Refused(Exception):
    """A value that no plan covers."""


@cache
def write_all(
    kind: GraphQLLeafType, is_required: bool
) -> Callable[[Any, list[Any]], list[Any]] | None:
    """What writes a list of values of this type; None where that is not known."""
    exact, write = _writing(kind)
    if not exact:
        return None
    allowed = exact if is_required else exact | {NoneType}

    def complete(_: Any, values: list[Any]) -> list[Any]:
        types = set(map(type, values))
        if not types <= allowed:
            raise Refused
        if write is None:
            return values
        if NoneType in types:
            return [None if value is None else write(value) for value in values]
        return list(map(write, values))

    return complete


def _writing(kind: GraphQLLeafType) -> tuple[set[type], Callable[[Any], Any] | None]:
    """Python types, and what writes their values: None where they are written as they are."""
    if isinstance(kind, CustomGraphQLEnumType):
        members: Any = kind.wrapped_cls
        names = {each: kind.coerce_output_value(each) for each in members}
        return {members, str} if issubclass(members, str) else {members}, names.__getitem__
    if kind in (GraphQLString, GraphQLID) or kind.coerce_output_value is str:
        return {str}, None
    if kind is GraphQLBoolean:
        return {bool}, None
    if kind is GraphQLInt:
        return {int}, kind.coerce_output_value  # it refuses what has more than 32 bits
    types = {each for each, scalar in SCALARS.items() if scalar.name == kind.name}
    return {each for each in types if isinstance(each, type)}, kind.coerce_output_value
