"""What every answer carries, whatever it answers; and which pages of other origins may ask."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from app.config import Settings
from app.database import Database, DatabaseUnavailable
from app.server import create_app, door
from app.server.middleware import surround
from tests.api import Api, add_people, in_production, serving

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]

ORIGIN = "https://app.example.com"
STRICT = "default-src 'none'; frame-ancestors 'none'"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-request-id",
}


@pytest.fixture
def options(database_url: str) -> Settings:
    return in_production(database_url, cors_origins=(ORIGIN,), metrics=True)


@pytest.fixture
async def production(options: Settings, database: Database) -> AsyncIterator[Api]:
    await add_people(database)
    async with serving(options) as api:
        yield api


def assert_safe(response: httpx.Response, policy: str = STRICT) -> None:
    told = response.headers
    for name, value in {
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": policy,
        "X-Request-Id": "abc",
    }.items():
        assert told.get_list(name) == [value], (response.status_code, name)


JSON = {"Content-Type": "application/json"}


async def test_every_answer_is_safe(production: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = {"query": "{ viewer { isSysAdmin } }"}
    root = production.bearer("root")
    requests: list[tuple[int, str, str, dict[str, Any]]] = [
        (200, "POST", "/graphql", {"json": ask, "headers": root}),
        (400, "POST", "/graphql", {"content": b"{", "headers": JSON | root}),
        (401, "POST", "/graphql", {"content": b"{", "headers": JSON}),
        (413, "POST", "/graphql", {"content": b" " * 5_000_000, "headers": JSON | root}),
        (415, "POST", "/graphql", {"content": b"{", "headers": root}),
        (401, "POST", "/graphql", {"json": ask, "headers": {"Authorization": "Bearer x"}}),
        (404, "GET", "/nothing", {}),
        (307, "GET", "/graphql/", {}),
        (405, "PUT", "/graphql", {}),
        (200, "GET", "/metrics", {}),
        (200, "GET", "/export/transactions.csv?mandateId=acme", {"headers": root}),
        (200, "HEAD", "/export/transactions.csv?mandateId=acme", {"headers": root}),
        (404, "GET", "/export/transactions.csv?mandateId=none", {"headers": root}),
        (400, "GET", "/export/transactions.csv?nothing=1", {"headers": root}),
        (200, "OPTIONS", "/graphql", {"headers": PREFLIGHT}),
        (400, "OPTIONS", "/graphql", {"headers": PREFLIGHT | {"Origin": "https://example.com"}}),
    ]
    for status, method, path, given in requests:
        headers = given.pop("headers", {}) | {"X-Request-Id": "abc"}
        response = await production.client.request(method, path, headers=headers, **given)
        assert response.status_code == status, path
        assert_safe(response)
        assert "Strict-Transport-Security" not in response.headers  # asked without TLS

    for error, status in ((DatabaseUnavailable(), 503), (RuntimeError("hunter2"), 500)):

        async def fail(*_: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(door, "load_viewer", fail)
        for method, path in (("POST", "/graphql"), ("GET", "/export/usage.csv")):
            response = await production.client.request(
                method,
                path,
                headers=root | {"X-Request-Id": "abc"},
                json=ask if method == "POST" else None,
            )
            assert response.status_code == status
            assert_safe(response)


async def test_no_route_and_no_failure_answers_otherwise(
    options: Settings, database: Database
) -> None:
    async def fail(_: Any) -> Any:
        raise RuntimeError("hunter2")

    async def answer(_: Any) -> Response:
        return Response(headers={"Cache-Control": "public", "X-Request-Id": "another"})

    app = create_app(options)
    app.router.routes += [Route("/failing", fail), Route("/public", answer)]
    app.middleware_stack = surround(app, options, database)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://billing"
    ) as client:
        headers = {"X-Request-Id": "abc", "Origin": ORIGIN}
        assert_safe(await client.get("/public", headers=headers))
        response = await client.get("/failing", headers=headers)
    assert response.status_code == 500
    assert_safe(response)
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    [error] = response.json()["errors"]
    assert error["extensions"] == {"code": "INTERNAL", "requestId": "abc"}
    assert "hunter2" not in response.text


async def test_a_page_may_load_what_is_ours_alone(api: Api, production: Api) -> None:
    headers = {"Accept": "text/html", "X-Request-Id": "abc"}
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
        " connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    for client in (api.client, production.client):
        assert_safe(await client.get("/", headers=headers), policy)
    policy = policy.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
    assert_safe(await api.client.get("/graphql", headers=headers), policy)
    for client in (api.client, production.client):
        assert_safe(await client.get("/nothing", headers=headers))
    assert_safe(await production.client.get("/graphql", headers=headers))


async def test_transport_stays_secure_where_it_is(options: Settings, api: Api) -> None:
    app = create_app(options)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="https://billing"
    ) as client:
        answer = await client.get("/nothing")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    local = await api.client.get("https://localhost/nothing")
    assert "Strict-Transport-Security" not in local.headers


async def test_no_origin_may_ask_unless_named(api: Api) -> None:
    for method in ("OPTIONS", "GET"):
        response = await api.client.request(method, "/graphql", headers=PREFLIGHT)
        assert not [name for name in response.headers if name.startswith("access-control")]


async def test_an_origin_that_is_named_may_ask(production: Api) -> None:
    headers = production.bearer("root") | {"Origin": ORIGIN}
    ask = {"query": "{ viewer { isSysAdmin } }"}
    answer = await production.client.post("/graphql", json=ask, headers=headers)
    assert answer.json()["data"] == {"viewer": {"isSysAdmin": True}}
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert answer.headers["Access-Control-Expose-Headers"] == "X-Request-Id, Retry-After"
    assert "Origin" in answer.headers["Vary"]
    preflight = await production.client.options("/graphql", headers=PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert preflight.headers["Access-Control-Allow-Methods"] == "GET, POST"
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "content-type", "x-request-id"} <= set(allowed)
    for told in (answer, preflight):
        assert "Access-Control-Allow-Credentials" not in told.headers
    # The browser is told of failures, too: a page must be able to read why.
    refused = await production.client.post(
        "/graphql", json=ask, headers={"Origin": ORIGIN, "Authorization": "Bearer x"}
    )
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, ORIGIN)
    for other in ("https://example.com", "http://app.example.com", f"{ORIGIN}.example.org", "null"):
        foreign = await production.client.post(
            "/graphql", json=ask, headers=headers | {"Origin": other}
        )
        assert "Access-Control-Allow-Origin" not in foreign.headers


def test_the_outermost_layer_is_the_one_that_marks_answers(options: Settings) -> None:
    """Whatever is put inside, its answers get the headers."""
    app = create_app(options)
    layers = []
    layer: Any = app.middleware_stack
    while layer is not None and not isinstance(layer, Starlette):
        layers.append(type(layer).__name__)
        layer = getattr(layer, "_app", None) or getattr(layer, "app", None)
    assert layers[:3] == ["RequestMiddleware", "CORSMiddleware", "ServerErrorMiddleware"]
