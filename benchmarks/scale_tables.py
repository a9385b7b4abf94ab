"""What `benchmarks.scale` has measured, and what is reckoned from it, as tables and formulas."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf, isinf
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
    busiest_second,
    limits,
    need,
    own_cost,
)
from benchmarks.figures import machine
from benchmarks.mandates import Operation

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
    idle: float | None
    """Likewise of each of the others; None where all were asked."""
    elapsed: float
    """Seconds that went by between the two looks at the processors."""
    database: float
    """Seconds of a core of PostgreSQL."""
    wal: int
    commits: int
    disk: int
    milliseconds: Sequence[float] = field(repr=False)
    """Each unit of requests took, from the first request to the last answer."""


Rounds = Mapping[tuple[str, int], Sequence[Round]]
"""By the operation's name and the number of processes that were asked."""


def cost(rounds: Rounds, name: str, resting: float) -> Cost:
    """What an operation costs at its dearest.

    `resting` is the share of a core that a process takes which hears of nothing.
    """
    by_number = {number: found for (each, number), found in rounds.items() if each == name}
    every = [each for found in by_number.values() for each in found]
    heard = heard_by_others(every, resting)
    api = [(number, _median(found, _api)) for number, found in by_number.items()]
    done = sum(each.done for each in every)
    return Cost(
        api=own_cost(api, heard),
        heard=heard,
        database=max(_median(found, _database) for found in by_number.values()),
        commits=sum(each.commits for each in every) / done,
        wal=sum(each.wal for each in every) / done,
        disk=sum(each.disk for each in every) / done,
    )


def heard_by_others(rounds: Sequence[Round], resting: float) -> float:
    """Milliseconds that each other process takes for an operation of which it only hears."""
    looked = [each for each in rounds if each.idle is not None]
    taken = sum((each.idle or 0) - resting * each.elapsed for each in looked)
    return max(0.0, taken * 1000 / (sum(each.done for each in looked) or 1))


def resting(rounds: Rounds) -> float:
    """The share of a core that a process takes while others show dashboards, of which none hears."""
    looked = [each for (name, _), found in rounds.items() if name == "dashboard" for each in found]
    idle = [each for each in looked if each.idle is not None]
    return sum(each.idle or 0 for each in idle) / (sum(each.elapsed for each in idle) or inf)


def show(
    rounds: Rounds,
    works: Sequence[Operation],
    flush: float,
    arguments: Namespace,
    now: datetime,
    load: float,
) -> None:
    """Prints it all."""
    given = Assumptions(flush=flush)
    rest = resting(rounds)
    costs = {work.name: cost(rounds, work.name, rest) for work in works}
    hottest = {
        work.name: max(
            _median(found, _rate) for (name, _), found in rounds.items() if name == work.name
        )
        for work in works
    }
    needs = [
        *(
            (f"{rate:,} spends/s, hold and settle", need(rate, costs["spend"], given))
            for rate in SPENDS
        ),
        *(
            (f"{rate:,} spends/s, recordUsage of 100", need(rate, costs["record"], given))
            for rate in SPENDS
        ),
        (
            f"{DASHBOARDS:,} dashboards a day",
            need(busiest_second(DASHBOARDS, given), costs["dashboard"], given),
        ),
    ]
    # In a file or a pipe it would be wrapped at 80.
    console = Console(width=None if sys.stdout.isatty() else 240)
    style = box.MARKDOWN if arguments.markdown else box.HEAVY_HEAD
    for title, table in (
        ("Measured", _measured(rounds, works, rest, style)),
        ("Reckoned: nodes", _needed(needs, given, style)),
        (
            "Reckoned: what gives way first, hold and settle (above 1 it must be lifted)",
            _limited(
                [each for _, each in needs[:3]], costs["spend"], hottest["hot-pooled"], given, style
            ),
        ),
    ):
        console.print(f"\n{title}\n", highlight=False)
        console.print(table)
    console.print(
        f"\n{machine(now)}; {arguments.rows:,} transactions; rounds of {arguments.seconds:g} s,"
        f" {arguments.rounds} of each; load average at the end {load:.1f}. ± is half of what lies"
        " between the lowest and the highest round. Clients, API and PostgreSQL share these cores:"
        " operations a second say nothing about more of them, processor time does.",
        highlight=False,
    )
    console.print(f"Assumed: {_assumed(given)}.", highlight=False)
    console.print("Reckoned by:", highlight=False)
    for formula in FORMULAS:
        console.print(f"- {formula}", highlight=False)
    console.print("With, in milliseconds of a core:", highlight=False)
    for work in works:
        each = costs[work.name]
        console.print(
            f"- {work.label}: api {figure(each.api)}, heard {figure(each.heard)},"
            f" database {figure(each.database)}",
            highlight=False,
        )


def _assumed(given: Assumptions) -> str:
    return (
        f"utilisation {given.utilisation:.0%}, {given.busiest_hour:.0%} of a day in its busiest"
        f" hour, API nodes of {given.api_cores} cores, PostgreSQL of {given.database_cores} cores,"
        f" a pool of {given.pool} for each process, max_connections {given.max_connections},"
        f" {given.wal / MEGA:.0f} MB/s of WAL to a disk; one flush took {given.flush:.2f} ms here"
    )


def _measured(rounds: Rounds, works: Sequence[Operation], rest: float, style: box.Box) -> Table:
    columns = (
        *("", "processes", "a second", "API ms", "heard ms", "PostgreSQL ms"),
        *("commits", "WAL kB", "disk kB", "median ms", "p95", "p99"),
    )
    table = _table(columns, style)
    for work in works:
        for (name, number), found in rounds.items():
            if name != work.name:
                continue
            taken = sorted(each for one in found for each in one.milliseconds)
            *_, p95, _, _, _, p99 = quantiles(taken, n=100) if len(taken) > 1 else taken * 99
            done = sum(one.done for one in found)
            hears = any(one.idle is not None for one in found)
            table.add_row(
                work.label if number == 1 else "",
                str(number),
                spread(found, _rate),
                spread(found, _api),
                figure(heard_by_others(found, rest)) if hears else "",
                spread(found, _database),
                figure(sum(one.commits for one in found) / done),
                figure(sum(one.wal for one in found) / done / 1000),
                figure(sum(one.disk for one in found) / done / 1000),
                *map(figure, (median(taken), p95, p99)),
            )
    return table


def _needed(needs: Iterable[tuple[str, Need]], given: Assumptions, style: box.Box) -> Table:
    columns = (
        *("", f"API cores (nodes of {given.api_cores})", "if nothing is heard"),
        f"PostgreSQL cores (nodes of {given.database_cores})",
        *(
            "connections",
            "outbox polls/s",
            "commits/s",
            "to a flush",
            "WAL MB/s",
            "disk TB a month",
        ),
    )
    table = _table(columns, style)
    for name, each in needs:
        table.add_row(
            name,
            f"{figure(each.api_cores)} ({figure(each.api_nodes)})",
            f"{figure(each.api_cores_unheard)} ({figure(each.api_nodes_unheard)})",
            f"{figure(each.database_cores)} ({figure(each.database_nodes)})",
            figure(each.connections),
            figure(each.polls),
            figure(each.commits),
            figure(each.commits * given.flush / 1000),
            figure(each.wal / MEGA),
            figure(each.disk / TERA),
        )
    return table


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
    return f"{value:.3g}" if value >= 0.001 else "0"


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


def _median(rounds: Sequence[Round], of: Callable[[Round], float]) -> float:
    return median(map(of, rounds))
