"""What carries a load: reckoned from what one operation was measured to cost. Nothing is measured here.

Each figure is one formula, which FORMULAS states for the reader.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf

HOUR, MONTH_DAYS = 3600, 30
MEGA, TERA = 10**6, 10**12

FORMULAS = (
    "dashboards a second = dashboards a day * share of the busiest hour / 3,600",
    "p, API cores and processes, each of which hears of every spend:"
    " p * utilisation = rate * (api + (p - 1) * heard), so"
    " p = rate * (api - heard) / (utilisation - rate * heard), at least rate * api / utilisation;"
    " none where rate * heard is above utilisation",
    "database cores = rate * (database + p * told) / utilisation",
    "nodes = cores / cores of one, rounded up",
    "connections = p * (pool + 1 that listens); outbox polls a second = p * 2 channels",
    "WAL a second = rate * WAL of one; commits likewise",
    "disk a month = rate * 3,600 / share of the busiest hour * 30 * bytes of one",
    "commits to a flush = commits a second * milliseconds of a flush / 1,000",
)


@dataclass(frozen=True, slots=True)
class Word:
    """Of what has changed, which every process is told: milliseconds of a core."""

    api: float
    """Of each process."""
    database: float
    """Of PostgreSQL, for each process."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one operation."""

    api: float
    """Milliseconds of a core of the process that answers it."""
    heard: float
    """Milliseconds of a core of each other process, which is told of it."""
    database: float
    """Milliseconds of a core of PostgreSQL."""
    told: float
    """Likewise for each process that is told of it."""
    commits: float
    """Transactions that write."""
    wal: float
    """Bytes."""
    disk: float
    """Bytes."""

    def unheard(self) -> "Cost":
        """If no process were told of what nobody watches there."""
        return replace(self, heard=0, told=0)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is not measured. All of it is printed with the figures."""

    utilisation: float = 0.6
    """Of each core, in the busiest hour."""
    busiest_hour: float = 0.1
    """Of a day's calls."""
    api_cores: int = 4
    """Of an API node, with a process for each."""
    database_cores: int = 16
    """Of a PostgreSQL, alone or as a worker of Citus."""
    pool: int = 20
    """Connections of a process, but for the one that listens."""
    max_connections: int = 100
    """PostgreSQL's default."""
    wal: float = 200 * MEGA
    """Bytes a second that the disk of one PostgreSQL keeps up with, and its replicas."""
    flush: float = 1.0
    """Milliseconds of one flush of it."""
    polls: int = 2
    """Statements a second by which each process looks into the outbox, for e-mails and webhooks."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a load needs."""

    rate: float
    """Operations a second in the busiest hour."""
    api_cores: float
    """Infinite where every process has enough to do with what it hears."""
    api_nodes: float
    database_cores: float
    database_nodes: float
    connections: float
    wal: float
    """Bytes a second."""
    commits: float
    """A second."""
    disk: float
    """Bytes a month."""
    polls: float
    """Looks into the outbox a second. Each concerns all mandates: on Citus, all shards."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What one PostgreSQL, one process or one mandate bears, and what lifts it."""

    name: str
    share: float
    """Of it that the load takes: above 1 it must be lifted."""
    lift: str


def busiest_second(a_day: float, given: Assumptions) -> float:
    """Calls a second in the busiest hour of a day with so many."""
    return a_day * given.busiest_hour / HOUR


def processes(rate: float, cost: Cost, given: Assumptions) -> float:
    """API processes of one core each; infinite where no number is enough."""
    left = given.utilisation - rate * cost.heard / 1000
    if left <= 0:
        return inf
    unheard = rate * cost.api / 1000 / given.utilisation
    return max(unheard, rate * (cost.api - cost.heard) / 1000 / left)


def need(rate: float, cost: Cost, given: Assumptions) -> Need:
    """What so many operations a second in the busiest hour need."""
    api = processes(rate, cost, given)
    told = api * cost.told if cost.told else 0
    database = rate * (cost.database + told) / 1000 / given.utilisation
    return Need(
        rate=rate,
        api_cores=api,
        api_nodes=_whole(api / given.api_cores),
        database_cores=database,
        database_nodes=_whole(database / given.database_cores),
        connections=_whole(api) * (given.pool + 1),
        wal=rate * cost.wal,
        commits=rate * cost.commits,
        disk=rate * HOUR / given.busiest_hour * MONTH_DAYS * cost.disk,
        polls=_whole(api) * given.polls,
    )


def _whole(number: float) -> float:
    return number if number == inf else ceil(number)


def limits(need: Need, cost: Cost, hottest: float, given: Assumptions) -> list[Limit]:
    """What gives way first comes first; `hottest` is how many operations a second one mandate takes."""
    found = [
        Limit(
            "a mandate with a tenth of all spends",
            need.rate / 10 / hottest,
            "recordUsage in batches; an account a user",
        ),
        Limit(
            "what every process hears",
            need.rate * cost.heard / 1000 / given.utilisation,
            "words for watchers alone: not built",
        ),
        Limit(
            f"connections: {given.max_connections}",
            need.connections / given.max_connections,
            "PgBouncer",
        ),
        Limit(
            f"one PostgreSQL of {given.database_cores} cores",
            need.database_cores / given.database_cores,
            "recordUsage in batches; then Citus by mandate",
        ),
        Limit(
            f"WAL: {given.wal / MEGA:.0f} MB/s of one disk",
            need.wal / given.wal,
            "recordUsage in batches; wal_compression; Citus by mandate",
        ),
    ]
    return sorted(found, key=lambda limit: limit.share, reverse=True)


def own_cost(api: Sequence[tuple[int, float]], heard: float) -> float:
    """What an operation costs the process that answers it, at its dearest.

    `api` has what it was measured to cost n processes together, (n - 1) of which only heard of it.
    """
    return max(together - (number - 1) * heard for number, together in api)
