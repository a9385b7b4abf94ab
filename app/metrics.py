"""What is measured, for Prometheus: of requests, root fields, the database and the books.

A label is a name of this program's own; never a user, a mandate or anything else a client chooses.
Several processes share their figures through files, in a directory that their parent makes.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from sqlalchemy import Engine, QueuePool

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

registry = CollectorRegistry()

REQUESTS = Histogram(
    "billing_request_seconds",
    "Time to answer a request, to the last byte.",
    ["route", "status"],
    buckets=_SECONDS,
    registry=registry,
)
ROOT_FIELDS = Histogram(
    "billing_root_field_seconds",
    "Time to resolve a field of Query or Mutation, without what it selects.",
    ["field"],
    buckets=_SECONDS,
    registry=registry,
)
ERRORS = Counter(
    "billing_errors", "Errors told to clients, by extensions.code.", ["code"], registry=registry
)
RETRIES = Counter(
    "billing_write_retries", "Units of work that had to be run again.", registry=registry
)
CONNECTIONS = Gauge(
    "billing_database_connections",
    "Connections of the pools: how many there may be, and how many are in use.",
    ["pool", "state"],
    multiprocess_mode="livesum",
    registry=registry,
)
REPLICA_READS = Counter(
    "billing_replica_reads",
    "Reads of lists, statistics and exports, by who answered: the replica, or the primary in its place.",
    ["answered_by"],
    registry=registry,
)
REPLICA_LAG = Gauge(
    "billing_replica_lag_bytes",
    "How far the replica was behind the primary's log when it was last asked.",
    multiprocess_mode="mostrecent",
    registry=registry,
)
STREAMS = Gauge(
    "billing_live_streams",
    "Subscriptions that are open.",
    multiprocess_mode="livesum",
    registry=registry,
)
OPEN_HOLDS = Gauge(
    "billing_holds_open",
    "Holds that set money aside now.",
    multiprocess_mode="mostrecent",
    registry=registry,
)
OUTBOX = Gauge(
    "billing_outbox_notices",
    "Notices that wait to be delivered.",
    ["channel"],
    multiprocess_mode="mostrecent",
    registry=registry,
)
OUTBOX_AGE = Gauge(
    "billing_outbox_oldest_seconds",
    "Age of the oldest notice that waits; 0 without one.",
    ["channel"],
    multiprocess_mode="mostrecent",
    registry=registry,
)
DRIFT = Gauge(
    "billing_ledger_drift_accounts",
    "Accounts whose stored figures do not follow from their latest transaction.",
    multiprocess_mode="livemax",
    registry=registry,
)
CHECKED = Counter(
    "billing_ledger_checked_accounts",
    "Accounts that were checked for drift, again and again.",
    registry=registry,
)


def observe_pools(engines: Mapping[str, Engine], in_use: Mapping[str, int]) -> None:
    """Reads the pools of this process."""
    for name, engine in engines.items():
        pool = cast("QueuePool", engine.pool)
        CONNECTIONS.labels(name, "size").set(pool.size())
        CONNECTIONS.labels(name, "in_use").set(in_use[name])


def exposition() -> bytes:
    """All figures in Prometheus's text format, of all processes."""
    directory = os.environ.get(_DIRECTORY)
    if directory is None:
        return generate_latest(registry)
    for file in Path(directory).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not _lives(pid):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
    merged = CollectorRegistry()
    MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
    return generate_latest(merged)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def shared(processes: int) -> Iterator[None]:
    """Has the processes that are started meanwhile put their figures together; alone, one needs not."""
    if processes == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="billing-metrics-") as directory:
        os.environ[_DIRECTORY] = directory
        try:
            yield
        finally:
            del os.environ[_DIRECTORY]
