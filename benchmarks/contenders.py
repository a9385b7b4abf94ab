"""The servers that are compared, each a process of its own on the same database."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

from app.auth import issue_token
from app.config import Settings
from benchmarks.client import Load, Outcome, Unsound, apply
from benchmarks.work import Work
from tests.servers import environment, free_port

RAW, OURS, STOCK = "raw", "ours", "stock"
_SERIALS = 30_000_000
"""For each of them: they write to the same ledger."""
_SECONDS_TO_START = 60
_TOKEN_SECONDS = 24 * 60 * 60
_SECRET = "known to nobody but this benchmark"  # noqa: S105
_SETTINGS = {
    "BILLING_ENVIRONMENT": "production",
    "BILLING_JWT_SECRET": _SECRET,
    "BILLING_JWT_AUDIENCE": "billing",
    "BILLING_JWT_ISSUER": "billing",
}
_COMMANDS = {
    RAW: ("-m", "benchmarks.raw"),
    OURS: ("-m", "app", "serve", "--drain", "0", "--port"),
    STOCK: ("-m", "benchmarks.stock"),
}


@dataclass(slots=True)
class Contender:
    """A server that runs."""

    name: str
    port: int
    pid: int
    tokens: Mapping[str, str]
    seconds_to_answer: float = 0.0
    next_serial: int = 0

    async def answer(
        self,
        work: Work,
        *,
        connections: int = 1,
        seconds: float = float("inf"),
        most: int = 10**9,
        warm_up: float = 0.0,
    ) -> Outcome:
        """What comes of its requests."""
        token = self.tokens[work.viewer]
        outcome = await apply(
            Load(
                self.port,
                tuple(
                    tuple(
                        step.asked_of_routes(token)
                        if self.name == RAW
                        else step.asked_of_schema(token)
                        for step in steps
                    )
                    for steps in work.steps
                ),
                connections,
                seconds,
                most,
                warm_up,
                work.expected,
                self.next_serial,
            )
        )
        self.next_serial = outcome.next_serial
        return outcome


def tokens(viewers: Sequence[str]) -> dict[str, str]:
    """One for each, as the servers take them."""
    settings = Settings(
        jwt_secret=_SECRET,  # type: ignore[arg-type]
        jwt_audience="billing",
        jwt_issuer="billing",
    )
    return {viewer: issue_token(settings, viewer, _TOKEN_SECONDS) for viewer in viewers}


@asynccontextmanager
async def running(
    name: str, database_url: str, known: Mapping[str, str], first: Work
) -> AsyncIterator[Contender]:
    """Runs one until the end; it has answered `first`."""
    port = free_port()
    begun = perf_counter()
    process = subprocess.Popen(
        [sys.executable, *_COMMANDS[name], str(port)],
        env=environment(database_url, **_SETTINGS),
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this process, which ends that one
    )
    try:
        while not await _listens(port):
            if process.poll() is not None or perf_counter() - begun > _SECONDS_TO_START:
                raise Unsound(f"{name} did not start")
            await asyncio.sleep(0.005)
        serial = list(_COMMANDS).index(name) * _SERIALS
        contender = Contender(name, port, process.pid, known, next_serial=serial)
        listening = perf_counter()
        outcome = await contender.answer(first, most=1)
        contender.seconds_to_answer = listening - begun + outcome.seconds
        yield contender
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait(10)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
