"""What a failure of the database means: it passes, or there is no database."""

import sqlite3

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

LOST = (OSError, PoolTimeout, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What is raised past SQLAlchemy, by a connection that was not got or that ends as it is opened."""
_SQLSTATES_TO_RETRY = {
    "23505",  # unique violation: the other one has committed by now
    "40001",  # serialization
    "40P01",  # deadlock
    "55P03",  # lock not available
}
_SQLITE_CODES_TO_RETRY = {
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
}
_SQLSTATES_OF_ABSENCE = {
    "08",  # connection
    "28",  # no such login
    "3D",  # no such database
    "53",  # resources
    "57",  # operator intervention
}
_SQLITE_CODES_OF_ABSENCE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
}


def means_absence(error: DBAPIError) -> bool:
    """Whether the database, or the connection to it, is not there."""
    return (
        error.connection_invalidated
        or _sqlstate(error)[:2] in _SQLSTATES_OF_ABSENCE
        or _sqlite_code(error) & 0xFF in _SQLITE_CODES_OF_ABSENCE
    )


def passes_on_retry(error: DBAPIError) -> bool:
    """Whether the whole unit of work may succeed when it is run again."""
    code = _sqlite_code(error)
    return (
        _sqlstate(error) in _SQLSTATES_TO_RETRY
        or code in _SQLITE_CODES_TO_RETRY
        or code & 0xFF == sqlite3.SQLITE_BUSY
    )


def took_too_long(error: BaseException) -> bool:
    """Whether it, or its cause, is that a statement was cancelled, as after its timeout."""
    return "57014" in (_sqlstate(error), _sqlstate(error.__cause__))


def reason_of(error: BaseException) -> str:
    """What was the matter, for the log: names and codes, never words, which may quote a row."""
    cause = error.__cause__ or error
    cause = getattr(cause, "orig", None) or cause
    cause = cause.__cause__ or cause  # SQLAlchemy has one class for many of the driver's
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    return f"{type(cause).__name__} {code or ''}".rstrip()


def _sqlstate(error: BaseException | None) -> str:
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def _sqlite_code(error: DBAPIError) -> int:
    """The extended result code; 0 where the error is not SQLite's."""
    return int(getattr(error.orig, "sqlite_errorcode", 0))
