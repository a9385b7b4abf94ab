"""The HTTP server: one GraphQL endpoint over one database. The only module that imports the schema."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from cross_web import HTTPException
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.http import GraphQLHTTPResponse

from app.auth import Authenticator
from app.billing.errors import Unauthenticated
from app.billing.viewer import Viewer, load_viewer
from app.config import Environment, Settings, load_settings
from app.database import Database
from app.dispatcher import dispatching
from app.migrate import check_revision
from schema import schema
from schema.context import Context
from schema.errors import explain

_STATUS = {"UNAUTHENTICATED": 401, "UNAVAILABLE": 503}


class GraphQLView(GraphQL[Context, None]):
    """Turns a request into a viewer and a fresh context, and errors into JSON with a code."""

    def __init__(self, settings: Settings, database: Database) -> None:
        in_development = settings.environment == Environment.DEVELOPMENT
        super().__init__(schema, graphql_ide="graphiql" if in_development else None)
        self._database = database
        self._providers = settings.providers
        self._authenticator = Authenticator(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self.run(request)
        except ClientDisconnect:
            return
        except HTTPException as error:
            extensions = {"code": "BAD_USER_INPUT"}
            response = _refusal(error.reason, extensions, error.status_code)
        except Exception as error:
            message, extensions = explain(error, uuid.uuid4().hex)
            response = _refusal(message, extensions, _STATUS.get(extensions["code"], 500))
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    async def get_context(
        self, request: Request | WebSocket, response: Response | WebSocket
    ) -> Context:
        return Context(
            database=self._database,
            providers=self._providers,
            known_viewer=await self._viewer(request.headers.get("authorization")),
            request_id=uuid.uuid4().hex,
        )

    async def _viewer(self, authorization: str | None) -> Viewer | None:
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("Send a token as: Authorization: Bearer …")
        user_id = self._authenticator.subject(token.strip())
        async with self._database.read() as connection:
            return await load_viewer(connection, user_id)

    def decode_json(self, data: str | bytes) -> object:
        decoded = orjson.loads(data)
        if not isinstance(decoded, dict):
            raise HTTPException(400, "The request must be a JSON object.")
        name = decoded.get("operationName")
        if not isinstance(name, str | None):
            raise HTTPException(400, "operationName must be a string or null.")
        return decoded

    def encode_json(self, data: object) -> bytes:
        return orjson.dumps(data)

    def create_response(
        self,
        response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse],
        sub_response: Response,
    ) -> Response:
        response = super().create_response(response_data, sub_response)
        if isinstance(response_data, dict):
            codes = {_code(error) for error in response_data.get("errors") or ()}
            response.status_code = next((_STATUS[c] for c in _STATUS if c in codes), 200)
        return response


def _code(error: Any) -> str | None:
    return (error.get("extensions") or {}).get("code")


def _refusal(message: str, extensions: dict[str, str], status: int) -> Response:
    body = {"errors": [{"message": message, "extensions": extensions}]}
    return Response(orjson.dumps(body), status, media_type="application/json")


def create_app(settings: Settings | None = None) -> Starlette:
    """The application; it starts only on a database of the revision it needs."""
    settings = settings or load_settings()
    database = Database(settings.database_url)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with database:
            await check_revision(database)
            async with dispatching(settings, database):
                yield

    view = GraphQLView(settings, database)
    return Starlette(routes=[Route("/graphql", view, methods=["GET", "POST"])], lifespan=lifespan)


def schema_text() -> str:
    """The schema in GraphQL's own language: what `schema.graphql` holds."""
    return schema.as_str() + "\n"
