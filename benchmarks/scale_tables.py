"""What `benchmarks.scale` has measured, and what is reckoned from it, as tables and formulas."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isinf
from statistics import median, quantiles

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.capacity import (
    FORMULAS,
    MEGA,
    TERA,
    Assumptions,
    Cost,
    Need,
    Word,
    busiest_second,
    limits,
    need,
    own_cost,
)
from benchmarks.figures import machine
from benchmarks.mandates import POOLED, Operation

SPENDS = (1_000, 10_000, 100_000)
"""A second, in the busiest hour."""
DASHBOARDS = 1_000_000
"""A day."""


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one load."""

    done: int
    """Operations."""
    seconds: float
    api: float
    """Seconds of a core of the processes that were asked, together."""
    database: float
    """Seconds of a core of PostgreSQL."""
    wal: int
    commits: int
    words: int
    """Told to every process."""
    disk: int
    milliseconds: Sequence[float] = field(repr=False)
    """Each unit of requests took, from the first request to the last answer."""


Rounds = Mapping[str, Mapping[int, Sequence[Round]]]
"""By the operation's name, and by the number of processes that were asked."""


def cost(by_number: Mapping[int, Sequence[Round]], word: Word) -> Cost:
    """What an operation costs at its dearest; `word` is what one word of it costs who hears it."""
    every = [each for found in by_number.values() for each in found]
    done = sum(each.done for each in every)
    words = sum(each.words for each in every) / done
    heard = words * word.api
    return Cost(
        api=own_cost(
            [(number, _median(found, _api)) for number, found in by_number.items()], heard
        ),
        heard=heard,
        database=max(_median(found, _database) for found in by_number.values()),
        told=words * word.database,
        commits=sum(each.commits for each in every) / done,
        wal=_median(every, _wal),
        disk=sum(each.disk for each in every) / done,
    )


def show(
    rounds: Rounds,
    works: Sequence[Operation],
    flush: float,
    word: Word,
    arguments: Namespace,
    now: datetime,
    load: float,
) -> None:
    """Prints it all."""
    given = Assumptions(flush=flush)
    costs = {work.name: cost(rounds[work.name], word) for work in works}
    hottest = max(_median(found, _rate) for found in rounds[POOLED].values())
    asked = [
        *((f"{rate:,} spends/s, hold and settle", rate, costs["spend"]) for rate in SPENDS),
        *((f"{rate:,} spends/s, recordUsage", rate, costs["record"]) for rate in SPENDS),
        (f"{DASHBOARDS:,} dashboards a day", busiest_second(DASHBOARDS, given), costs["dashboard"]),
    ]
    needs = [
        (name, need(rate, each, given), need(rate, each.unheard(), given))
        for name, rate, each in asked
    ]
    # In a file or a pipe it would be wrapped at 80.
    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)
    style = box.MARKDOWN if arguments.markdown else box.HEAVY_HEAD
    for title, table in (
        ("Measured", _measured(rounds, works, style)),
        ("Reckoned: nodes", _needed(needs, given, style)),
        (
            "Reckoned: what gives way first, hold and settle (above 1 it must be lifted)",
            _limited([each for _, each, _ in needs[:3]], costs["spend"], hottest, given, style),
        ),
    ):
        console.print(f"\n{title}\n")
        console.print(table)
    console.print(
        f"\n{machine(now)}; {arguments.rows:,} transactions; rounds of {arguments.seconds:g} s,"
        f" {arguments.rounds} of each; load average at the end {load:.1f}. ± is half of what lies"
        " between the lowest and the highest round. Clients, API and PostgreSQL share these cores:"
        " operations a second say nothing about more of them, processor time does.",
    )
    console.print(f"Assumed: {_assumed(given)}.")
    console.print(
        "Unheard: if a process were told only of what is watched there. Commits: transactions with"
        " an id, of which those that only tell others wait for no disk.",
    )
    console.print("Reckoned by:")
    for formula in FORMULAS:
        console.print(f"- {formula}")
    console.print("With, in milliseconds of a core:")
    for work in works:
        each = costs[work.name]
        console.print(
            f"- {work.label}: api {figure(each.api)}, database {figure(each.database)};"
            f" heard {figure(each.heard * 1000)} µs, told {figure(each.told * 1000)} µs",
        )


def _assumed(given: Assumptions) -> str:
    return (
        f"utilisation {given.utilisation:.0%}, {given.busiest_hour:.0%} of a day in its busiest"
        f" hour, API nodes of {given.api_cores} cores, PostgreSQL of {given.database_cores} cores,"
        f" a pool of {given.pool} for each process, max_connections {given.max_connections},"
        f" {given.wal / MEGA:.0f} MB/s of WAL to a disk; one flush took {given.flush:.2f} ms here"
    )


def _measured(rounds: Rounds, works: Sequence[Operation], style: box.Box) -> Table:
    columns = (
        *("", "processes", "a second", "API ms", "PostgreSQL ms"),
        *("commits", "words", "WAL bytes", "disk kB", "median ms", "p95", "p99"),
    )
    table = _table(columns, style)
    for work in works:
        for number, found in rounds[work.name].items():
            taken = sorted(each for one in found for each in one.milliseconds)
            *_, p95, _, _, _, p99 = quantiles(taken, n=100) if len(taken) > 1 else taken * 99
            done = sum(one.done for one in found)
            table.add_row(
                work.label if number == 1 else "",
                str(number),
                spread(found, _rate),
                spread(found, _api),
                spread(found, _database),
                figure(sum(one.commits for one in found) / done),
                figure(sum(one.words for one in found) / done),
                spread(found, _wal),
                figure(sum(one.disk for one in found) / done / 1000),
                *map(figure, (median(taken), p95, p99)),
            )
    return table


def _needed(needs: Iterable[tuple[str, Need, Need]], given: Assumptions, style: box.Box) -> Table:
    columns = (
        *("", f"API cores (of {given.api_cores})", f"PostgreSQL cores (of {given.database_cores})"),
        *("unheard: API", "unheard: PostgreSQL", "connections", "outbox polls/s"),
        *("commits/s", "to a flush", "WAL MB/s", "disk TB a month"),
    )
    table = _table(columns, style)
    for name, each, unheard in needs:
        table.add_row(
            name,
            *_cores_and_nodes(each),
            *_cores_and_nodes(unheard),
            figure(each.connections),
            figure(each.polls),
            figure(each.commits),
            figure(each.commits * given.flush / 1000),
            figure(each.wal / MEGA),
            figure(each.disk / TERA),
        )
    return table


def _cores_and_nodes(need: Need) -> tuple[str, str]:
    return (
        f"{figure(need.api_cores)} ({figure(need.api_nodes)})",
        f"{figure(need.database_cores)} ({figure(need.database_nodes)})",
    )


def _limited(
    needs: Sequence[Need], cost: Cost, hottest: float, given: Assumptions, style: box.Box
) -> Table:
    table = _table(("", *(f"{each.rate:,}/s" for each in needs), "lifted by"), style)
    columns = [{each.name: each for each in limits(one, cost, hottest, given)} for one in needs]
    for name, first in columns[-1].items():
        table.add_row(name, *(figure(column[name].share) for column in columns), first.lift)
    return table


def _table(columns: Sequence[str], style: box.Box) -> Table:
    table = Table(box=style)
    for name in columns:
        table.add_column(name, justify="left" if name in ("", "lifted by") else "right")
    return table


def figure(value: float) -> str:
    """With three digits that matter."""
    if isinf(value):
        return "none"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.0001 else "0"


def spread(rounds: Sequence[Round], of: Callable[[Round], float]) -> str:
    """The median, and how far the rounds lie apart."""
    values = [of(each) for each in rounds]
    middle = median(values)
    apart = (max(values) - min(values)) / 2 / middle if middle else 0
    return f"{figure(middle)} ±{apart:.0%}"


def _rate(one: Round) -> float:
    return one.done / one.seconds


def _api(one: Round) -> float:
    return one.api * 1000 / one.done


def _database(one: Round) -> float:
    return one.database * 1000 / one.done


def _wal(one: Round) -> float:
    return one.wal / one.done


def _median(rounds: Sequence[Round], of: Callable[[Round], float]) -> float:
    return median(map(of, rounds))
