"""OpenTelemetry: what is traced, and what of it may leave the process.

The standard OTEL_ variables say where to and how many. A span tells names and times: what the
instrumentations note besides (addresses with their query, headers, words of exceptions) is left out.
"""

import os
from collections.abc import Iterable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, Status
from sqlalchemy import Engine
from starlette.types import ASGIApp

_KEPT = {
    "http.method",
    "http.request.method",
    "http.status_code",
    "http.response.status_code",
    "db.system",
    "db.system.name",
    "db.statement",  # with placeholders where its values were
    "db.query.text",
}


class WithoutValues(SpanExporter):
    """Passes on spans with the attributes that are known to hold no value that a client sent."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([_cleaned(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _cleaned(span: ReadableSpan) -> ReadableSpan:
    noted = span.attributes or {}
    return ReadableSpan(
        span.name,
        _without_state(span.context),
        _without_state(span.parent),
        span.resource,
        {name: value for name, value in noted.items() if name in _KEPT},
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _without_state(context: SpanContext | None) -> SpanContext | None:
    """A client may send a state along with its trace, and in it whatever it likes."""
    return context and SpanContext(
        context.trace_id, context.span_id, context.is_remote, context.trace_flags
    )


def provider() -> TracerProvider:
    """Sends by OTLP, in the background."""
    os.environ.setdefault("OTEL_SERVICE_NAME", "mandate-billing")
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(WithoutValues(OTLPSpanExporter())))
    return provider


def instrumented(app: ASGIApp, engines: Iterable[Engine], provider: TracerProvider) -> ASGIApp:
    """The application with a span for each request and each statement."""
    # It names the versions of SQLAlchemy that it was tried with; our tests try the one we have.
    SQLAlchemyInstrumentor().instrument(
        engines=list(engines), tracer_provider=provider, skip_dep_check=True
    )
    middleware: ASGIApp = OpenTelemetryMiddleware(
        app,
        tracer_provider=provider,
        default_span_details=lambda _: ("request", {}),
        exclude_spans=["receive", "send"],
    )
    return middleware
