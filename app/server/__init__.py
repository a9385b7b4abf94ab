"""The HTTP server: GraphQL and exports over one database. The only package that imports the schema."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.routing import Route

from app.config import Settings, load_settings
from app.database import PROMPT, Database
from app.dispatcher import dispatching
from app.export import ExportKind
from app.migrate import check_revision
from app.server.door import Doorkeeper
from app.server.exports import export
from app.server.view import GraphQLView
from schema import schema


def create_app(settings: Settings | None = None) -> Starlette:
    """The application; it starts only on a database of the revision it needs."""
    settings = settings or load_settings()
    database = Database(settings.database_url, waits=PROMPT)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with database:
            await check_revision(database)
            async with dispatching(settings, database):
                yield

    door = Doorkeeper(settings, database)
    view = GraphQLView(settings, database, door)
    routes = [Route("/graphql", view, methods=["GET", "POST"])]
    for kind in ExportKind:
        endpoint = partial(export, kind=kind, database=database, door=door)
        routes.append(Route(f"/export/{kind}.csv", endpoint, methods=["GET"]))
    return Starlette(routes=routes, lifespan=lifespan)


def schema_text() -> str:
    """The schema in GraphQL's own language: what `schema.graphql` holds."""
    return schema.as_str() + "\n"
