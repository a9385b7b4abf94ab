"""POST and GET /graphql: GraphQL over HTTP, with a viewer and a fresh context for each request.

What is answered, and with which status, follows the draft of GraphQL over HTTP
(https://graphql.github.io/graphql-over-http/draft/).
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import orjson
from cross_web import AsyncHTTPRequestAdapter, HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.http.base import BaseRequestProtocol
from strawberry.http.parse_content_type import parse_content_type
from strawberry.schema.exceptions import InvalidOperationTypeError
from strawberry.types import ExecutionResult

from app.billing.errors import Unauthenticated
from app.config import Environment, Settings
from app.database import Database
from app.logs import request_id
from app.rate_limit import RateLimiter
from app.server.answers import GRAPHQL_JSON, JSON, answer, explained, refusal
from app.server.door import Doorkeeper
from schema import schema
from schema.context import Context

MAX_BODY = 2 * 1024 * 1024
"""In bytes: a thousand events with descriptions of a thousand characters each fit."""
BODY_SECONDS = 30
"""How long a client may take to send its request."""
_TOO_LARGE = f"A request has at most {MAX_BODY:,} bytes."
_REFUSED = {"code": "BAD_USER_INPUT"}
_MEMBERS = (
    ("query", str, "a string"),
    ("variables", dict, "an object"),
    ("operationName", str, "a string"),
    ("extensions", dict, "an object"),
)


class BoundedRequest(Request):
    """A request whose body ends, in size and in time."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        received = 0
        told = self.headers.get("content-length", "")
        if told.isdecimal() and int(told[:20]) > MAX_BODY:
            raise HTTPException(413, _TOO_LARGE)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in super().stream():
                    received += len(chunk)
                    if received > MAX_BODY:
                        raise HTTPException(413, _TOO_LARGE)
                    yield chunk
        except TimeoutError:
            raise HTTPException(408, f"A request arrives within {BODY_SECONDS} seconds.") from None


def _accepted(request: HTTPConnection) -> str:
    """The media type of the answer: of the two there are, the one that is liked best."""
    liked = dict[str, float]()
    for part in request.headers.get("accept", "").split(","):
        name, *parameters = [text.strip().lower() for text in part.split(";")]
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        with suppress(ValueError):
            liked[name] = float(weight)
    graphql = liked.get(GRAPHQL_JSON, 0.0)
    stock = liked.get(JSON, liked.get("application/*", liked.get("*/*", 0.0)))
    return GRAPHQL_JSON if graphql > 0 and graphql >= stock else JSON


class GraphQLView(GraphQL[Context, None]):
    """Strawberry's view, where it does not do what the draft asks for."""

    def __init__(
        self, settings: Settings, database: Database, door: Doorkeeper, limiter: RateLimiter
    ) -> None:
        self._in_development = settings.environment == Environment.DEVELOPMENT
        super().__init__(schema, graphql_ide="graphiql" if self._in_development else None)
        self._database = database
        self._providers = settings.providers
        self._door = door
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = BoundedRequest(scope, receive)
        try:
            response = await self.run(request)
        except ClientDisconnect:
            return
        except HTTPException as error:
            is_change = isinstance(error.__cause__, InvalidOperationTypeError)
            status = 405 if is_change else error.status_code
            response = refusal(error.reason, _REFUSED, status, _accepted(request))
            if status == 405:
                response.headers["Allow"] = "POST"
        except Exception as error:
            response = explained(error, media_type=_accepted(request))
        await response(scope, receive, send)

    async def get_context(
        self, request: Request | WebSocket, response: Response | WebSocket
    ) -> Context:
        viewer = await self._door.viewer(request.headers.get("authorization"))
        if viewer is None and not self._in_development:
            raise Unauthenticated
        return Context(
            database=self._database,
            providers=self._providers,
            known_viewer=viewer,
            request_id=request_id(),
            shows_schema=self._in_development,
            limiter=self._limiter,
        )

    def should_render_graphql_ide(self, request: BaseRequestProtocol) -> bool:
        is_browser = "text/html" in request.headers.get("accept", "")
        return bool(self.graphql_ide) and is_browser and super().should_render_graphql_ide(request)

    async def parse_http_body(self, request: AsyncHTTPRequestAdapter) -> GraphQLRequestData:
        if request.method == "GET":
            data = self.parse_query_params(request.query_params)
        else:
            kind, parameters = parse_content_type(request.content_type or "")
            charset = str(parameters.get("charset", "utf-8")).lower()
            if kind.lower() != JSON or charset not in ("utf-8", "utf8"):
                raise HTTPException(415, f"Send {JSON} in UTF-8.")
            data = self.decode_json(await request.get_body())
        for name, python_type, json_type in _MEMBERS:
            if not isinstance(data.get(name), python_type | None):
                raise HTTPException(400, f"{name} must be {json_type} or null.")
        query, variables, operation_name, extensions = (data.get(name) for name, *_ in _MEMBERS)
        return GraphQLRequestData(query, variables, operation_name, extensions)

    def decode_json(self, data: str | bytes) -> dict[str, Any]:
        decoded = orjson.loads(data)
        if not isinstance(decoded, dict):
            raise HTTPException(400, "The request must be a JSON object: batches are not taken.")
        return decoded

    async def get_sub_response(self, request: Request | WebSocket) -> Response:
        return Response(media_type=_accepted(request))

    async def process_result(
        self, request: Request, result: ExecutionResult
    ) -> GraphQLHTTPResponse:
        response = await super().process_result(request, result)
        if result.data is None and not any(error.path for error in result.errors or ()):
            del response["data"]  # nothing was run
        return response

    def create_response(
        self,
        response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse],
        sub_response: Response,
    ) -> Response:
        [data] = [response_data] if isinstance(response_data, dict) else response_data
        return answer(data, sub_response.media_type or JSON)
