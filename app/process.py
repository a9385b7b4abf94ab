"""The processes of a server: how they come to listen, drain, and end with exit code 0."""

import gc
import logging
import math
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.supervisors import multiprocess

from app import logs, metrics
from app.config import Settings

logger = logging.getLogger("billing.process")
_websockets = logging.getLogger("billing.websockets")
_websockets.setLevel(logging.WARNING)

_DEADLINE_SECONDS = 30
"""How long the end of the server waits for requests under way, such as a slow download."""
_MAX_HEADERS = 64 * 1024
"""In bytes, the address among them."""
_MAX_MESSAGE = 2 * 1024 * 1024
"""In bytes, of a WebSocket: as many as the body of a request."""
_CLOSE_SECONDS = 5
"""For the client of a WebSocket that has ended to take the rest."""
_ONE_SIGNAL_SECONDS = 0.5
"""Within it, a worker gets the same signal twice: with its group, as of a terminal, and passed on."""


class _Protocol(HttpToolsProtocol):
    """Takes bounded headers, and trailers for none: a proxy has not looked at them."""

    _has_headers = False
    _received = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._has_headers:
            self._received += len(data)
            if self._received > _MAX_HEADERS and not self.transport.is_closing():
                self.send_400_response("The headers are too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._has_headers, self._received = False, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_headers = True
        super().on_headers_complete()
        if self.cycle and self.app_state.get("draining"):
            self.cycle.keep_alive = False  # whoever keeps connections finds another server in time


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = self.conn.logger = _websockets  # uvicorn's tells the address with its query

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()  # else pings that are answered and never read fill the memory

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    def on_task_complete(self, task: Any) -> None:
        super().on_task_complete(task)
        # Who does not read what is left would keep the connection.
        self.loop.call_later(_CLOSE_SECONDS, self.transport.abort)


class _Config(uvicorn.Config):
    drain = 0.0
    """For how long a process goes on serving after SIGTERM."""


class _Server(uvicorn.Server):
    """After SIGTERM it is not ready any more, but goes on serving for a while.

    Whoever sends requests here has time to notice. A second signal, or SIGINT, cuts it short, and
    another SIGINT then the requests under way.
    """

    config: _Config
    _draining_since = math.inf
    _ending_since = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # The signals are not kept, with which uvicorn would end the process once more.
        now = time.monotonic()
        if self.should_exit:
            is_another = now - self._ending_since > _ONE_SIGNAL_SECONDS
            self.force_exit |= sig == signal.SIGINT and is_another
        elif sig == signal.SIGTERM and self.started and self._draining_since == math.inf:
            logger.info("draining for %g seconds", self.config.drain)
            self._draining_since = now
            self.lifespan.state["draining"] = True
        elif sig != signal.SIGTERM or not 0 <= now - self._draining_since < _ONE_SIGNAL_SECONDS:
            self.should_exit = True
            self._ending_since = now

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        signal.signal(signal.SIGUSR1, self.handle_exit)
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # what is loaded by now stays: the collector need not walk through it again

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if end_streams := self.lifespan.state.get("end_streams"):
            end_streams()  # else they would be waited for
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() >= self._draining_since + self.config.drain and not self.should_exit:
            self.should_exit = True
            self._ending_since = time.monotonic()
        return await super().on_tick(counter)


class _Worker(multiprocess.Process):
    @property
    def server(self) -> uvicorn.Server:
        if self._server is None:
            self._server = _Server(self.config)
        return self._server


class _Workers(multiprocess.Multiprocess):
    """Passes each signal on at once, also to those that drain already."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._told: set[Any] = set()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)

    def _pass_on(self, sig: int, _: FrameType | None) -> None:
        if sig == signal.SIGTERM and self.should_exit.is_set():
            sig = signal.SIGUSR1  # a second SIGTERM may be one with the first to a busy worker
        self.should_exit.set()
        for worker in self.processes:
            self._told.add(worker)
            if worker.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, sig)

    def terminate_all(self) -> None:
        for listener in self.sockets:  # else who connects to it waits for nobody
            listener.close()
        for worker in self.processes:
            if worker not in self._told:
                worker.terminate()


def serve(settings: Settings, host: str, port: int, workers: int, drain: float, demo: bool) -> None:
    """Serves until a signal ends it; SystemExit where the server cannot start."""
    config = _Config(
        "app.server:create_demo_app" if demo else "app.server:create_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        timeout_graceful_shutdown=_DEADLINE_SECONDS,
        log_config=logs.configuration(settings),
        access_log=False,
        server_header=False,
        http=_Protocol,
        ws=_WebSocketProtocol,
        ws_max_size=_MAX_MESSAGE,
        ws_per_message_deflate=False,
    )
    config.drain = drain
    with metrics.shared(workers if settings.metrics else 1):
        if not _run(config):
            sys.exit(1)


def _run(config: _Config) -> bool:
    """Whether it has started; it returns when all has ended."""
    if config.workers == 1:
        server = _Server(config)
        server.run()
        return server.started
    multiprocess.Process = _Worker  # type: ignore[misc]  # the supervisor has no hook for it
    supervisor = _Workers(config, [config.bind_socket()])
    supervisor.run()
    return all(worker.exitcode != STARTUP_FAILURE for worker in supervisor.processes)


def check_free(host: str, port: int) -> None:
    """OSError where the address is taken: in one line what the server would tell in many."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise OSError(f"Cannot listen on {host}, port {port}: {error.strerror}") from None
