"""What carries how much: `python -m benchmarks.scale`.

Measures what a spend and a dashboard cost the API processes and PostgreSQL, and reckons from it how
many nodes carry a platform.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from app.database import Database
from benchmarks.capacity import Word
from benchmarks.client import Load, Outcome, apply
from benchmarks.contenders import OURS, Contender, running, tokens
from benchmarks.load import GATEWAY, USERS
from benchmarks.mandates import Operation, check_answers, fill, operations, viewers
from benchmarks.metering import (
    Ear,
    cost_of_word,
    listening,
    milliseconds_to_flush,
    postmaster,
    processor_seconds,
    thread_seconds,
    written,
)
from benchmarks.scale_tables import Round, Rounds, show
from benchmarks.server import run, running_server
from benchmarks.work import Step, Work

ROWS, MANDATES = 500_000, 100
PROCESSES = (1, 2, 4)
_SERIALS = 24_000_000
"""For each process: a serial has 8 digits."""
_WARM_UP = 0.5
_FIRST = Work("first", "first", GATEWAY, [[Step("{ viewer { isSysAdmin } }", {}, "")]])


def main() -> None:
    """Runs the benchmark; servers and data are gone afterwards, whatever happens."""
    run(_run(_arguments()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description="Measures what a spend (hold and settle, or an event of recordUsage) and a"
        " dashboard cost: processor time of the API processes and of PostgreSQL, WAL, commits and"
        " bytes on the disk, with 1, 2 and 4 API processes on a PostgreSQL server of its own, with"
        " fsync. The load is closed loops spread over many mandates, then all on one: the hottest."
        " From that it reckons how many nodes carry 1,000, 10,000 and 100,000 spends a second and a"
        " million dashboards a day, and what gives way first. It prints the formulas.",
        epilog="As it stands it takes about six minutes on two cores. Clients, API and database"
        " share this machine, so requests a second say little about more machines; processor time"
        " for each operation does. Nothing else should run meanwhile: the spread of the rounds is"
        " printed. What is reckoned is reckoned: no cluster was measured.",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=ROWS,
        metavar="N",
        help=f"transactions to load, spread over {MANDATES} mandates (default: {ROWS})",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        metavar="N",
        help="how often each is measured, taking turns (default: 3)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=4.0,
        metavar="S",
        help="how long each time (default: 4)",
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    arguments = parser.parse_args()
    for name, least in (("rows", 10 * len(USERS) * MANDATES), ("rounds", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} must be at least {least}")
    return arguments


async def _run(arguments: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    bars = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    async with AsyncExitStack() as stack:
        stack.enter_context(bars)
        bar = bars.add_task("")

        def advance(what: str, done: int, total: int) -> None:
            bars.update(bar, description=f"Loading: {what}", completed=done, total=total)

        server = await stack.enter_async_context(running_server())
        address = await server.create("billing")
        database = await stack.enter_async_context(Database(address))
        copies = await fill(database, arguments.rows, MANDATES, now, advance)
        bars.remove_task(bar)
        await server.write_durably()
        async with database.read() as connection:
            found = await connection.exec_driver_sql("SHOW data_directory")
            flush = milliseconds_to_flush(Path(found.scalar_one()))
        works = operations(copies, now)
        bench = await stack.enter_async_context(bench_of(database, address, viewers(copies)))
        rounds = await measure(bench, works, arguments.rounds, arguments.seconds, bars)
        word = await bench.word()
        load = os.getloadavg()[0]
    show(rounds, works, flush, word, arguments, now, load)


class Bench:
    """Servers on one database, and what they have cost."""

    def __init__(
        self,
        database: Database,
        postmaster: int,
        servers: Sequence[Contender],
        tokens: dict[str, str],
        ear: Ear,
    ) -> None:
        self._database = database
        self._postmaster = postmaster
        self._servers = servers
        self._tokens = tokens
        self._ear = ear

    async def word(self) -> Word:
        """What a word costs that every process is told."""
        pids = [server.pid for server in self._servers]
        return await cost_of_word(self._database, self._postmaster, pids)

    async def check(self, operation: Operation) -> None:
        """Unsound unless the first two requests are answered without an error."""
        for request in operation.requests(self._tokens)[:2]:
            [outcome] = await self._apply(operation, 1, (request,), most=1)
            check_answers(outcome.bodies)

    async def load(self, operation: Operation, processes: int, seconds: float) -> Round:
        """What comes of this operation on the first so many of the servers."""
        requests = operation.requests(self._tokens)
        await self._apply(operation, processes, requests, seconds=min(_WARM_UP, seconds))
        async with self._database.read() as connection:
            before, words = await written(connection), self._ear.heard
            database = processor_seconds(self._postmaster)
            api = [thread_seconds(server.pid) for server in self._servers]
            outcomes = await self._apply(operation, processes, requests, seconds=seconds)
            api = [
                thread_seconds(server.pid) - earlier
                for server, earlier in zip(self._servers, api, strict=True)
            ]
            database = processor_seconds(self._postmaster) - database
            after = await written(connection)
        return Round(
            done=sum(outcome.answered for outcome in outcomes) * operation.events,
            seconds=max(outcome.seconds for outcome in outcomes),
            api=sum(api[:processes]),
            database=database,
            wal=after.wal - before.wal,
            commits=after.transactions - before.transactions,
            words=self._ear.heard - words,
            disk=after.size - before.size,
            milliseconds=sorted(each for outcome in outcomes for each in outcome.milliseconds),
        )

    async def _apply(
        self,
        operation: Operation,
        processes: int,
        requests: tuple[tuple[bytes, ...], ...],
        *,
        seconds: float = float("inf"),
        most: int = 10**9,
    ) -> list[Outcome]:
        servers = self._servers[:processes]
        loads = (
            Load(
                server.port,
                requests,
                1 if most == 1 else max(1, operation.connections // processes),
                seconds,
                most,
                expected=operation.expected,
                first_serial=server.next_serial,
            )
            for server in servers
        )
        outcomes = await asyncio.gather(*map(apply, loads))
        for server, outcome in zip(servers, outcomes, strict=True):
            server.next_serial = outcome.next_serial
        return outcomes


@asynccontextmanager
async def bench_of(
    database: Database, address: str, viewers: Sequence[str], processes: int = PROCESSES[-1]
) -> AsyncIterator[Bench]:
    """So many server processes on a filled database."""
    async with AsyncExitStack() as stack:
        servers = []
        for place in range(processes):
            server = await stack.enter_async_context(running(OURS, address, _FIRST))
            server.next_serial = place * _SERIALS
            servers.append(server)
        async with database.read() as connection:
            pid = await postmaster(connection)
        ear = await stack.enter_async_context(listening(database))
        yield Bench(database, pid, servers, tokens(viewers), ear)


async def measure(
    bench: Bench,
    works: Sequence[Operation],
    rounds: int,
    seconds: float,
    bars: Progress,
    processes: Sequence[int] = PROCESSES,
) -> Rounds:
    """All that comes of it. They take turns, so that all meet the same machine."""
    for work in works:
        await bench.check(work)
    found: dict[str, dict[int, list[Round]]] = {
        work.name: {number: [] for number in processes} for work in works
    }
    turns = [(work, number) for _ in range(rounds) for work in works for number in processes]
    for work, number in bars.track(turns, description="Measuring"):
        found[work.name][number].append(await bench.load(work, number, seconds))
    return found


if __name__ == "__main__":
    main()
