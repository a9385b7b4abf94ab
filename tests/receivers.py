"""A mail server and a webhook receiver on this machine, which fail when they are told to."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


@dataclass(slots=True)
class Mail:
    """A message as it was accepted."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    encrypted: bool
    login: LoginPassword | None

    def part(self, subtype: str) -> str:
        """The body of this kind, "plain" or "html"."""
        body = self.message.get_body((subtype,))
        assert body is not None
        return str(body.get_content()).replace("\r\n", "\n")


@dataclass(slots=True)
class MailServer:
    """What it accepted, and whom it does not know."""

    address: str
    unknown: set[str] = field(default_factory=set)
    mails: list[Mail] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802
        self, _server: Any, _client: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if address in self.unknown:
            return "550 5.1.1 There is nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, client: Any, envelope: Any) -> str:  # noqa: N802
        message = message_from_bytes(envelope.content, _class=EmailMessage, policy=policy.default)
        self.mails.append(
            Mail(
                envelope.mail_from,
                envelope.rcpt_tos,
                message,
                encrypted=server.transport.get_extra_info("sslcontext") is not None,
                login=client.auth_data,
            )
        )
        return "250 OK"

    async def handle_QUIT(self, *_: Any) -> str:  # noqa: N802
        return "421 In a bad mood, but what is accepted is accepted"


def _welcome(_server: Any, _client: Any, _envelope: Any, _mechanism: Any, data: Any) -> AuthResult:
    return AuthResult(success=True, auth_data=data)


@contextmanager
def reserved_socket() -> Iterator[socket.socket]:
    """A port of this machine that refuses connections until somebody listens there."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved


def address_of(bound: socket.socket) -> str:
    """Host and port."""
    return "{}:{}".format(*bound.getsockname())


@asynccontextmanager
async def mail_server(
    bound: socket.socket, *, ssl_context: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[MailServer]:
    """Listens there; `options` are those of aiosmtpd's SMTP, `ssl_context` is for TLS at once."""
    loop = asyncio.get_running_loop()
    received = MailServer(address_of(bound))

    def connection() -> SMTP:
        return SMTP(received, hostname="mail", loop=loop, authenticator=_welcome, **options)

    server = await loop.create_server(connection, sock=bound, ssl=ssl_context)
    try:
        yield received
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def trickling_server(bound: socket.socket) -> AsyncIterator[None]:
    """Answers a little all the time, and never to the end."""
    connections: set[asyncio.Task[None] | None] = set()

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        with suppress(ConnectionError):
            while True:
                writer.write(b"1")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()

    server = await asyncio.start_server(trickle, sock=bound)
    try:
        yield
    finally:
        server.close()
        await asyncio.gather(*filter(None, connections))


@dataclass(slots=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Receiver:
    """What was posted to it; it answers with `answers` first, and then with 204."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)


@contextmanager
def webhook_receiver(*answers: int) -> Iterator[Receiver]:
    """A receiver at a path of its own; a redirect leads to another path of the same server."""
    receiver = Receiver(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.requests.append(Request(self.path, dict(self.headers), body))
            self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
            self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
