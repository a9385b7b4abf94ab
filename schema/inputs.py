"""Inputs as the domain takes them: only what was given, so that "left out" is not "null"."""

from typing import Annotated, Any

import strawberry
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
