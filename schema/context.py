"""What a resolver finds in `info.context`: who asks, and the loaders of this one request."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import strawberry

from app.billing.errors import Unauthenticated
from app.billing.viewer import Viewer
from app.database import Database, request_begun
from app.rate_limit import RateLimiter
from schema.loaders import Loaders


@dataclass
class Context:
    """Built anew for each request."""

    database: Database
    providers: Sequence[str]
    """The registered AI providers."""
    known_viewer: Viewer | None
    """None for a request without a token, which may only look at the schema itself."""
    request_id: str
    limiter: RateLimiter
    shows_schema: bool = True
    """Whether introspection and suggestions are on."""
    ask_again: Callable[[], Awaitable[Viewer | None]] | None = None
    """Who asks, read anew; None where nothing can be watched."""

    @property
    def viewer(self) -> Viewer:
        if self.known_viewer is None:
            raise Unauthenticated
        return self.known_viewer

    @cached_property
    def load(self) -> Loaders:
        return Loaders(self.database, self.viewer)

    async def look(self) -> Viewer:
        """The viewer as they are now: for each event of a stream, which is read anew."""
        request_begun.set(asyncio.get_running_loop().time())  # each event has all of its time
        self.known_viewer = await self.ask_again() if self.ask_again else None
        self.__dict__.pop("load", None)
        return self.viewer

    def forget(self) -> None:
        """Drops what was read before a change: a request may hold several, and shows what each made."""
        self.known_viewer = replace(self.viewer, mandates={})
        self.__dict__.pop("load", None)


Info = strawberry.Info[Context, None]
