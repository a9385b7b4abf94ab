"""The pages: what is served to whom, what they may load, and how long it is kept."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.config import Settings
from app.database import Database
from app.demo import ADMIN, GATEWAY, MEMBER, SYSADMIN
from app.server import pages
from tests.api import in_production, serving
from tests.servers import running
from tests.world import add_user

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]

HTML = {"Accept": "text/html,*/*;q=0.8"}
NOTHING = "default-src 'none'; frame-ancestors 'none'"
SCRIPT = "export const answer = 42;\n" * 50
ASSETS = {"dashboard": "/assets", "graphiql": "/graphiql/assets"}


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the pages are built into."""
    path = tmp_path / "static"
    monkeypatch.setattr(pages, "STATIC", path)
    return path


@pytest.fixture
def built(static: Path) -> Path:
    """Both pages are built."""
    for page in ASSETS:
        assets = static / page / "assets"
        assets.mkdir(parents=True)
        (static / page / "index.html").write_text(f"<title>{page}</title>")
        (assets / "index-1a2b.js").write_text(SCRIPT)
    return static


@pytest.fixture
async def development(database: Database, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(Settings(database_url=database_url)) as api:
        yield api.client


@pytest.fixture
async def production(database: Database, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(in_production(database_url, metrics=True)) as api:
        yield api.client


@pytest.mark.usefixtures("built")
async def test_the_dashboard_is_served_to_everybody(
    development: httpx.AsyncClient, production: httpx.AsyncClient
) -> None:
    for client in (development, production):
        page = await client.get("/", headers=HTML)
        assert (page.status_code, page.text) == (200, "<title>dashboard</title>")
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert page.headers.get_list("Cache-Control") == ["no-store"]
        [policy] = page.headers.get_list("Content-Security-Policy")
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (await client.head("/")).status_code == 200
        assert (await client.post("/")).status_code == 405


@pytest.mark.usefixtures("built")
async def test_graphiql_is_served_in_development_alone(
    development: httpx.AsyncClient, production: httpx.AsyncClient
) -> None:
    page = await development.get("/graphql", headers=HTML)
    assert (page.status_code, page.text) == (200, "<title>graphiql</title>")
    assert page.headers.get_list("Cache-Control") == ["no-store"]
    [policy] = page.headers.get_list("Content-Security-Policy")
    assert "script-src 'self'; style-src 'self' 'unsafe-inline';" in policy
    assert (await development.get("/graphiql/assets/index-1a2b.js")).status_code == 200

    refused = await production.get("/graphql", headers=HTML)
    assert refused.status_code == 401
    assert refused.headers.get_list("Content-Security-Policy") == [NOTHING]
    assert (await production.get("/graphiql/assets/index-1a2b.js")).status_code == 404


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("path", ASSETS.values())
async def test_what_a_page_loads_is_kept_for_ever(
    development: httpx.AsyncClient, path: str
) -> None:
    address = f"{path}/index-1a2b.js"
    script = await development.get(address)
    assert (script.status_code, script.text) == (200, SCRIPT)
    assert script.headers["Content-Type"].startswith("text/javascript")
    assert script.headers["Content-Encoding"] == "gzip"
    assert script.headers["X-Content-Type-Options"] == "nosniff"
    page = await development.get("/" if path == "/assets" else "/graphql", headers=HTML)
    same = await development.get(address, headers={"If-None-Match": script.headers["ETag"]})
    head = await development.head(address)
    assert (same.status_code, head.status_code) == (304, 200)
    for answer in (script, same, head):
        assert answer.headers.get_list("Cache-Control") == ["public, max-age=31536000, immutable"]
        # Which is that of a worker, too.
        assert answer.headers["Content-Security-Policy"] == page.headers["Content-Security-Policy"]
    assert (await development.post(address)).status_code == 405


async def test_nothing_else_is_served(built: Path, development: httpx.AsyncClient) -> None:
    (built / "secret.js").write_text("secret")
    (built / "dashboard" / "assets" / "linked.js").symlink_to(built / "secret.js")
    for path in (
        "/assets/none.js",
        "/assets/",
        "/assets",
        "/assets/linked.js",
        "/assets/%2e%2e/index.html",
        "/assets/..%2f..%2fsecret.js",
        "/assets//etc/passwd",
        "/assets/%00",
        f"/assets/{'x' * 300}",
        "/graphiql/index.html",
        "/graphiql/assets/../index.html",
        "/index.html",
        "/static/secret.js",
    ):
        answer = await development.get(path)
        assert (path, answer.status_code) == (path, 307 if path == "/assets" else 404)
        assert answer.headers.get_list("Cache-Control") == ["no-store"]
        assert answer.headers.get_list("Content-Security-Policy") == [NOTHING]


@pytest.mark.usefixtures("static")
async def test_a_page_that_is_not_built_says_how(development: httpx.AsyncClient) -> None:
    for path, name in (("/", "The dashboard"), ("/graphql", "GraphiQL")):
        page = await development.get(path, headers=HTML)
        assert page.status_code == 503
        assert f"<h1>{name} is not built</h1>" in page.text
        assert "Node.js 20" in page.text
        assert "make pages" in page.text
    assert (await development.get("/assets/index-1a2b.js")).status_code == 404
    asked = await development.post("/graphql", json={"query": "{ __typename }"})
    assert asked.json()["data"] == {"__typename": "Query"}


@pytest.mark.usefixtures("static")
async def test_a_page_may_be_built_while_the_server_runs(
    development: httpx.AsyncClient, request: pytest.FixtureRequest
) -> None:
    assert (await development.get("/")).status_code == 503
    request.getfixturevalue("built")
    assert (await development.get("/")).status_code == 200
    assert (await development.get("/assets/index-1a2b.js")).status_code == 200


@pytest.mark.usefixtures("built")
async def test_files_are_counted_by_where_they_lie(production: httpx.AsyncClient) -> None:
    for path in ("/", "/assets/index-1a2b.js", "/assets/none.js"):
        await production.get(path)
    told = (await production.get("/metrics")).text
    for labels in ('"/",status="200"', '"/assets",status="200"', '"/assets",status="404"'):
        assert f"billing_request_seconds_count{{route={labels}}}" in told
    assert "index-1a2b" not in told


async def test_the_demo_people_are_told_in_a_demo_alone(
    database: Database, database_url: str
) -> None:
    for user_id in (SYSADMIN, MEMBER, "someone"):
        await add_user(database, user_id)
    settings = Settings(database_url=database_url)
    async with serving(settings, demo=True) as api:
        answer = await api.client.get("/demo/people")
        assert answer.headers.get_list("Cache-Control") == ["no-store"]
        people = answer.json()
        assert [(person["id"], person["role"]) for person in people] == [
            (SYSADMIN, "a sysadmin"),
            (MEMBER, "a member"),
        ]
        for person in people:
            viewer = await api.client.post(
                "/graphql",
                json={"query": "{ viewer { user { id } } }"},
                headers={"Authorization": f"Bearer {person['token']}"},
            )
            assert viewer.json()["data"]["viewer"]["user"]["id"] == person["id"]
    for elsewhere, demo in ((settings, False), (in_production(database_url, metrics=True), True)):
        async with serving(elsewhere, demo) as api:
            assert (await api.client.get("/demo/people")).status_code == 404


async def test_every_worker_of_a_demo_tells_them(database: Database, database_url: str) -> None:
    people = [SYSADMIN, ADMIN, MEMBER, GATEWAY]
    for user_id in people:
        await add_user(database, user_id)
    options = ("--demo", "--workers", "2", "--drain", "0")
    with running(database_url, 1, None, *options) as [server]:
        async with httpx.AsyncClient(base_url=server.address, timeout=30) as client:
            answer = await client.get("/demo/people")
    assert [person["id"] for person in answer.json()] == people
