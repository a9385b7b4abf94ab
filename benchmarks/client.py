"""The load: closed loops on a few connections, in a process of its own that does as little as it can.

`apply` starts the process, which takes a pickled Load and answers with a pickled Outcome.
"""

import asyncio
import pickle
import sys
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import uvloop

SERIAL = "~serial~"
"""Stands in a request for a number that no other request of the run has."""
HOLD = "00000000-0000-7000-8000-~~~~~~~~hold"
"""Stands in the second of two requests for the id in the answer to the first."""
_DIGITS = len(SERIAL)
_KEY = b'"id":"'


class Unsound(Exception):
    """An answer that none should be."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to send to a port of this machine: again and again, until the time or the number is over."""

    port: int
    requests: tuple[tuple[bytes, ...], ...]
    """They take turns. Those of one are sent one after another, and count as one together."""
    connections: int = 1
    seconds: float = float("inf")
    most: int = 1_000_000_000
    warm_up: float = 0.0
    """In seconds, before anything counts."""
    expected: tuple[bytes, int] | None = None
    """What stands how often in each of the last answers; None where all answers are the same."""
    first_serial: int = 0


@dataclass(slots=True)
class Outcome:
    """What came of a load."""

    answered: int = 0
    seconds: float = 0.0
    next_serial: int = 0
    bodies: list[bytes] = field(default_factory=list)
    """Of the first answers, one for each request."""

    @property
    def rate(self) -> float:
        return self.answered / self.seconds


async def apply(load: Load) -> Outcome:
    """Sends the load from a process of its own; Unsound for an answer that is wrong."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"from {__name__} import main; main()",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for whoever started it, who ends it
    )
    try:
        told, _ = await process.communicate(pickle.dumps(load))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    outcome = pickle.loads(told) if told else Unsound("the client has ended")  # noqa: S301
    if isinstance(outcome, Outcome):
        return outcome
    raise outcome


class _Run:
    """What the connections share."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.serial = load.first_serial
        self.sent = 0
        self.outcome = Outcome()
        self.begun = perf_counter() + load.warm_up
        self.until = self.begun + load.seconds
        self.active = load.connections
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def next_serial(self) -> bytes:
        self.serial += 1
        return b"%0*d" % (_DIGITS, self.serial)

    def may_send(self) -> bool:
        self.sent += 1
        return self.sent <= self.load.most and perf_counter() < self.until

    def count(self) -> None:
        now = perf_counter()
        if now >= self.begun:
            self.outcome.answered += 1
            self.outcome.seconds = now - self.begun

    def leave(self) -> None:
        self.active -= 1
        if not self.active and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Loop(asyncio.Protocol):
    """One connection: the next request follows the answer to the last."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._place = 0
        self._serial = b""
        self._requests: tuple[bytes, ...] = ()
        self._received = bytearray()
        self._begin = self._end = 0
        self._first: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.fail(exc or Unsound("the server has closed the connection"))

    def _next(self) -> None:
        if not self._run.may_send():
            self._run.leave()
            return
        requests = self._run.load.requests
        self._serial = self._run.next_serial()
        self._requests = requests[self._run.serial % len(requests)]
        self._send(self._requests[0])

    def _send(self, request: bytes) -> None:
        self._transport.write(request.replace(SERIAL.encode(), self._serial))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._end:
            place = self._received.find(b"\r\n\r\n")
            if place < 0:
                return
            head = bytes(self._received[:place]).lower()
            _, _, length = head.partition(b"\r\ncontent-length:")
            if not head.startswith(b"http/1.1 200 ") or not length:
                self._run.fail(Unsound(bytes(self._received[:2000]).decode(errors="replace")))
                return
            self._begin = place + 4
            self._end = self._begin + int(length.partition(b"\r\n")[0])
        if len(self._received) >= self._end:
            body = bytes(self._received[self._begin : self._end])
            self._received.clear()
            self._end = 0
            self._answered(body)

    def _answered(self, body: bytes) -> None:
        outcome = self._run.outcome
        self._first.append(body)
        self._place = (self._place + 1) % len(self._requests)
        if self._place:
            _, _, rest = body.partition(_KEY)
            self._send(self._requests[self._place].replace(HOLD.encode(), rest[: len(HOLD)]))
            return
        outcome.bodies = outcome.bodies or self._first
        self._first = []
        if not self._is_sound(body):
            self._run.fail(Unsound(body[:2000].decode(errors="replace")))
            return
        self._run.count()
        self._next()

    def _is_sound(self, body: bytes) -> bool:
        if self._run.load.expected is None:
            return body == self._run.outcome.bodies[-1]
        text, times = self._run.load.expected
        return body.count(text) == times


async def _send(load: Load) -> Outcome:
    run = _Run(load)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, told: run.fail(Unsound(str(told))))
    for _ in range(load.connections):
        await loop.create_connection(lambda: _Loop(run), "127.0.0.1", load.port)
    await run.done
    run.outcome.next_serial = run.serial
    return run.outcome


def main() -> None:
    """The process: one load."""
    told: Outcome | Exception
    try:
        told = uvloop.run(_send(pickle.load(sys.stdin.buffer)))  # noqa: S301
    except Exception as error:
        told = Unsound(str(error))
    sys.stdout.buffer.write(pickle.dumps(told))
