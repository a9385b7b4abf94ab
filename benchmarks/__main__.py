"""The command: our server against hand-written routes and against stock Strawberry, in one table."""

import argparse
import asyncio
import signal
import statistics
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import orjson
from rich.console import Console
from rich.progress import Progress

from app.database import Database
from benchmarks.contenders import OURS, RAW, STOCK, Contender, running, tokens
from benchmarks.load import GATEWAY, load
from benchmarks.server import running_server
from benchmarks.work import Work, all_work
from benchmarks.world import MEMBER, VIEWER, populate

ROWS = 1_000_000
NAMES = (RAW, OURS, STOCK)

Rates = dict[str, dict[str, list[float]]]
"""Requests a second by work and contender."""


def main() -> None:
    """Runs the benchmark; servers and data are gone afterwards, whatever happens."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(_run(arguments))
    except KeyboardInterrupt:
        sys.exit(130)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    works = [work for work in all_work(now) if work.name.startswith(tuple(arguments.only))]
    bars = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server())
        stack.enter_context(bars)
        address = await server.create("billing")
        bar = bars.add_task("")
        async with Database(address) as database:
            await load(
                database,
                arguments.rows,
                now,
                lambda what, done, total: bars.update(
                    bar, description=what, completed=done, total=total
                ),
            )
            await populate(database)
        bars.remove_task(bar)
        known = tokens([VIEWER, MEMBER, GATEWAY])
        contenders = [
            await stack.enter_async_context(running(name, address, known, works[0]))
            for name in NAMES
        ]
        rates: Rates = {}
        for work in works:
            await _compare(work, contenders)
        turns = [(work, turn) for work in works for turn in range(arguments.rounds)]
        for work, turn in bars.track(turns, description="Measuring"):
            first = turn % len(contenders)
            for contender in contenders[first:] + contenders[:first]:
                outcome = await contender.answer(
                    work, connections=work.connections, seconds=arguments.seconds, warm_up=0.3
                )
                rates.setdefault(work.name, {}).setdefault(contender.name, []).append(outcome.rate)
    for work in works:
        print(
            work.label,
            {name: round(statistics.median(found), 1) for name, found in rates[work.name].items()},
        )


async def _compare(work: Work, contenders: Sequence[Contender]) -> None:
    """Unsound unless all answer alike, the hand-written routes with the same bytes."""
    answers = {
        contender.name: (await contender.answer(work, most=1)).bodies for contender in contenders
    }
    for ours, raw, stock in zip(*(answers[name] for name in (OURS, RAW, STOCK)), strict=True):
        print(len(ours), len(raw), len(stock))
        if work.expected is None:
            assert ours.startswith(raw[:-1]), (ours[:1500], raw[:1500])
            assert orjson.loads(stock)["data"] == orjson.loads(raw)["data"]


if __name__ == "__main__":
    main()
