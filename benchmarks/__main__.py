"""The command: our server against hand-written routes and against stock Strawberry, in one table."""

import argparse
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import Progress

from app.database import Database
from benchmarks.comparison import compare
from benchmarks.contenders import OURS, RAW, STOCK, Contender, running
from benchmarks.figures import BARE, Row, machine, table
from benchmarks.load import USERS, load
from benchmarks.server import run, running_server
from benchmarks.work import Work, all_work, reading
from benchmarks.world import load_by_domain, populate

ROWS, ROWS_ON_SQLITE = 1_000_000, 10_000
REQUESTS = 10_000
STARTS = 3
WARM_UP = 0.3
START, MEMORY = "start", "memory"


def main() -> None:
    """Runs the benchmark; servers and data are gone afterwards, whatever happens."""
    run(_run(_arguments()))


def _arguments() -> argparse.Namespace:
    names = [*(work.name for work in all_work(datetime.now(UTC))), START, MEMORY]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Loads a year of one mandate's transactions into a PostgreSQL server of its own."
        " Then it asks three server processes on it the same questions in turn: raw, which is"
        " Starlette routes and SQL written by hand; ours; and stock, which is our schema as"
        " Strawberry executes it by itself. It prints their medians and ratios.",
        epilog="A million transactions and all rows take about seven minutes on two cores. Nothing"
        " else should run meanwhile. Whether answers slow down as a ledger grows is another"
        " question: python -m benchmarks.growth.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="NAME",
        help=f"only the rows of the table whose names begin so: {', '.join(names)}",
    )
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help=f"transactions to load (default: {ROWS:,}; on SQLite {ROWS_ON_SQLITE:,})",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="how often each is measured, taking turns (default: 5)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        metavar="S",
        help="how long each time, after a warm-up (default: 2)",
    )
    parser.add_argument(
        "--sqlite",
        action="store_true",
        help="the short form: ours and stock on a SQLite file, about four minutes",
    )
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    arguments = parser.parse_args()
    arguments.rows = arguments.rows or (ROWS_ON_SQLITE if arguments.sqlite else ROWS)
    for name, least in (("rows", 10 * len(USERS)), ("rounds", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} must be at least {least}")
    if not any(name.startswith(tuple(arguments.only)) for name in names):
        parser.error(f"--only names none of {', '.join(names)}")
    return arguments


async def _run(arguments: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    only = tuple(arguments.only)
    every = all_work(now)
    works = [work for work in every if work.name.startswith(only)]
    names = (OURS, STOCK) if arguments.sqlite else (RAW, OURS, STOCK)
    bars = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    async with AsyncExitStack() as stack:
        stack.enter_context(bars)
        address = await stack.enter_async_context(_database(arguments, now, bars))
        starts = Row("start to first answer, ms", below=2000, unit="ms")
        if START.startswith(only):
            for _ in bars.track(range(STARTS - 1), description="Starting"):
                for name in names:
                    async with running(name, address, every[0]) as contender:
                        starts.add(name, contender.milliseconds_to_answer)
        contenders = [
            await stack.enter_async_context(running(name, address, every[0])) for name in names
        ]
        for contender in contenders:
            starts.add(contender.name, contender.milliseconds_to_answer)
        for work in works:
            await compare(work, contenders)
        rows = await _measure(works, contenders, arguments, bars)
        if START.startswith(only):
            rows.append(starts)
        if MEMORY.startswith(only):
            rows.append(await _memory(contenders, bars))
    where = "SQLite"
    if not arguments.sqlite:
        where = "PostgreSQL with its defaults (fsync and synchronous_commit on) but max_wal_size"
    caption = (
        f"{machine(now)}. {arguments.rows:,} transactions on {where};"
        f" one process each, closed loops of 4 connections; medians of {arguments.rounds} rounds of {arguments.seconds:g} s."
    )
    # In a file or a pipe it would be wrapped at 80.
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table(rows, caption, markdown=arguments.markdown))
    if arguments.markdown:
        console.print(caption)


@asynccontextmanager
async def _database(
    arguments: argparse.Namespace, now: datetime, bars: Progress
) -> AsyncIterator[str]:
    """The address of a loaded database. It is loaded without fsync, and measured with it."""
    bar = bars.add_task("")

    def advance(what: str, done: int, total: int) -> None:
        bars.update(bar, description=f"Loading: {what}", completed=done, total=total)

    async with AsyncExitStack() as stack:
        if arguments.sqlite:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            address = f"sqlite:///{directory}/billing.db"
        else:
            server = await stack.enter_async_context(running_server())
            address = await server.create("billing")
        async with Database(address) as database:
            fill = load_by_domain if arguments.sqlite else load
            await fill(database, arguments.rows, now, advance)
            await populate(database)
        if not arguments.sqlite:
            await server.write_durably()
        bars.remove_task(bar)
        yield address


async def _measure(
    works: Sequence[Work],
    contenders: Sequence[Contender],
    arguments: argparse.Namespace,
    bars: Progress,
) -> list[Row]:
    """Requests a second. Contenders take turns, so that all meet the same machine."""
    rows = {work.name: Row(work.label, work.of_raw, work.of_stock) for work in works}
    turns = [(work, turn) for work in works for turn in range(arguments.rounds)]
    for work, turn in bars.track(turns, description="Measuring"):
        first = turn % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            for bare in (False, True) if contender.name == RAW and work.has_bare else (False,):
                outcome = await contender.answer(
                    work,
                    bare=bare,
                    connections=work.connections,
                    seconds=arguments.seconds,
                    warm_up=WARM_UP,
                )
                rows[work.name].add(BARE if bare else contender.name, outcome.rate)
    return list(rows.values())


async def _memory(contenders: Sequence[Contender], bars: Progress) -> Row:
    """Once it has answered so many; stock would take minutes."""
    row = Row(f"memory after {REQUESTS:,} requests, MiB", below=150, unit="MiB")
    work = reading()
    for contender in bars.track(contenders, description="Memory"):
        if contender.name != STOCK:
            left = REQUESTS - contender.answered
            if left > 0:
                await contender.answer(work, connections=work.connections, most=left)
            row.add(contender.name, contender.memory)
    return row


if __name__ == "__main__":
    main()
