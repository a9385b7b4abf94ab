"""The servers that are compared, each a process of its own on the same database."""

import asyncio
import base64
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import perf_counter
from types import SimpleNamespace
from typing import IO

import orjson

from app.auth import issue_token
from app.billing.models import transactions
from app.billing.paging import Keyset
from app.billing.transactions import TransactionFilter
from app.config import Settings
from benchmarks.client import Load, Outcome, Unsound, apply
from benchmarks.load import GATEWAY, MANDATE
from benchmarks.raw import CURSOR
from benchmarks.work import Work
from benchmarks.world import MEMBER, VIEWER
from tests.ports import free_port
from tests.servers import environment, resident

RAW, OURS, STOCK = "raw", "ours", "stock"
_COMMANDS = {
    RAW: ("-m", "benchmarks.raw"),
    OURS: ("-m", "app", "serve", "--drain", "0", "--port"),
    STOCK: ("-m", "benchmarks.stock"),
}
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


@dataclass(slots=True)
class Contender:
    """A server that runs."""

    name: str
    port: int
    pid: int
    tokens: Mapping[str, str]
    next_serial: int
    answered: int = 0
    milliseconds_to_answer: float = 0.0

    @property
    def memory(self) -> float:
        """In MiB."""
        return resident(self.pid)

    async def answer(
        self,
        work: Work,
        *,
        bare: bool = False,
        connections: int = 1,
        seconds: float = float("inf"),
        most: int = 10**9,
        warm_up: float = 0.0,
    ) -> Outcome:
        """What comes of a load of this work."""
        token = self.tokens[work.viewer]
        load = Load(
            self.port,
            tuple(
                tuple(
                    step.asked_of_routes(token, bare=bare)
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
        outcome = await apply(load)
        self.answered += outcome.next_serial - self.next_serial
        self.next_serial = outcome.next_serial
        return outcome


def _cursor() -> str:
    """What a cursor of the page that is asked for begins with."""
    binding = ("transactions", MANDATE, None, TransactionFilter())
    cursor = Keyset((transactions.c.id,), True, binding).cursor(SimpleNamespace(id=""))
    return str(orjson.loads(base64.urlsafe_b64decode(cursor))[0])


def tokens(viewers: Iterable[str] = (VIEWER, MEMBER, GATEWAY)) -> dict[str, str]:
    """One for each who asks, as the servers take them."""
    settings = Settings.model_validate(
        {"jwt_secret": _SECRET, "jwt_audience": "billing", "jwt_issuer": "billing"}
    )
    return {viewer: issue_token(settings, viewer, _TOKEN_SECONDS) for viewer in viewers}


@asynccontextmanager
async def running(name: str, database_url: str, first: Work) -> AsyncIterator[Contender]:
    """Runs one until the end; it has answered `first`."""
    with tempfile.TemporaryFile() as said:
        async with _running(name, database_url, first, said) as contender:
            yield contender


@asynccontextmanager
async def _running(
    name: str, database_url: str, first: Work, said: IO[bytes]
) -> AsyncIterator[Contender]:
    port = free_port()
    begun = perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *_COMMANDS[name],
        str(port),
        env=environment(database_url, **_SETTINGS) | {CURSOR: _cursor()},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,  # Ctrl-C is for this process, which ends that one
    )
    try:
        while not await _listens(port):
            if process.returncode is not None or perf_counter() - begun > _SECONDS_TO_START:
                said.seek(0)
                raise Unsound(f"{name} did not start.\n{said.read().decode()}")
            await asyncio.sleep(0.002)
        listening = perf_counter() - begun
        serial = list(_COMMANDS).index(name) * _SERIALS
        contender = Contender(name, port, process.pid, tokens(), serial)
        outcome = await contender.answer(first, most=1)
        contender.milliseconds_to_answer = (listening + outcome.seconds) * 1000
        yield contender
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
