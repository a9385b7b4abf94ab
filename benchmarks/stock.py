"""The same schema as Strawberry serves it by itself: `python -m benchmarks.stock PORT`.

Types, resolvers, dataloaders and SQL are ours. What is stock: the executor
(StrawberryGraphQLCoreExecutionContext, which is graphql-core's) and Schema.execute, so that each
request is parsed and validated anew by the stock rules, and strawberry.asgi.GraphQL as it comes, but
with orjson, under the options of our own server and without our middleware.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MethodType

import orjson
import strawberry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from app.config import Settings, load_settings
from app.database import PROMPT, Database
from app.rate_limit import RateLimiter
from app.server.door import Doorkeeper
from benchmarks.serving import serve
from schema import schema
from schema.context import Context


class StockView(GraphQL[Context, None]):
    """Strawberry's own view, which is only told who asks."""

    def __init__(self, settings: Settings, database: Database, limiter: RateLimiter) -> None:
        super().__init__(schema, graphql_ide=None)
        self._providers = settings.providers
        self._database = database
        self._door = Doorkeeper(settings, database)
        self._limiter = limiter

    def encode_json(self, data: object) -> bytes:
        return orjson.dumps(data, option=orjson.OPT_UTC_Z)

    async def get_context(
        self, request: Request | WebSocket, response: Response | WebSocket
    ) -> Context:
        viewer = await self._door.viewer(request.headers.get("authorization"))
        return Context(self._database, self._providers, viewer, "stock", self._limiter)


def create_app() -> Starlette:
    """The application of this process, whose schema is stock from now on."""
    schema.execution_context_class = StrawberryGraphQLCoreExecutionContext
    vars(schema)["execute"] = MethodType(strawberry.Schema.execute, schema)
    settings = load_settings()
    database = Database(settings.database_url, waits=PROMPT)
    limiter = RateLimiter(settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with database, limiter:
            yield

    view = StockView(settings, database, limiter)
    return Starlette(routes=[Route("/graphql", view, methods=["POST"])], lifespan=lifespan)


if __name__ == "__main__":
    serve(create_app())
