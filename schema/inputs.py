"""Inputs as the domain takes them: only what was given, so that "left out" is not "null"."""

from collections.abc import Mapping
from dataclasses import MISSING
from typing import Annotated, Any

import strawberry
from graphql import GraphQLInputObjectType, get_nullable_type, is_leaf_type
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types import has_object_definition

MandateId = Annotated[
    strawberry.ID,
    strawberry.argument(
        description="Id of the mandate. One that does not exist, or is not the viewer's, answers null."
    ),
]
BalanceOwner = Annotated[
    strawberry.ID | None,
    strawberry.argument(
        description="Whose, under PREPAY_USER; the viewer's own when left out. Members may name themselves alone."
    ),
]


def given(source: Any, *without: str) -> dict[str, Any]:
    """The fields of an input that were given (none where it was left out), nested inputs included, under their snake case names."""
    return {
        name: given(value) if has_object_definition(value) else value
        for name, value in (vars(source) if source else {}).items()
        if value is not strawberry.UNSET and name not in without
    }


def build_plainly(kind: GraphQLInputObjectType) -> None:
    """Builds an input of scalars alone from what graphql-core has read, as it is.

    Strawberry looks at each field of each object anew: for a batch that takes longer than to book it.
    """
    if not all(is_leaf_type(get_nullable_type(field.type)) for field in kind.fields.values()):
        return
    definition = kind.extensions[GraphQLCoreConverter.DEFINITION_BACKREF]
    fields = {
        name: field.extensions[GraphQLCoreConverter.DEFINITION_BACKREF]
        for name, field in kind.fields.items()
    }
    names = {name: field.python_name for name, field in fields.items()}
    absent = {
        field.python_name: None
        for field in fields.values()
        if field.default_value is MISSING and field.default_factory is MISSING
    }

    def build(input_type: type, value: Mapping[str, Any], _: object) -> Any:
        return input_type(**absent | {names[name]: each for name, each in value.items()})

    definition.from_input = build
