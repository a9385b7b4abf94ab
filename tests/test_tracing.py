"""Traces: what they tell, that no value is among it, and that nothing is imported without them."""

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence

import pytest
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app import telemetry, tracing
from app.config import Settings
from app.database import Database
from tests.api import Api, add_people, serving
from tests.world import MANDATE, run_sql

pytestmark = pytest.mark.anyio

SECRET = "hunter2xyzzy"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What would have left the process."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(telemetry, "OTLPSpanExporter", lambda: exporter)
    monkeypatch.setattr(telemetry, "BatchSpanProcessor", SimpleSpanProcessor)
    return exporter


@pytest.fixture
async def traced(database_url: str, exporter: InMemorySpanExporter) -> AsyncIterator[Api]:
    try:
        async with serving(Settings(database_url=database_url, tracing=True)) as api:
            exporter.clear()
            yield api
    finally:
        SQLAlchemyInstrumentor().uninstrument()
        tracing._tracers.clear()


def told(spans: Sequence[ReadableSpan]) -> str:
    return "".join(span.to_json() for span in spans)


async def test_a_request_its_fields_and_its_statements(
    database: Database, traced: Api, exporter: InMemorySpanExporter
) -> None:
    await add_people(database)
    exporter.clear()
    await traced("alice", '{ viewer { isSysAdmin } providers(mandateId: "acme") }')
    spans = {span.name: span for span in exporter.get_finished_spans()}
    request = spans["request"]
    assert request.attributes
    assert request.attributes["http.status_code"] == 200
    assert request.resource.attributes["service.name"] == "mandate-billing"
    for field in ("viewer", "providers"):
        assert spans[field].parent == request.context
    statements = [
        span
        for span in exporter.get_finished_spans()
        if span.attributes and "db.statement" in span.attributes
    ]
    assert statements
    assert {span.context.trace_id for span in statements} == {request.context.trace_id}
    [providers] = [span for span in exporter.get_finished_spans() if span.name == "providers"]
    assert [span for span in statements if span.parent == providers.context]


async def test_spans_hold_no_values(
    database: Database,
    traced: Api,
    exporter: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await add_people(database)
    exporter.clear()
    headers = traced.bearer("root") | {
        "X-Secret": SECRET,
        "User-Agent": SECRET,
        "Traceparent": f"00-{'1' * 32}-{'2' * 16}-01",
        "Tracestate": f"v={SECRET}",
    }
    query = "query ($id: ID!) { balance(mandateId: $id) { held } }"
    asked = {"query": query, "variables": f'{{"id": "{SECRET}"}}'}
    await traced.client.get("/graphql", params=asked, headers=headers)
    await traced.client.get(f"/{SECRET}?{SECRET}", headers=headers)

    async def fail(database: Database, *_: object) -> None:
        broken = "SELECT CAST(CAST(:id AS TEXT) AS INTEGER)"  # PostgreSQL quotes the value
        if database.is_sqlite:
            broken = "INSERT INTO mandate (id) VALUES (:id)"
        await run_sql(database, broken, id=SECRET)

    monkeypatch.setattr("app.billing.settings.list_providers", fail)
    answer = await traced("root", "query ($id: ID!) { providers(mandateId: $id) }", id=SECRET)
    assert answer.codes == ["INTERNAL"]
    spans = exporter.get_finished_spans()
    assert {"request", "balance", "providers"} <= {span.name for span in spans}
    assert [span for span in spans if not span.status.is_ok]
    assert SECRET not in told(spans)
    assert headers["Authorization"].split(".")[1] not in told(spans)
    assert MANDATE not in told(spans)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_headers_that_the_environment_wants_are_left_out(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", ".*")
    try:
        async with serving(Settings(database_url=database_url, tracing=True)) as api:
            await api.client.get("/nothing", headers={"Authorization": f"Bearer {SECRET}"})
    finally:
        SQLAlchemyInstrumentor().uninstrument()
        tracing._tracers.clear()
    assert "request" in {span.name for span in exporter.get_finished_spans()}
    assert SECRET not in told(exporter.get_finished_spans())


async def test_spans_are_sent_in_the_background_and_the_environment_says_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    provider = telemetry.provider()
    try:
        assert isinstance(provider, TracerProvider)
        assert not provider.get_tracer("x").start_span("x").is_recording()
    finally:
        provider.shutdown()


def test_nothing_is_imported_without_them() -> None:
    script = (
        "import sys; from app.config import Settings; from app.server import create_app;"
        " create_app(Settings());"
        " print({'app.telemetry', 'opentelemetry.instrumentation'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "set()\n"
