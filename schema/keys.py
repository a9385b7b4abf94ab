"""Fields that are loaded by key: which loader answers them, and the attributes that are its key."""

from operator import attrgetter
from typing import Any, NamedTuple

import strawberry

from schema.context import Info


class Key(NamedTuple):
    """Where a field finds its value; planned execution loads it for all rows at once."""

    loader: str
    attributes: tuple[str, ...]


def by_key(kind: Any, loader: str, *attributes: str, description: str) -> Any:
    """A field of this type that the loader answers; null where an attribute of its key is None."""
    read = attrgetter(*attributes)
    is_composite = len(attributes) > 1

    def load(root: Any, info: Info) -> Any:
        key = read(root)
        if key is None or (is_composite and None in key):
            return None
        return getattr(info.context.load, loader).load(key)

    return strawberry.field(
        resolver=load,
        graphql_type=kind,
        description=description,
        metadata={"key": Key(loader, attributes)},
    )
