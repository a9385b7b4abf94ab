"""The load: closed loops on a few connections, in a process of its own that does as little as it can.

`apply` starts the process, which takes a pickled Load and answers with a pickled Outcome.
"""

import asyncio
import pickle
import selectors
import socket
import sys
from dataclasses import dataclass, field
from time import perf_counter

SERIAL = "~serial~"
"""Stands in a request for a number that no other request of the run has."""
HOLD = "00000000-0000-7000-8000-~~~~~~~~hold"
"""Stands in the second of two requests for the id in the answer to the first."""
_KEY = b'"id":"'
_SILENCE_SECONDS = 60


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
    """The answers where one was asked for, one for each request."""
    milliseconds: list[float] = field(default_factory=list)
    """Of each that counts, from its first request to its last answer."""

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
    if process.returncode:
        raise Unsound(f"the client has ended with {process.returncode}")
    outcome = pickle.loads(told)  # noqa: S301
    if isinstance(outcome, Outcome):
        return outcome
    raise outcome


class _Run:
    """What the connections share."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.outcome = Outcome(next_serial=load.first_serial)
        self._sent = 0
        self._begun = perf_counter() + load.warm_up
        self._until = self._begun + load.seconds

    def next_serial(self) -> int | None:
        """For the next request; None when there is to be none."""
        self._sent += 1
        if self._sent > self.load.most or perf_counter() >= self._until:
            return None
        self.outcome.next_serial += 1
        return self.outcome.next_serial

    def take(self, bodies: list[bytes], asked: float) -> None:
        """Counts what was answered, and how long it took; Unsound where it is wrong."""
        self.outcome.bodies = self.outcome.bodies or bodies
        last, expected = bodies[-1], self.load.expected
        sound = (
            last.count(expected[0]) == expected[1] if expected else last == self.outcome.bodies[-1]
        )
        if not sound:
            raise Unsound(last[:2000].decode(errors="replace"))
        now = perf_counter()
        if now >= self._begun:
            self.outcome.answered += 1
            self.outcome.seconds = now - self._begun
            self.outcome.milliseconds.append((now - asked) * 1000)


class _Connection:
    """The next request follows the answer to the last."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._requests: tuple[bytes, ...] = ()
        self._bodies: list[bytes] = []
        self._serial = b""
        self._asked = 0.0
        self._received = bytearray()
        self._begin = self._end = 0
        self.socket = socket.create_connection(("127.0.0.1", run.load.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begin(self) -> bool:
        """Sends the next request; False when there is to be none."""
        serial = self._run.next_serial()
        if serial is None:
            self.socket.close()
            return False
        requests = self._run.load.requests
        self._serial = b"%0*d" % (len(SERIAL), serial)
        self._requests = requests[serial % len(requests)]
        self._bodies = []
        self._asked = perf_counter()
        self._send(self._requests[0])
        return True

    def receive(self) -> bool:
        """Goes on when an answer is there; False when that was the last."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise Unsound("the server has closed the connection")
        self._received += data
        if not self._end:
            self._read_head()
        if not self._end or len(self._received) < self._end:
            return True
        self._bodies.append(bytes(self._received[self._begin : self._end]))
        self._received.clear()
        self._end = 0
        if len(self._bodies) < len(self._requests):
            _, _, rest = self._bodies[-1].partition(_KEY)
            following = self._requests[len(self._bodies)]
            self._send(following.replace(HOLD.encode(), rest[: len(HOLD)]))
            return True
        self._run.take(self._bodies, self._asked)
        return self.begin()

    def _send(self, request: bytes) -> None:
        self.socket.sendall(request.replace(SERIAL.encode(), self._serial))

    def _read_head(self) -> None:
        place = self._received.find(b"\r\n\r\n")
        if place < 0:
            return
        head = bytes(self._received[:place]).lower()
        _, _, length = head.partition(b"\r\ncontent-length:")
        if not head.startswith(b"http/1.1 200 ") or not length:
            raise Unsound(bytes(self._received[:2000]).decode(errors="replace"))
        self._begin = place + 4
        self._end = self._begin + int(length.partition(b"\r\n")[0])


def _send(load: Load) -> Outcome:
    run = _Run(load)
    with selectors.DefaultSelector() as selector:
        for connection in [_Connection(run) for _ in range(load.connections)]:
            if connection.begin():
                selector.register(connection.socket, selectors.EVENT_READ, connection)
        while selector.get_map():
            ready = selector.select(_SILENCE_SECONDS)
            if not ready:
                raise Unsound("the server does not answer")
            for key, _ in ready:
                descriptor = key.fd
                if not key.data.receive():
                    selector.unregister(descriptor)
    if load.most > 1:
        run.outcome.bodies = []
    return run.outcome


def main() -> None:
    """The process: one load."""
    told: Outcome | Exception
    try:
        told = _send(pickle.load(sys.stdin.buffer))  # noqa: S301
    except Exception as error:
        told = Unsound(str(error))
    sys.stdout.buffer.write(pickle.dumps(told))
