"""What is logged: a line for each event, JSON in production and for people in development.

Modules and libraries log with the standard library; all of it takes the one way out below. A line
holds no secret and nothing that a client sent but its method, path, operation name and request id.
"""

import logging
import re
import traceback
import uuid
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any

import orjson
import structlog
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import Processor

from app.config import Environment, Settings

MAX_NAME = 64
MAX_TEXT = 2000
_FRAMES = 30
_FIELDS = ("method", "path", "status", "duration_ms", "bytes")
_SECRET = re.compile(
    r"[^\s@:/<>(){}\[\]'\",;=][^\s@:/<>(){}\[\]\",;=]{0,255}@[\w.-]+"  # an e-mail address, or a password before its host
    r"|\beyJ[\w-]{8,}(?:\.[\w-]+)*"  # a token
)
_FACTS = ("sqlstate", "constraint_name", "sqlite_errorname", "errno")
_WORDS_WITH_VALUES = {"asyncpg", "sqlalchemy"}

_Event = MutableMapping[str, Any]
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
_notes: ContextVar[dict[str, str]] = ContextVar("notes")
"""Of the request that is being answered: one dictionary for all the tasks that it is answered by."""


def configuration(settings: Settings) -> dict[str, Any]:
    """For `logging.config.dictConfig`, in each process that serves."""
    in_production = settings.environment == Environment.PRODUCTION
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": "app.logs.formatter", "in_production": in_production}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "line",
            }
        },
        "root": {"level": "INFO", "handlers": ["stdout"]},
        "loggers": {"alembic": {"level": "WARNING"}},  # it tells each time which database it is
    }


def formatter(in_production: bool) -> ProcessorFormatter:
    """Makes a line of a record, whoever logged it."""
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # whoever reads the lines may have gone: so be it
    # No line has them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    renderer: Processor = (
        structlog.processors.JSONRenderer(_as_json)
        if in_production
        else structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        )
    )
    return ProcessorFormatter(
        foreign_pre_chain=[
            add_log_level,
            add_logger_name,
            _add_notes,
            ExtraAdder(_FIELDS),
            structlog.processors.TimeStamper(fmt="iso"),
        ],
        processors=[
            ProcessorFormatter.remove_processors_meta,
            _clean,
            structlog.processors.ExceptionRenderer(partial(_told, words=not in_production)),
            renderer,
        ],
    )


@contextmanager
def request(request_id: str) -> Iterator[None]:
    """Names the request in all that is logged meanwhile."""
    token = _notes.set({"request_id": request_id})
    try:
        yield
    finally:
        _notes.reset(token)


def request_id() -> str:
    """Of the request that is being answered."""
    return _notes.get({}).get("request_id") or uuid.uuid4().hex


def note_operation(name: str) -> None:
    """Which operation the request has run, a name of GraphQL."""
    if notes := _notes.get({}):
        notes["operation"] = name[:MAX_NAME]


def printable(text: str) -> str:
    """The text on one line: whatever could end the line or steer a terminal is escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _add_notes(_logger: Any, _method: str, event: _Event) -> _Event:
    event.update(_notes.get({}))
    return event


def _clean(_logger: Any, _method: str, event: _Event) -> _Event:
    for name, value in event.items():
        if not isinstance(value, int | float) and name != "exc_info":
            event[name] = _cleaned(str(value))
    return event


def _cleaned(text: str) -> str:
    text = printable(text[:MAX_TEXT])
    return _SECRET.sub("[hidden]", text) if "@" in text or "eyJ" in text else text


def _as_json(event: _Event, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def _told(exc_info: _ExcInfo, *, words: bool) -> str:
    return "\n".join(_lines(exc_info[1], words, set()))


def _lines(error: BaseException, words: bool, seen: set[int]) -> Iterator[str]:
    """An exception and its causes: types and places, but in production none of its own words.

    They may quote what a client sent, and those of the database's driver quote whole rows.
    """
    seen.add(id(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen:
        yield from _lines(cause, words, seen)
        yield "which led to:"
    for frame in traceback.format_tb(error.__traceback__, -_FRAMES):
        yield frame.rstrip("\n")
    yield _summary(error, words)
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _lines(one, words, seen)


def _summary(error: BaseException, words: bool) -> str:
    kind = type(error)
    facts = {name: getattr(error, name, None) for name in _FACTS}
    told = f"{kind.__module__}.{kind.__qualname__}"
    told += "".join(f" {name}={value}" for name, value in facts.items() if value)
    if words and kind.__module__.partition(".")[0] not in _WORDS_WITH_VALUES:
        told += f": {error}"
    return _cleaned(told)
