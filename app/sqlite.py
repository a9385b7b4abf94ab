"""Connections to SQLite that behave like those to PostgreSQL."""

import asyncio
import sqlite3
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import aiosqlite
from sqlalchemy import Connection


async def open_connection(*arguments: Any, **options: Any) -> aiosqlite.Connection:
    """Where a file cannot be opened, the thread that tried still needs the loop: it is waited for."""
    connection = aiosqlite.connect(*arguments, **options)
    connection._thread.daemon = True
    try:
        return await connection
    except sqlite3.Error:
        await asyncio.to_thread(connection._thread.join)
        raise


def prepare(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "recursive_triggers=ON",  # else REPLACE deletes rows past the triggers that refuse it
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    # SQLite's own lower() knows ASCII alone; searches must find "Ä" by "ä" as on PostgreSQL.
    connection.create_function("lower", 1, _lower, deterministic=True)
    # The database's clock under PostgreSQL's name; SQLite's own stops at milliseconds.
    connection.create_function("statement_timestamp", 0, _clock)
    connection.create_function("width_bucket", 2, _width_bucket, deterministic=True)


def begin_immediate(connection: Connection) -> None:
    """Takes the write lock first: a deferred transaction that upgrades is BUSY despite any timeout."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _clock() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"


def _width_bucket(operand: str, thresholds: str) -> int:
    """PostgreSQL's search in an array, here of lines: the place from 1 of the last one not above."""
    return bisect_right(_lines(thresholds), operand)


@lru_cache(maxsize=16)
def _lines(text: str) -> Sequence[str]:
    return text.split("\n")


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()
