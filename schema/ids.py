"""Ids made of others, for client caches."""

from urllib.parse import quote

import strawberry


def joined_id(*parts: str | None) -> strawberry.ID:
    """The same for the same parts, and never for two others; None is left out."""
    return strawberry.ID("/".join(quote(part, safe="@:") for part in parts if part is not None))
