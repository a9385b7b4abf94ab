"""POST and GET /graphql: a request becomes a viewer and a fresh context, and errors JSON with a code."""

from typing import Any

import orjson
from cross_web import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.http import GraphQLHTTPResponse

from app.config import Environment, Settings
from app.database import Database
from app.logs import request_id
from app.server.door import Doorkeeper
from app.server.refusals import STATUS, explained, refusal
from schema import schema
from schema.context import Context


class GraphQLView(GraphQL[Context, None]):
    """Strawberry's view, where it does not do what GraphQL over HTTP asks for."""

    def __init__(self, settings: Settings, database: Database, door: Doorkeeper) -> None:
        in_development = settings.environment == Environment.DEVELOPMENT
        super().__init__(schema, graphql_ide="graphiql" if in_development else None)
        self._database = database
        self._providers = settings.providers
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self.run(request)
        except ClientDisconnect:
            return
        except HTTPException as error:
            extensions = {"code": "BAD_USER_INPUT"}
            response = refusal(error.reason, extensions, error.status_code)
        except Exception as error:
            response = explained(error, STATUS)
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    async def get_context(
        self, request: Request | WebSocket, response: Response | WebSocket
    ) -> Context:
        return Context(
            database=self._database,
            providers=self._providers,
            known_viewer=await self._door.viewer(request.headers.get("authorization")),
            request_id=request_id(),
        )

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
            response.status_code = next((STATUS[c] for c in STATUS if c in codes), 200)
        return response


def _code(error: Any) -> str | None:
    return (error.get("extensions") or {}).get("code")
