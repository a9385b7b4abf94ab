"""GraphQL over HTTP: media types, status codes, and requests that are none."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from app.database import Database
from app.server import view
from tests.api import Api, add_people

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]

JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"
IS_ADMIN = "{ viewer { isSysAdmin } }"


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (JSON, JSON),
        (f"{JSON}; charset=utf-8", JSON),
        (GRAPHQL_JSON, GRAPHQL_JSON),
        (f"{GRAPHQL_JSON}; charset=utf-8, {JSON}; charset=utf-8", GRAPHQL_JSON),
        (f"{JSON}, {GRAPHQL_JSON}", GRAPHQL_JSON),
        (f"{GRAPHQL_JSON};q=0.5, {JSON};q=0.9", JSON),
        (f"{GRAPHQL_JSON.upper()}, */*;q=0.1", GRAPHQL_JSON),
        (f"{GRAPHQL_JSON};q=0", JSON),
        (f"{GRAPHQL_JSON};q=x, {JSON}", JSON),
        ("text/plain", JSON),
        (",;q=,", JSON),
    ],
)
async def test_the_media_type_is_one_that_the_client_accepts(
    database: Database, api: Api, accept: str | None, media_type: str
) -> None:
    await add_people(database)
    headers = api.bearer("root") | ({"Accept": accept} if accept else {"Accept": ""})
    for document, is_good in ((IS_ADMIN, True), ("{ nothing }", False), (None, False)):
        response = await api.client.post("/graphql", json={"query": document}, headers=headers)
        assert response.headers["Content-Type"] == f"{media_type}; charset=utf-8"
        assert ("data" in response.json()) == is_good
        if document is None:
            assert response.status_code == 400
        else:
            refused = 400 if media_type == GRAPHQL_JSON else 200
            assert response.status_code == (200 if is_good else refused)


@pytest.mark.parametrize(
    "content_type",
    [
        JSON,
        f"{JSON}; charset=UTF-8",
        "APPLICATION/json",
        f"{JSON}; xcharset=latin-1",
        f'{JSON}; x="charset=latin-1"; charset="utf-8"',
        f"{JSON}; charset",
    ],
)
async def test_a_body_is_json_in_utf8(database: Database, api: Api, content_type: str) -> None:
    await add_people(database)
    body = orjson.dumps({"query": IS_ADMIN})
    headers = api.bearer("root") | {"Content-Type": content_type}
    response = await api.client.post("/graphql", content=body, headers=headers)
    assert response.json()["data"] == {"viewer": {"isSysAdmin": True}}


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        ";",
        "text/plain",
        "application/graphql",
        "application/json-patch+json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        f"{JSON}; charset=utf-16",
        f"{JSON}; charset=latin-1",
        f"{JSON}; charset*=utf-8''x%ff",
    ],
)
async def test_a_body_of_another_type_is_refused(
    database: Database, api: Api, content_type: str
) -> None:
    await add_people(database)
    body = orjson.dumps({"query": IS_ADMIN})
    headers = api.bearer("root") | {"Content-Type": content_type}
    response = await api.client.post("/graphql", content=body, headers=headers)
    [error] = response.json()["errors"]
    assert (response.status_code, error["extensions"]) == (415, {"code": "BAD_USER_INPUT"})
    assert error["message"] == "Send application/json in UTF-8."


async def test_several_operations_need_a_name(database: Database, api: Api) -> None:
    await add_people(database)
    document = (
        "query A { viewer { user { id } } } query B { viewer { isSysAdmin } }"
        ' mutation C { upsertUser(input: {id: "new"}) { user { id } } }'
    )

    async def ask(method: str, **parameters: Any) -> Any:
        headers = api.bearer("root") | {"Accept": GRAPHQL_JSON}
        sent = {"query": document, **parameters}
        how: dict[str, Any] = {"json": sent} if method == "POST" else {"params": sent}
        return await api.client.request(method, "/graphql", headers=headers, **how)

    for method in ("POST", "GET"):
        answer = await ask(method)
        assert answer.status_code == 400
        assert "several operations" in answer.json()["errors"][0]["message"]
        answer = await ask(method, operationName="B")
        assert answer.json()["data"] == {"viewer": {"isSysAdmin": True}}
        answer = await ask(method, operationName="D")
        assert answer.status_code == 400
        assert "no operation 'D'" in answer.json()["errors"][0]["message"]
    assert (await ask("GET", operationName="C")).status_code == 405
    answer = await ask("POST", operationName="C")
    assert answer.json()["data"] == {"upsertUser": {"user": {"id": "new"}}}


async def test_head_changes_nothing(database: Database, api: Api) -> None:
    await add_people(database)
    change = {"query": 'mutation { upsertUser(input: {id: "by-head"}) { user { id } } }'}
    for body in (change, None):
        answer = await api.client.request("HEAD", "/graphql", headers=api.bearer("root"), json=body)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST")
    audit = await api("root", '{ auditLog(subject: "user:by-head") { nodes { action } } }')
    assert audit.data == {"auditLog": {"nodes": []}}


async def test_a_large_body_is_refused_before_it_is_read(
    database: Database, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_people(database)
    monkeypatch.setattr(view, "MAX_BODY", 1000)
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 100

    headers = api.bearer("root") | {"Content-Type": JSON}
    response = await api.client.post("/graphql", content=chunks(), headers=headers)
    [error] = response.json()["errors"]
    assert (response.status_code, error["extensions"]) == (413, {"code": "BAD_USER_INPUT"})
    assert error["message"].startswith("A request has at most ")
    assert sent == 11
    response = await api.client.post("/graphql", content=b" " * 1001, headers=headers)
    assert response.status_code == 413
    just = orjson.dumps({"query": IS_ADMIN}).ljust(1000)
    assert (await api.client.post("/graphql", content=just, headers=headers)).status_code == 200


async def test_a_slow_body_is_not_waited_for(
    database: Database, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_people(database)
    monkeypatch.setattr(view, "BODY_SECONDS", 0.05)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    headers = api.bearer("root") | {"Content-Type": JSON}
    response = await api.client.post("/graphql", content=chunks(), headers=headers)
    assert response.status_code == 408


async def test_a_change_that_failed_halfway_is_no_request_error(
    database: Database, api: Api
) -> None:
    """What was run has `data`, null or not; what was not, has none."""
    await add_people(database)
    headers = api.bearer("alice") | {"Accept": GRAPHQL_JSON}
    document = "query($n: Int) { auditLog(first: $n) { totalCount } }"
    run = await api.client.post("/graphql", json={"query": document}, headers=headers)
    assert (run.status_code, run.json()["data"]) == (200, {"auditLog": None})
    wrong = {"query": document, "variables": {"n": "x"}}
    refused = await api.client.post("/graphql", json=wrong, headers=headers)
    assert (refused.status_code, "data" in refused.json()) == (400, False)
