"""What every request gets, whatever answers it: an id, the headers of security, a line in the log, a time.

It stands outside of all else, so that no answer passes it by. Plain ASGI: Starlette's
BaseHTTPMiddleware runs requests in tasks of their own, which leak what they hold when a client leaves.
"""

import asyncio
import logging
import os
import re
from collections.abc import Collection
from time import perf_counter

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.billing.errors import Unavailable
from app.config import Environment, Settings
from app.database import Database, request_begun
from app.metrics import REQUESTS
from app.server import pages
from app.server.answers import explained
from app.tracing import traced

UNMATCHED = "unmatched"
"""The route of all paths that there are none for."""
GONE = 499
"""The status, as proxies count it, of a client that left before the answer."""
_HEADER = "X-Request-Id"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")
_MAX_PATH = 200
_FOUND = (200, 206, 304)
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_CACHE, _POLICY = b"cache-control", b"content-security-policy"
_NOTHING = b"default-src 'none'; frame-ancestors 'none'"
"""What an answer that is no page may load."""
_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
_OURS = {name for name, _ in _ALWAYS} | {_CACHE, _POLICY, b"x-request-id"}

logger = logging.getLogger("billing.access")


class RequestMiddleware:
    """Wraps the whole application."""

    def __init__(
        self, app: ASGIApp, routes: Collection[str], mounts: Collection[str], in_production: bool
    ) -> None:
        self._app = app
        self._routes = frozenset(routes)
        self._mounts = mounts
        self._in_production = in_production

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        request_id = _request_id(scope)
        if scope["type"] == "websocket":
            with logs.request(request_id):
                try:
                    await self._app(scope, receive, send)
                finally:
                    told = {"path": scope["path"][:_MAX_PATH], "duration_ms": _ms(begun)}
                    logger.info("websocket", extra=told)
            return
        route = self._route(scope["path"])
        status, size = GONE, 0

        async def send_marked(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(scope, route, message, request_id)
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        request_begun.set(asyncio.get_running_loop().time())
        with logs.request(request_id):
            try:
                await self._app(scope, receive, send_marked)
            except asyncio.CancelledError:
                if status != GONE:
                    raise
                refused = Unavailable("The server is ending: send the request again.")
                await explained(refused)(scope, receive, send_marked)
            except Exception:
                if status == GONE:  # nothing was answered: the server does it, and logs the rest
                    status = 500
                    raise
            finally:
                REQUESTS.labels(route, str(status)).observe(perf_counter() - begun)
                told = {
                    "method": scope["method"],
                    "path": scope["path"][:_MAX_PATH],
                    "status": status,
                    "duration_ms": _ms(begun),
                    "bytes": size,
                }
                logger.info("request", extra=told)

    def _route(self, path: str) -> str:
        if path in self._routes:
            return path
        return next((mount for mount in self._mounts if path.startswith(f"{mount}/")), UNMATCHED)

    def _add_headers(self, scope: Scope, route: str, message: Message, request_id: str) -> None:
        headers = [header for header in message.get("headers", ()) if header[0] not in _OURS]
        is_asset = route in self._mounts and message["status"] in _FOUND
        is_page = any(
            name == b"content-type" and value.startswith(b"text/html") for name, value in headers
        )
        headers += _ALWAYS
        headers.append((b"x-request-id", request_id.encode()))
        headers.append(
            (_CACHE, b"public, max-age=31536000, immutable" if is_asset else b"no-store")
        )
        policy = pages.POLICIES.get(route, _NOTHING) if is_asset or is_page else _NOTHING
        headers.append((_POLICY, policy))
        if self._in_production and scope["scheme"] == "https":
            headers.append(_TRANSPORT)
        message["headers"] = headers


def surround(app: Starlette, settings: Settings, database: Database) -> ASGIApp:
    """The whole application, from the inside out: CORS, traces, and what every answer gets."""
    stack = app.build_middleware_stack()
    if settings.cors_origins:
        stack = CORSMiddleware(
            stack,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", _HEADER],
            expose_headers=[_HEADER, "Retry-After"],
        )
    if settings.tracing:
        stack = traced(stack, database.engines.values())
    routes = {route.path for route in app.routes if isinstance(route, Route)}
    mounts = {route.path for route in app.routes if isinstance(route, Mount)}
    in_production = settings.environment == Environment.PRODUCTION
    return RequestMiddleware(stack, routes, mounts, in_production)


def _ms(begun: float) -> float:
    return round((perf_counter() - begun) * 1000, 2)


def _request_id(scope: Scope) -> str:
    """The client's, if it is fit for a log and a header; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return os.urandom(16).hex()
