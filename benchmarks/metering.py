"""What work has cost so far: processor time from /proc, and what PostgreSQL has written."""

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.types import new_key
from app.database import Database
from app.feed import CHANNEL
from app.postgresql import notify
from benchmarks.capacity import Word

_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _FIRST, _END = 1, 11, 15
"""Places behind the name in /proc/PID/stat: ppid; utime, stime, cutime, cstime."""
_WRITTEN = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS wal,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS transactions,
    pg_database_size(current_database()) AS size
"""
_POSTMASTER = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int"
_FLUSHES = 200
_WORDS, _NOTIFICATIONS, _SETTLED = 200, 100, 1.0
"""Words in a notification of those that are sent to see what they cost, and the seconds to hear them."""
_PAGE = bytes(8192)


@dataclass(frozen=True, slots=True)
class Written:
    """By a PostgreSQL server, since it was made."""

    wal: int
    """Bytes."""
    transactions: int
    """Those that were given an id, as each that writes or locks is."""
    size: int
    """Bytes of the database on the disk."""


def processor_seconds(pid: int) -> float:
    """Of a process and its descendants, with those that have ended and were waited for."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            told = path.read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        fields = told.rpartition(")")[2].split()
        each = int(path.parent.name)
        children[int(fields[_PARENT])].append(each)
        ticks[each] = sum(map(int, fields[_FIRST:_END]))
    total, family = 0, [pid]
    while family:
        each = family.pop()
        total += ticks.get(each, 0)
        family += children[each]
    return total / _TICKS


def thread_seconds(pid: int) -> float:
    """Of the threads that a process has, to the nanosecond: for what takes less than a tick."""
    taken = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(told.split()[0]) for told in taken) / 1e9


async def postmaster(connection: AsyncConnection) -> int:
    """The process id of the server, which runs on this machine."""
    return int((await connection.exec_driver_sql(_POSTMASTER)).scalar_one())


async def written(connection: AsyncConnection) -> Written:
    """What it has written so far."""
    found = (await connection.exec_driver_sql(_WRITTEN)).one()
    return Written(found.wal, found.transactions, found.size)


def milliseconds_to_flush(directory: Path) -> float:
    """What the disk below a directory takes to keep one page for good: the median."""
    path = directory / "flushed"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_FLUSHES):
            file.seek(0)
            file.write(_PAGE)
            begun = perf_counter()
            os.fdatasync(file.fileno())
            taken.append((perf_counter() - begun) * 1000)
    path.unlink()
    return sorted(taken)[_FLUSHES // 2]


class Ear:
    """Counts the words that every process is told."""

    heard = 0

    def hear(self, *_: object) -> None:
        self.heard += 1


@asynccontextmanager
async def listening(database: Database) -> AsyncIterator[Ear]:
    """An ear, meanwhile."""
    ear = Ear()
    async with database.engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.add_listener(CHANNEL, ear.hear)
        yield ear
        await driver.remove_listener(CHANNEL, ear.hear)


async def cost_of_word(database: Database, postmaster: int, pids: Sequence[int]) -> Word:
    """What each of these processes takes to hear a word, and PostgreSQL to tell it one of them.

    An ear listens, too. PostgreSQL's includes its part of taking the word down once.
    """
    payloads = [
        orjson.dumps(["copy-000", f"copy-000-user-{place:03}", [new_key(now)]]).decode()
        for now in [datetime.now(UTC)]
        for place in range(_WORDS)
    ]
    server, hearing = processor_seconds(postmaster), sum(map(thread_seconds, pids))
    async with database.read() as connection:
        for _ in range(_NOTIFICATIONS):
            await notify(connection, payloads)
    await asyncio.sleep(_SETTLED)
    server, hearing = (
        processor_seconds(postmaster) - server,
        sum(map(thread_seconds, pids)) - hearing,
    )
    words = _WORDS * _NOTIFICATIONS / 1000
    return Word(api=hearing / words / len(pids), database=server / words / (len(pids) + 1))
