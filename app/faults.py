"""What a failure of the database means: it passes, or there is no database."""

import sqlite3

from sqlalchemy.exc import DBAPIError

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


def took_too_long(error: BaseException | None) -> bool:
    """Whether a statement was cancelled, as after its timeout."""
    return isinstance(error, DBAPIError) and _sqlstate(error) == "57014"


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _sqlite_code(error: DBAPIError) -> int:
    """The extended result code; 0 where the error is not SQLite's."""
    return int(getattr(error.orig, "sqlite_errorcode", 0))
