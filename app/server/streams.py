"""Subscriptions, and other operations beside them: over WebSocket, and as server-sent events.

The protocols are graphql-transport-ws (https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md)
and the distinct connections mode of graphql-sse
(https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md). Whoever takes what is sent too slowly
is dropped.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Any

import orjson
from graphql import GraphQLError
from starlette.responses import StreamingResponse
from starlette.types import Send
from starlette.websockets import WebSocket
from strawberry.asgi import ASGIWebSocketAdapter
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http.exceptions import WebSocketDisconnected
from strawberry.http.streaming import SSETransport, merge_stream_with_heartbeat
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import (
    BaseGraphQLTransportWSHandler,
)
from strawberry.types import ExecutionResult
from strawberry.types.unset import UNSET

from app.billing.errors import RequestError
from app.database import DatabaseUnavailable
from app.logs import request_id
from app.server.answers import shown
from schema.errors import explain

EVENTS = "text/event-stream"
SEND_SECONDS = 10
"""How long a client may take to take one message, beyond what lies in buffers."""
INIT_SECONDS = 10
"""How long a client may take to say who it is, once it is connected."""
MAX_OPERATIONS = 100
"""Of one connection at once."""
_MAX_REASON = 120
"""In bytes: a close frame takes 123."""

logger = logging.getLogger("billing.streams")

Run = Callable[[Any, str | None], AsyncGenerator[ExecutionResult, None]]
"""Runs what was asked for, the members of a request, by whom this authorization names."""
Check = Callable[[str | None], Awaitable[Any]]
"""RequestError where this authorization names nobody."""


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_UTC_Z).decode()


class EventStream(StreamingResponse):
    """Results as server-sent events, until there are no more or the client has gone."""

    def __init__(self, results: AsyncGenerator[ExecutionResult, None]) -> None:
        events = SSETransport()

        async def told() -> AsyncGenerator[str, None]:
            async with aclosing(results):
                async for result in results:
                    yield events.encode_next(shown(result), _json)  # type: ignore[arg-type]
            yield events.encode_complete()

        self._content = merge_stream_with_heartbeat(
            told,
            lambda: events.heartbeat_message(_json),
            events.heartbeat_interval,
            send_initial_heartbeat=False,
        )()
        super().__init__(self._content, headers=events.headers)

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Any) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        with suppress(TimeoutError):
            async with aclosing(self._content):
                await super().stream_response(send_in_time)


class _Adapter(ASGIWebSocketAdapter):
    """What the protocol's handler hears and says by."""

    def __init__(self, socket: "Socket") -> None:
        super().__init__(socket, socket.websocket, socket.websocket)  # type: ignore[arg-type]
        self._socket = socket

    async def iter_json(self, **_: Any) -> AsyncGenerator[object, None]:
        async for message in super().iter_json():
            if not isinstance(message, dict) or not isinstance(message.get("id", ""), str):
                await self.close(4400, "A message is a JSON object, and its id a string.")
                return
            yield message

    async def send_json(self, message: Mapping[str, object]) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await super().send_json(message)
        except TimeoutError:
            self._socket.drop()
            raise asyncio.CancelledError from None

    async def close(self, code: int, reason: str) -> None:
        told = (self._socket.refusal or reason).encode()[:_MAX_REASON]
        await super().close(code, told.decode(errors="ignore"))


class _Handler(BaseGraphQLTransportWSHandler[Any, None]):
    async def handle_subscribe(self, message: Any) -> None:
        # All that is asked for goes where the query does: it is read there, as that of any request.
        whole: Any = {**message, "payload": {"query": message["payload"]}}
        await super().handle_subscribe(whole)

    async def handle_task_exception(self, error: Exception) -> None:
        if not isinstance(error, WebSocketDisconnected):
            logger.error("an operation over WebSocket failed", exc_info=error)

    @staticmethod
    def _get_pre_execution_close_reason(_: GraphQLError) -> None:
        """A faulty operation ends no others."""


class Socket:
    """One connection of graphql-transport-ws; its operations are run by `run`.

    For the handler it is the view, the schema and the context.
    """

    def __init__(self, websocket: WebSocket, run: Run, check: Check) -> None:
        self.websocket = websocket
        self.connection_params: dict[str, Any] = {}
        self.refusal = ""
        self._run = run
        self._check = check
        self._is_dropped = False
        self._task = asyncio.current_task()

    async def serve(self) -> None:
        """Until the client leaves, or is dropped."""
        offered = GRAPHQL_TRANSPORT_WS_PROTOCOL in self.websocket["subprotocols"]
        await self.websocket.accept(GRAPHQL_TRANSPORT_WS_PROTOCOL if offered else None)
        if not offered:
            await self.websocket.close(4406, f"Ask for {GRAPHQL_TRANSPORT_WS_PROTOCOL}.")
            return
        handler = _Handler(
            view=self,  # type: ignore[arg-type]
            websocket=_Adapter(self),
            context=self,
            root_value=None,
            schema=self,  # type: ignore[arg-type]
            connection_init_wait_timeout=timedelta(seconds=INIT_SECONDS),
            max_subscriptions_per_connection=MAX_OPERATIONS,
        )
        try:
            await handler.handle()
        except asyncio.CancelledError:
            if not self._is_dropped:
                raise

    def drop(self) -> None:
        """Ends the connection: the client does not take what is sent."""
        self._is_dropped = True
        if self._task and self._task is not asyncio.current_task():
            self._task.cancel()

    @property
    def _authorization(self) -> str | None:
        """As it stands in the payload of the first message, like the header of a request."""
        named = {name.lower(): value for name, value in self.connection_params.items()}
        given = named.get("authorization")
        return None if given is None else str(given)

    async def on_ws_connect(self, _: Any) -> Any:
        try:
            await self._check(self._authorization)
        except (RequestError, DatabaseUnavailable) as error:
            self.refusal, _ = explain(error, request_id())
            raise ConnectionRejectionError from None
        return UNSET

    async def stream(self, asked: Any, **_: Any) -> AsyncGenerator[ExecutionResult, None]:
        return self._run(asked, self._authorization)

    encode_json = staticmethod(_json)
    decode_json = staticmethod(orjson.loads)
