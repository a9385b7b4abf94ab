"""Where traces are made, if the operator wants them; OpenTelemetry is imported only then."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sqlalchemy import Engine
from starlette.types import ASGIApp

_tracers: list[Any] = []
"""The one of this process; empty without traces."""


def span(name: str) -> AbstractContextManager[Any]:
    """A part of the request that is being answered."""
    if not _tracers:
        return nullcontext()
    started: AbstractContextManager[Any] = _tracers[-1].start_as_current_span(
        name, record_exception=False
    )
    return started


def traced(app: ASGIApp, engines: Iterable[Engine]) -> ASGIApp:
    """The application with a span for each request, root field and statement."""
    from app import telemetry  # noqa: PLC0415  (what it needs may not be installed)

    provider = telemetry.provider()
    _tracers.append(provider.get_tracer("billing"))
    return telemetry.instrumented(app, engines, provider)
