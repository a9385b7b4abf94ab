"""The server: GraphQL over HTTP and WebSocket, exports and pages over one database. The only package that imports the schema."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route, WebSocketRoute

from app.config import Environment, Settings, load_settings
from app.database import PROMPT, Database, DatabaseUnavailable
from app.dispatcher import dispatching
from app.export import ExportKind
from app.rate_limit import RateLimiter
from app.replica import following
from app.revision import check_revision
from app.server import pages
from app.server.answers import internal_error
from app.server.door import Doorkeeper
from app.server.exports import export
from app.server.metrics import metrics
from app.server.middleware import surround
from app.server.persisted import PersistedDocuments
from app.server.probes import Probes
from app.server.view import GraphQLView
from schema import schema

logger = logging.getLogger("billing.server")


def create_app(settings: Settings | None = None, demo: bool = False) -> Starlette:
    """The application; it starts on a database of the revision it needs, or on none.

    A worker that takes the place of another one while the database is away waits for it as the
    others do: until then it is not ready. In a `demo` one may sign in as the demo people.
    """
    settings = settings or load_settings()
    database = Database(
        settings.database_url,
        waits=PROMPT,
        direct_url=settings.direct_database_url,
    )
    limiter = RateLimiter(settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        async with database, following(database, settings.read_database_url, PROMPT), limiter:
            try:
                await check_revision(database)
            except DatabaseUnavailable:
                logger.warning("The database cannot be reached: the server is not ready yet.")
            async with dispatching(settings, database), database.hearing():
                yield {"end_streams": database.feed.end}

    door = Doorkeeper(settings, database)
    documents = PersistedDocuments(settings)
    view = GraphQLView(settings, database, door, limiter, documents)
    probes = Probes(database)
    routes: list[BaseRoute] = [
        Route("/graphql", view, methods=["GET", "POST"]),
        WebSocketRoute("/graphql", view.connect),
        Route("/livez", probes.livez, methods=["GET"]),
        Route("/readyz", probes.readyz, methods=["GET"]),
        Route("/", pages.dashboard, methods=["GET"]),
        pages.assets(pages.DASHBOARD, "dashboard"),
    ]
    if settings.environment == Environment.DEVELOPMENT:
        routes.append(pages.assets(pages.GRAPHIQL, "graphiql"))
        if demo:
            endpoint = partial(pages.demo_people, settings=settings, database=database)
            routes.append(Route("/demo/people", endpoint, methods=["GET"]))
    for kind in ExportKind:
        endpoint = partial(export, kind=kind, database=database, door=door)
        routes.append(Route(f"/export/{kind}.csv", endpoint, methods=["GET"]))
    if settings.metrics:
        routes.append(Route("/metrics", partial(metrics, database=database), methods=["GET"]))
    app = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={Exception: internal_error}
    )
    app.middleware_stack = surround(app, settings, database)
    return app


def create_demo_app() -> Starlette:
    """The application of `serve --demo`, for uvicorn to find by its name."""
    return create_app(demo=True)


def schema_text() -> str:
    """The schema in GraphQL's own language: what `schema.graphql` holds."""
    return schema.as_str() + "\n"
