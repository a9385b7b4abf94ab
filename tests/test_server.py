import logging
from typing import Any

import httpx
import pytest
from graphql import get_introspection_query
from pydantic import SecretStr

from app.auth import issue_token
from app.billing import settings
from app.config import Settings
from app.database import Database
from app.revision import WrongRevision
from app.server import create_app
from app.server.door import Doorkeeper
from tests.api import Api, add_people, serving
from tests.world import SYSADMIN, add_user, dump

pytestmark = pytest.mark.anyio

SECRET = "password=hunter2 SELECT * FROM account"
CREDIT = """mutation { addCredit(input: {mandateId: "acme", amount: "1", idempotencyKey: "k"}) {
    transaction { id }
} }"""


async def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError(SECRET)


def assert_internal(errors: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    """One error that tells the client nothing but where to look in the log, which has it all."""
    [error] = errors
    request_id = error["extensions"]["requestId"]
    assert error["extensions"] == {"code": "INTERNAL", "requestId": request_id}
    assert error["message"] == f"Something went wrong on our side. Quote request {request_id}."
    assert SECRET not in repr(errors)
    [entry] = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert request_id in entry.getMessage()
    assert entry.exc_info
    assert SECRET in str(entry.exc_info[1])


async def test_a_failing_resolver_tells_nothing(
    database: Database,
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await add_people(database)
    monkeypatch.setattr(settings, "list_providers", fail)
    answer = await api("alice", '{ viewer { isSysAdmin } providers(mandateId: "acme") }')
    assert answer.data == {"viewer": {"isSysAdmin": False}, "providers": None}
    assert answer.errors[0]["path"] == ["providers"]
    assert_internal(answer.errors, caplog)


async def test_a_failing_loader_tells_nothing(
    database: Database,
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await add_people(database)
    monkeypatch.setattr("schema.loaders.mandates_by_id", fail)
    answer = await api("root", '{ balance(mandateId: "acme", userId: "alice") { mandate { id } } }')
    assert answer.data == {"balance": None}
    assert_internal(answer.errors, caplog)


async def test_a_failing_change_tells_nothing_and_writes_nothing(
    database: Database,
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await add_people(database, billing_model="PREPAY_MANDATE")
    before = await dump(database)
    monkeypatch.setattr("app.billing.credits.write_audit_event", fail)
    answer = await api("root", CREDIT)
    assert answer.data is None
    assert_internal(answer.errors, caplog)
    assert await dump(database) == before


async def test_a_failure_before_any_resolver_tells_nothing(
    database: Database,
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await add_people(database)
    monkeypatch.setattr("app.server.door.load_viewer", fail)
    answer = await api("alice", "{ viewer { isSysAdmin } }")
    assert (answer.status, answer.data) == (500, None)
    assert_internal(answer.errors, caplog)


@pytest.mark.parametrize(
    "database_url", ["sqlite:////nowhere/at/all.db", "postgresql://nobody:hunter2@127.0.0.1:1/none"]
)
@pytest.mark.usefixtures("loop_outlives_sqlite")
async def test_a_database_that_is_away(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Settings(database_url=database_url)
    transport = httpx.ASGITransport(create_app(options))
    async with httpx.AsyncClient(transport=transport, base_url="http://billing") as client:
        api = Api(client, options)
        for viewer in (None, SYSADMIN):
            if viewer:

                async def known(*_: Any) -> Any:
                    return SYSADMIN

                monkeypatch.setattr(Doorkeeper, "viewer", known)
            for query in ("{ mandates { totalCount } }", CREDIT):
                answer = await api("root", query)
                assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
                assert answer.data is None
                assert answer.errors[0]["message"].startswith("The database cannot be reached")
        assert (await api(None, "{ __typename }")).data == {"__typename": "Query"}


NOT_VALID = [
    "",
    "{",
    "query { viewer }",
    "{ nothing }",
    "{ balance { id } }",
    '{ balance(mandateId: "a", nothing: 1) { id } }',
    "{ viewer { ...Nothing } }",
    "query($id: ID!) { mandate(id: $id) { id } }",
    "query($id: Nothing!) { mandate(id: $id) { id } }",
    "query($first: String) { mandates(first: $first) { totalCount } }",
    "{ viewer @nothing { isSysAdmin } }",
    'mutation { addCredit(input: {mandateId: "acme"}) { transaction { id } } }',
    "mutation { addCredit { transaction { id } } }",
    "subscription { balanceChanged { id } }",
    "\0",
    '{ mandate(id: "\\uD800") { id } }',
    "query A { __typename } query A { __typename }",
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_request_that_is_not_valid(database: Database, api: Api) -> None:
    await add_people(database)
    for query in NOT_VALID:
        for user_id in ("root", None):
            answer = await api(user_id, query)
            assert answer.status in (200, 400)
            assert (query, {*answer.codes}, answer.data) == (query, {"BAD_USER_INPUT"}, None)
            assert all(error["message"] for error in answer.errors)


LARGE = b'{"query": "' + b"{ a" * 50_000 + b'"}'
BODIES: list[Any] = [
    b"",
    b"1",
    b'"x"',
    b"null",
    b"[]",
    b'[{"query": "{ __typename }"}]',
    b"{",
    b"{}",
    b'{"query": null}',
    b'{"query": 1}',
    b'{"query": ["{ __typename }"]}',
    b'{"query": "{ __typename }", "variables": 1}',
    b'{"query": "{ __typename }", "variables": []}',
    b'{"query": "{ __typename }", "variables": "{}"}',
    b'{"query": "{ __typename }", "operationName": 1}',
    b'{"query": "{ __typename }", "operationName": "Nothing"}',
    b'{"query": "{ __typename }", "extensions": 1}',
    b'{"query": "\\ud800"}',
    b'{"query": "\xff"}',
    b'{"query": "{ __typename }", "variables": {"a": NaN}}',
    b'{"query": "{ __typename }", "variables": {"a": ' + b"1" * 5000 + b"}}",
    b"[" * 100_000,
    b'{"query": "{ __typename }", "variables": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    LARGE,
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_body_that_is_not_a_request(database: Database, api: Api) -> None:
    await add_people(database)
    for body in BODIES:
        for user_id in ("root", None):
            headers = {"Content-Type": "application/json"}
            response = await api.client.post(
                "/graphql", content=body, headers=headers | (api.bearer(user_id) if user_id else {})
            )
            assert response.status_code in (200, 400), (body[:80], response.text)
            assert response.headers["Content-Type"].startswith("application/json"), body[:80]
            [code] = {error["extensions"]["code"] for error in response.json()["errors"]}
            is_large = body == LARGE
            assert code == ("OPERATION_TOO_COMPLEX" if is_large else "BAD_USER_INPUT"), body[:80]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_other_ways_to_ask(database: Database, api: Api) -> None:
    await add_people(database)
    headers = api.bearer("root") | {"Accept": "application/json"}
    ask: dict[str, Any] = {"query": "{ viewer { isSysAdmin } }"}
    response = await api.client.get("/graphql", params=ask, headers=headers)
    assert (response.status_code, response.json()["data"]) == (
        200,
        {"viewer": {"isSysAdmin": True}},
    )
    before = await dump(database)
    requests: list[tuple[int, str, dict[str, Any]]] = [
        (400, "GET", {}),
        (405, "GET", {"params": {"query": CREDIT}}),
        (400, "GET", {"params": ask | {"variables": "["}}),
        (400, "GET", {"params": ask | {"variables": "1"}}),
        (415, "POST", {}),
        (415, "POST", {"data": ask}),
        (415, "POST", {"files": {"operations": b"{}"}}),
        (415, "POST", {"content": ask["query"]}),
    ]
    for status, method, options in requests:
        response = await api.client.request(method, "/graphql", headers=headers, **options)
        [error] = response.json()["errors"]
        assert (response.status_code, error["extensions"]) == (status, {"code": "BAD_USER_INPUT"})
        assert response.headers.get("Allow") == ("POST" if status == 405 else None)
    for method in ("PUT", "DELETE", "PATCH"):
        response = await api.client.request(method, "/graphql", headers=headers)
        assert response.status_code == 405
    assert await dump(database) == before


async def test_anyone_may_read_the_schema(database_url: str, api: Api) -> None:
    answer = await api(None, get_introspection_query())
    assert (answer.status, answer.errors) == (200, [])
    assert {"Query", "Mutation"} <= {kind["name"] for kind in answer.data["__schema"]["types"]}


@pytest.mark.parametrize("blank_database_url", ["sqlite"], indirect=True)
async def test_it_does_not_start_on_another_revision(blank_database_url: str) -> None:
    with pytest.raises(WrongRevision, match="run `billing migrate`"):
        async with serving(Settings(database_url=blank_database_url)):
            pass


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_token_that_is_not_good(database: Database, api: Api) -> None:
    await add_people(database)
    await add_user(database, "disabled", enabled=False)
    options = Settings()
    other = Settings(jwt_secret=SecretStr("another secret of more than 32 bytes"))
    for header in (
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Bearer a.b.c",
        "Basic cm9vdDpyb290",
        issue_token(options, "root", 60),
        f"Bearer {issue_token(other, 'root', 60)}",
        f"Bearer {issue_token(options, 'root', -60)}",
        f"Bearer {issue_token(options, 'nobody', 60)}",
        f"Bearer {issue_token(options, 'disabled', 60)}",
        f"Bearer {issue_token(options, 'a' + chr(0), 60)}",
        f"Bearer {issue_token(options, 'x' * 10_000, 60)}",
        f"Bearer {issue_token(options, ' ', 60)}",
    ):
        response = await api.client.post(
            "/graphql", json={"query": "{ __typename }"}, headers={"Authorization": header}
        )
        [error] = response.json()["errors"]
        assert (response.status_code, error["extensions"]) == (401, {"code": "UNAUTHENTICATED"})
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert "data" not in response.json()
    good = await api.client.post(
        "/graphql",
        json={"query": "{ viewer { isSysAdmin } }"},
        headers={"Authorization": f"bearer {issue_token(options, 'root', 60)}"},
    )
    assert good.json()["data"] == {"viewer": {"isSysAdmin": True}}
