"""/graphql: GraphQL over HTTP and WebSocket, with a viewer and a fresh context for each operation.

What is answered, and with which status, follows the draft of GraphQL over HTTP
(https://graphql.github.io/graphql-over-http/draft/).
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple

import orjson
from graphql import GraphQLError, OperationType
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.types import ExecutionResult

from app.billing.errors import BadInput, RequestError, Unauthenticated
from app.billing.viewer import Viewer
from app.config import Environment, Settings
from app.database import Database
from app.logs import request_id
from app.rate_limit import RateLimiter
from app.server import pages
from app.server.answers import GRAPHQL_JSON, JSON, STATUS, answer, explained, refusal, shown
from app.server.door import Doorkeeper
from app.server.persisted import PersistedDocuments
from app.server.streams import EVENTS, EventStream, Socket
from schema import schema
from schema.context import Context
from schema.errors import rejected
from schema.validation import parse_document, select_operation

MAX_BODY = 2 * 1024 * 1024
"""In bytes: a thousand events with descriptions of a thousand characters each fit."""
BODY_SECONDS = 30
"""How long a client may take to send its request."""
_MAX_ACCEPT = 1000
_TOO_LARGE = f"A request has at most {MAX_BODY:,} bytes."
_REFUSED = {"code": "BAD_USER_INPUT"}
_STATUS = {**STATUS, "BAD_USER_INPUT": 400, "PERSISTED_QUERY_NOT_FOUND": 200}
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


class _Accepted(NamedTuple):
    media_type: str
    """Of the two for one answer, the one that is liked best."""
    takes_events: bool
    prefers_events: bool

    def in_events(self, kind: OperationType | None) -> bool:
        """Whether the results go out as events: a subscription has no other way over HTTP."""
        return self.prefers_events or (self.takes_events and kind is OperationType.SUBSCRIPTION)


@lru_cache(256)
def _accepted(accept: str) -> _Accepted:
    liked = dict[str, float]()
    for part in accept.split(","):
        name, *parameters = [text.strip().lower() for text in part.split(";")]
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        with suppress(ValueError):
            liked[name] = float(weight)
    graphql = liked.get(GRAPHQL_JSON, 0.0)
    stock = liked.get(JSON, liked.get("application/*", liked.get("*/*", 0.0)))
    events = liked.get(EVENTS, 0.0)
    media_type = GRAPHQL_JSON if graphql > 0 and graphql >= stock else JSON
    return _Accepted(media_type, events > 0, events > max(graphql, stock))


class GraphQLView:
    """The endpoint: an ASGI application."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        door: Doorkeeper,
        limiter: RateLimiter,
        documents: PersistedDocuments,
    ) -> None:
        self._in_development = settings.environment == Environment.DEVELOPMENT
        self._database = database
        self._providers = settings.providers
        self._door = door
        self._limiter = limiter
        self._documents = documents

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = BoundedRequest(scope, receive)
        accepted = _accepted(request.headers.get("accept", "")[:_MAX_ACCEPT])
        media_type = accepted.media_type
        try:
            response = await self._respond(request, accepted)
        except ClientDisconnect:
            return
        except HTTPException as error:
            response = refusal(error.detail, _REFUSED, error.status_code, media_type)
            response.headers.update(error.headers or {})
        except Exception as error:
            response = explained(error, _STATUS, media_type)
        await response(scope, receive, send)

    async def _respond(self, request: Request, accepted: _Accepted) -> Response:
        context = await self._context(request.headers.get("authorization"))
        if request.method not in ("GET", "POST"):  # Starlette adds HEAD, which must change nothing
            raise HTTPException(405, "Send GET or POST.", {"Allow": "GET, POST"})
        if self._in_development and _wants_page(request):
            return pages.graphiql()
        query, variables, operation_name = self._members(await _read(request))
        kind = _kind(query, operation_name)
        if request.method == "GET" and kind is OperationType.MUTATION:
            raise HTTPException(405, "Send a mutation by POST.", {"Allow": "POST"})
        if accepted.in_events(kind):
            return EventStream(schema.results(query, variables, context, operation_name))
        result = await schema.execute(
            query, variables, context_value=context, operation_name=operation_name
        )
        return answer(shown(result), accepted.media_type)

    def _members(self, asked: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None, str | None]:
        """The document that is asked for, its variables and the name of the operation to run."""
        for name, python_type, json_type in _MEMBERS:
            if not isinstance(asked.get(name), python_type | None):
                raise BadInput(f"{name} must be {json_type} or null.")
        query = self._documents.resolve_document(asked)
        return query, asked.get("variables"), asked.get("operationName")

    async def connect(self, websocket: WebSocket) -> None:
        """The same over WebSocket."""
        await Socket(websocket, self._results, self._viewer).serve()

    async def _results(
        self, asked: Any, authorization: str | None
    ) -> AsyncGenerator[ExecutionResult, None]:
        try:
            if not isinstance(asked, dict):
                raise BadInput("The payload must be a JSON object.")
            query, variables, operation_name = self._members(asked)
            context = await self._context(authorization)
        except Exception as error:
            yield rejected(error, request_id())
            return
        async with aclosing(schema.results(query, variables, context, operation_name)) as results:
            async for result in results:
                yield result

    async def _viewer(self, authorization: str | None) -> Viewer | None:
        viewer = await self._door.viewer(authorization)
        if viewer is None and not self._in_development:
            raise Unauthenticated
        return viewer

    async def _context(self, authorization: str | None) -> Context:
        return Context(
            database=self._database,
            providers=self._providers,
            known_viewer=await self._viewer(authorization),
            request_id=request_id(),
            shows_schema=self._in_development,
            limiter=self._limiter,
            ask_again=partial(self._viewer, authorization),
        )


def _wants_page(request: Request) -> bool:
    return (
        request.method == "GET"
        and not {"query", "documentId", "extensions"} & request.query_params.keys()
        and "text/html" in request.headers.get("accept", "")
    )


async def _read(request: Request) -> dict[str, Any]:
    """The members of a request, as they were sent."""
    if request.method == "GET":
        asked: dict[str, Any] = dict(request.query_params)
        for name in ("variables", "extensions"):
            if asked.get(name):
                asked[name] = _decoded(asked[name])
        return asked
    kind, *parameters = request.headers.get("content-type", "").lower().split(";")
    given = dict(text.split("=", 1) for text in parameters if "=" in text)
    names = {name.strip(" *"): value.strip(' "') for name, value in given.items()}
    if kind.strip() != JSON or names.get("charset", "utf-8") not in ("utf-8", "utf8"):
        raise HTTPException(415, f"Send {JSON} in UTF-8.")
    decoded = _decoded(await request.body())
    if not isinstance(decoded, dict):
        raise HTTPException(400, "The request must be a JSON object: batches are not taken.")
    return decoded


def _decoded(text: str | bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise HTTPException(400, "The request is no JSON.") from None


def _kind(query: str, operation_name: str | None) -> OperationType | None:
    """Of the operation; None where it cannot be told: what is wrong is told when it is run."""
    try:
        return select_operation(parse_document(query), operation_name).operation
    except (GraphQLError, RequestError):
        return None
