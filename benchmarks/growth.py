"""Whether answers slow down as the ledger grows: `python -m benchmarks.growth`.

Loads ledgers of several sizes side by side and prints how long each question takes.
"""

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from time import perf_counter

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.billing.verify import verify_ledger
from app.database import Database
from benchmarks.load import MANDATE, USERS, load
from benchmarks.questions import milliseconds, questions
from benchmarks.server import run, running_server

AIM = 1.5
"""Times longer than on the smallest ledger that a statistic or a page may take on the largest."""
SIZES = (10_000, 1_000_000, 10_000_000)
WARM_UP = 3

Times = Mapping[str, Mapping[int, Sequence[float]]]
"""Milliseconds by question and size."""


def main() -> None:
    """Runs the benchmark; the server and its data are gone afterwards, whatever happens."""
    run(_run(_arguments()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description="Loads a ledger of each size (one mandate, 100 users, a year of usage) on a"
        " PostgreSQL server of its own, in a temporary directory that is removed at the end. Then"
        " it asks each ledger in turn what dashboards ask, through the GraphQL schema and without"
        " HTTP, and prints the medians.",
        epilog="All three sizes take ten to fifteen minutes and 15 GB on two cores. The server does"
        " without fsync, for the loading; nothing is written while it measures. The aim for"
        f" statistics and pages: at most {AIM} times as long on the largest ledger as on the"
        " smallest.",
    )
    parser.add_argument(
        "--rows",
        type=_rows,
        nargs="+",
        default=list(SIZES),
        metavar="N",
        help="transactions of each ledger (default: 10000 1000000 10000000)",
    )
    parser.add_argument(
        "--rounds",
        type=_rounds,
        default=21,
        metavar="N",
        help="how often each question is asked of each ledger, after a warm-up (default: 21)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="prove each ledger from its transactions, as `billing verify-ledger` does: about"
        " half a minute for a million",
    )
    return parser.parse_args()


def _rows(given: str) -> int:
    rows = int(given)
    if rows < 10 * len(USERS):
        raise argparse.ArgumentTypeError(f"at least {10 * len(USERS)}")
    return rows


def _rounds(given: str) -> int:
    rounds = int(given)
    if rounds < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return rounds


async def _run(arguments: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    bars = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server())
        stack.enter_context(bars)
        ledgers: dict[int, Database] = {}
        for rows in sorted(set(arguments.rows)):
            address = await server.create(f"billing_{rows}")
            database = await stack.enter_async_context(Database(address))
            await _load(database, rows, now, bars)
            if arguments.verify:
                await _verify(database, rows, bars)
            ledgers[rows] = database
        await server.execute("CHECKPOINT")  # else it is written out while we measure
        times, bound = await _measure(ledgers, now, arguments.rounds, bars)
    _print(times, bound, arguments.rounds)


async def _load(database: Database, rows: int, now: datetime, bars: Progress) -> None:
    bar = bars.add_task("")

    def advance(what: str, done: int, total: int) -> None:
        bars.update(bar, description=f"{rows:,}: {what}", completed=done, total=total)

    begun = perf_counter()
    await load(database, rows, now, advance)
    bars.remove_task(bar)
    print(f"{rows:,} transactions loaded in {perf_counter() - begun:.0f} s", file=sys.stderr)


async def _verify(database: Database, rows: int, bars: Progress) -> None:
    bar = bars.add_task(f"{rows:,}: verifying", total=None)
    async with database.snapshot() as connection:
        check = await verify_ledger(connection, MANDATE)
    bars.remove_task(bar)
    if not check.ok or check.transactions_checked != rows:
        problems = "\n".join(map(str, check.mismatches[:10]))
        raise SystemExit(f"{check.transactions_checked:,} of {rows:,} rows, wrong:\n{problems}")


async def _measure(
    ledgers: Mapping[int, Database], now: datetime, rounds: int, bars: Progress
) -> tuple[Times, set[str]]:
    """The times, and which questions the aim binds. Sizes take turns, so that all meet the same machine."""
    asked = {rows: await questions(database, now) for rows, database in ledgers.items()}
    sizes = list(ledgers)
    names = [question.name for question in asked[sizes[0]]]
    times: dict[str, dict[int, list[float]]] = {
        name: {rows: [] for rows in sizes} for name in names
    }
    for turn in bars.track(range(-WARM_UP, rounds), description="Measuring"):
        first = turn % len(sizes)
        for place, name in enumerate(names):
            for rows in sizes[first:] + sizes[:first]:
                taken = await milliseconds(ledgers[rows], asked[rows][place])
                if turn >= 0:
                    times[name][rows].append(taken)
    return times, {question.name for question in asked[sizes[0]] if question.is_bound}


def _ratio(by_size: Mapping[int, Sequence[float]]) -> float:
    """Of the largest ledger to the smallest."""
    return statistics.median(by_size[max(by_size)]) / statistics.median(by_size[min(by_size)])


def _print(times: Times, bound: set[str], rounds: int) -> None:
    sizes = list(next(iter(times.values())))
    table = Table(
        title=f"Milliseconds by transactions in the ledger (medians of {rounds})",
        caption=f"Python {platform.python_version()}, {os.cpu_count()} cores. In-process, with"
        " resolvers, loaders and SQL; PostgreSQL with its defaults but fsync.",
    )
    table.add_column("")
    for rows in sizes:
        table.add_column(f"{rows:,}", justify="right")
    if len(sizes) > 1:
        table.add_column("ratio", justify="right")
        table.add_column(f"aim {AIM}")
    for name, by_size in times.items():
        ratio = _ratio(by_size)
        aim = "" if name not in bound else "met" if ratio <= AIM else "[red]above"
        medians = (f"{statistics.median(by_size[rows]):.1f}" for rows in sizes)
        compared = (f"{ratio:.2f}", aim) if len(sizes) > 1 else ()
        table.add_row(name, *medians, *compared)
    # In a file or a pipe it would be wrapped at 80.
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
