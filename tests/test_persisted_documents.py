"""Documents that are asked for by their hash: trusted ones, and automatic persisted queries."""

import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app.billing.errors import BadInput
from app.config import Environment, Settings, SettingsError
from app.database import Database
from app.server import create_app, persisted
from app.server.persisted import PersistedDocuments, PersistedQueryNotFound
from tests.api import Api, add_people, serving
from tests.conftest import Billing
from tests.servers import running

pytestmark = pytest.mark.anyio

IS_ADMIN = "query IsAdmin { viewer { isSysAdmin } }"
WHO = "query Who { viewer { user { id } } }"
RENAME = (
    "mutation Rename($name: String!)"
    ' { upsertMandate(input: {id: "acme", name: $name}) { mandate { name } } }'
)
UNKNOWN = "query Unknown { rateLimit { field } }"
GRAPHQL_JSON = "application/graphql-response+json"
TOLD_UNTRUSTED = (
    "This server runs trusted documents alone, and this is none of them: send the SHA-256 of one"
    " as documentId."
)
TOLD_HASH = "must be a SHA-256 in 64 lower-case hexadecimal digits."

Serve = Callable[..., AbstractAsyncContextManager[Api]]


def hash_of(document: str) -> str:
    return sha256(document.encode()).hexdigest()


def automatic(document: str) -> dict[str, Any]:
    """What Apollo's clients send instead of the document."""
    return {"persistedQuery": {"version": 1, "sha256Hash": hash_of(document)}}


def write_manifest(directory: Path, *documents: str) -> Path:
    file = directory / "persisted-documents.json"
    file.write_text(json.dumps({f"sha256:{hash_of(text)}": text for text in documents}))
    return file


def settings_of(environment: Environment, **others: Any) -> Settings:
    return Settings(
        environment=environment,
        jwt_secret=SecretStr("s" * 32),
        jwt_audience="billing",
        jwt_issuer="billing",
        rate_limits=False,
        **others,
    )


@pytest.fixture
def database_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Of either kind, as good as the other here."""
    return f"sqlite:///{shutil.copyfile(sqlite_template, tmp_path / 'billing.db')}"


@pytest.fixture
def serve(database: Database, database_url: str, tmp_path: Path) -> Serve:
    """The server in an environment, with or without trusted documents."""

    @asynccontextmanager
    async def start(
        environment: Environment = Environment.PRODUCTION,
        trusted: tuple[str, ...] = (IS_ADMIN, RENAME),
    ) -> AsyncIterator[Api]:
        await add_people(database)
        file = write_manifest(tmp_path, *trusted) if trusted else None
        settings = settings_of(environment, database_url=database_url, trusted_documents=file)
        async with serving(settings) as api:
            yield api

    return start


async def post(api: Api, user_id: str = "root", /, **members: Any) -> httpx.Response:
    return await api.client.post("/graphql", json=members, headers=api.bearer(user_id))


async def get(api: Api, **parameters: str) -> httpx.Response:
    return await api.client.get("/graphql", params=parameters, headers=api.bearer("root"))


def told(response: httpx.Response) -> tuple[int, str, str]:
    """The status, and the code and message of its one error."""
    [error] = response.json()["errors"]
    assert "data" not in response.json()
    return response.status_code, error["extensions"]["code"], error["message"]


@pytest.mark.parametrize("environment", Environment)
@pytest.mark.parametrize(
    "members",
    [
        {"documentId": f"sha256:{hash_of(IS_ADMIN)}"},
        {"documentId": hash_of(IS_ADMIN)},
        {"documentId": hash_of(IS_ADMIN), "query": None, "extensions": None},
        {"extensions": automatic(IS_ADMIN)},
        {"extensions": automatic(IS_ADMIN), "query": ""},
        {"extensions": {"persistedQuery": {"sha256Hash": f"sha256:{hash_of(IS_ADMIN)}"}}},
        {"documentId": hash_of(IS_ADMIN), "extensions": automatic(IS_ADMIN)},
        {"documentId": hash_of(IS_ADMIN), "extensions": {"persistedQuery": None}},
        {"documentId": hash_of(IS_ADMIN), "query": IS_ADMIN},
        {"query": IS_ADMIN},
        {"query": IS_ADMIN, "documentId": None, "extensions": {"other": 1}},
    ],
)
async def test_a_trusted_document_runs_by_its_hash(
    serve: Serve, environment: Environment, members: dict[str, Any]
) -> None:
    async with serve(environment) as api:
        response = await post(api, **members)
        assert response.json()["data"] == {"viewer": {"isSysAdmin": True}}


async def test_variables_and_roles_are_those_of_any_request(serve: Serve) -> None:
    async with serve() as api:
        asked = {"documentId": hash_of(RENAME), "variables": {"name": "Acme Ltd"}}
        renamed = await post(api, **asked)
        assert renamed.json()["data"] == {"upsertMandate": {"mandate": {"name": "Acme Ltd"}}}
        refused = await post(api, "alice", **asked)
        assert refused.json()["errors"][0]["extensions"]["code"] == "FORBIDDEN"
        anonymous = await api.client.post("/graphql", json=asked)
        assert anonymous.status_code == 401


@pytest.mark.parametrize(
    "members",
    [
        {"query": WHO},
        {"query": f"{IS_ADMIN} "},
        {"query": "{ __typename }"},
        {"query": WHO, "documentId": hash_of(WHO)},
        {"query": WHO, "extensions": automatic(WHO)},
        {"documentId": hash_of(WHO)},
        {"extensions": automatic(WHO)},
        {"query": ""},
        {},
    ],
)
async def test_in_production_nothing_but_trusted_documents_runs(
    serve: Serve, members: dict[str, Any]
) -> None:
    async with serve() as api:
        for _ in range(2):  # nor does it once it was sent
            assert told(await post(api, **members)) == (400, "BAD_USER_INPUT", TOLD_UNTRUSTED)


async def test_in_development_any_other_operation_runs_too(serve: Serve) -> None:
    async with serve(Environment.DEVELOPMENT) as api:
        for members in ({"query": WHO}, {"query": WHO, "extensions": automatic(WHO)}):
            assert (await post(api, **members)).json()["data"] == {
                "viewer": {"user": {"id": "root"}}
            }
        assert (
            told(await post(api, extensions=automatic(UNKNOWN)))[1] == "PERSISTED_QUERY_NOT_FOUND"
        )


async def test_the_manifest_is_read_once(serve: Serve, database_url: str, tmp_path: Path) -> None:
    async with serve() as api:
        (tmp_path / "persisted-documents.json").unlink()
        response = await post(api, documentId=hash_of(IS_ADMIN))
        assert response.json()["data"] == {"viewer": {"isSysAdmin": True}}


@pytest.mark.parametrize("environment", Environment)
async def test_an_automatic_persisted_query(serve: Serve, environment: Environment) -> None:
    async with serve(environment, ()) as api:
        asked = {"extensions": automatic(WHO)}
        for accept in ("application/json", GRAPHQL_JSON):
            headers = api.bearer("root") | {"Accept": accept}
            response = await api.client.post("/graphql", json=asked, headers=headers)
            assert told(response) == (200, "PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound")
        for members in (asked | {"query": WHO}, asked, {"documentId": hash_of(WHO)}):
            assert (await post(api, **members)).json()["data"] == {
                "viewer": {"user": {"id": "root"}}
            }
        answer = await post(api, "alice", **asked)  # what is kept is the text alone
        assert answer.json()["data"] == {"viewer": {"user": {"id": "alice"}}}


async def test_a_wrong_hash_keeps_nothing(serve: Serve) -> None:
    async with serve(trusted=()) as api:
        for member in ({"extensions": automatic(IS_ADMIN)}, {"documentId": hash_of(IS_ADMIN)}):
            assert told(await post(api, query=WHO, **member)) == (
                400,
                "BAD_USER_INPUT",
                "The hash is not the SHA-256 of the query: send one of the two.",
            )
        for document in (WHO, IS_ADMIN):
            assert told(await post(api, documentId=hash_of(document)))[0] == 200


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "{ nothing }",
        "{ __schema { queryType { name } } }",
        "query A { viewer { isSysAdmin } } " * 1000,
        IS_ADMIN.ljust(65 * 1024),
        "{ " + "viewer { isSysAdmin } " * 480 + "}",
    ],
)
async def test_what_could_not_run_is_not_kept(serve: Serve, document: str) -> None:
    async with serve(trusted=()) as api:
        by_hash = {"extensions": automatic(document)}
        plain = await post(api, query=document)
        assert (await post(api, query=document, **by_hash)).json() == plain.json()
        assert "errors" in plain.json()
        assert told(await post(api, **by_hash))[1] == "PERSISTED_QUERY_NOT_FOUND"


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = PersistedDocuments(settings_of(Environment.DEVELOPMENT))

    def asks(document: str, **members: str) -> bool:
        try:
            documents.resolve_document({"extensions": automatic(document), **members})
        except PersistedQueryNotFound:
            return False
        return True

    first, second, third, long = ("{ __typename }".ljust(length) for length in (100, 101, 102, 250))
    monkeypatch.setattr(persisted, "MAX_KEPT", 2)
    assert asks(first, query=first)
    assert asks(second, query=second)
    assert asks(first)
    assert asks(third, query=third)  # the longest unused gives way
    assert [asks(document) for document in (third, first, second)] == [True, True, False]
    assert asks(third, query=third)
    assert asks(second, query=second)
    assert [asks(document) for document in (third, second, first)] == [True, True, False]
    monkeypatch.setattr(persisted, "MAX_KEPT_LENGTH", 300)
    assert asks(long, query=long)
    assert [asks(document) for document in (second, third, long)] == [False, False, True]
    assert asks(first, query=first)
    assert [asks(document) for document in (first, long)] == [True, False]


async def test_queries_by_get(serve: Serve) -> None:
    async with serve() as api:
        for parameters in (
            {"documentId": f"sha256:{hash_of(IS_ADMIN)}"},
            {"documentId": hash_of(IS_ADMIN), "variables": "{}"},
            {"extensions": json.dumps(automatic(IS_ADMIN))},
        ):
            assert (await get(api, **parameters)).json()["data"] == {"viewer": {"isSysAdmin": True}}
        change = await get(api, documentId=hash_of(RENAME), variables='{"name": "By GET"}')
        assert change.status_code == 405
        assert told(await get(api, documentId=hash_of(WHO)))[2] == TOLD_UNTRUSTED
        assert told(await get(api, extensions="[]")) == (
            400,
            "BAD_USER_INPUT",
            "extensions must be an object or null.",
        )
        assert told(await get(api, documentId=""))[2] == f"documentId {TOLD_HASH}"


AUTOMATIC_HASH = "extensions.persistedQuery.sha256Hash"


@pytest.mark.parametrize("trusted", [(), (IS_ADMIN,)], ids=["automatic", "trusted"])
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"documentId": 1}, f"documentId {TOLD_HASH}"),
        ({"documentId": True}, f"documentId {TOLD_HASH}"),
        ({"documentId": [hash_of(IS_ADMIN)]}, f"documentId {TOLD_HASH}"),
        ({"documentId": ""}, f"documentId {TOLD_HASH}"),
        ({"documentId": "a" * 1_000_000}, f"documentId {TOLD_HASH}"),
        ({"documentId": hash_of(IS_ADMIN).upper()}, f"documentId {TOLD_HASH}"),
        ({"documentId": f"SHA256:{hash_of(IS_ADMIN)}"}, f"documentId {TOLD_HASH}"),
        ({"documentId": f"md5:{hash_of(IS_ADMIN)}"}, f"documentId {TOLD_HASH}"),
        ({"documentId": f"{hash_of(IS_ADMIN)}\n"}, f"documentId {TOLD_HASH}"),
        ({"documentId": "٣" * 64}, f"documentId {TOLD_HASH}"),
        ({"extensions": {"persistedQuery": {"sha256Hash": {}}}}, f"{AUTOMATIC_HASH} {TOLD_HASH}"),
        (
            {"extensions": {"persistedQuery": []}},
            "extensions.persistedQuery must be an object or null.",
        ),
        (
            {"extensions": {"persistedQuery": 0}},
            "extensions.persistedQuery must be an object or null.",
        ),
        ({"extensions": []}, "extensions must be an object or null."),
        (
            {"documentId": hash_of(IS_ADMIN), "extensions": automatic(WHO)},
            f"documentId and {AUTOMATIC_HASH} name two documents: send one of the two.",
        ),
        ({"query": 1, "documentId": hash_of(IS_ADMIN)}, "query must be a string or null."),
    ],
)
async def test_what_names_no_document_is_refused(
    serve: Serve, trusted: tuple[str, ...], members: dict[str, Any], message: str
) -> None:
    async with serve(trusted=trusted) as api:
        assert told(await post(api, **members)) == (400, "BAD_USER_INPUT", message)


async def test_a_hash_of_10_mib_is_not_read(serve: Serve) -> None:
    async with serve() as api:
        assert (await post(api, documentId="a" * 10 * 1024**2)).status_code == 413


def test_half_a_character_has_no_hash_that_is_trusted(tmp_path: Path) -> None:
    documents = PersistedDocuments(settings_of(Environment.DEVELOPMENT))
    assert documents.resolve_document({"query": "\ud800", "extensions": 1}) == "\ud800"
    file = write_manifest(tmp_path, IS_ADMIN)
    documents = PersistedDocuments(settings_of(Environment.PRODUCTION, trusted_documents=file))
    with pytest.raises(BadInput, match="trusted documents alone"):
        documents.resolve_document({"query": "\ud800"})


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ("query Old { wallet { id } }", " (Old): Cannot query field 'wallet' on type 'Query'."),
        ("query Cut {", ": Syntax Error: Expected Name, found <EOF>."),
        ("fragment F on Query { viewer { isSysAdmin } }", ": Fragment 'F' is never used."),
        ("", ": Syntax Error: Unexpected <EOF>."),
        (IS_ADMIN.ljust(65 * 1024), ": "),
    ],
)
def test_a_document_that_cannot_run_stops_the_start(
    tmp_path: Path, document: str, fault: str
) -> None:
    file = write_manifest(tmp_path, IS_ADMIN, document)
    settings = settings_of(Environment.PRODUCTION, trusted_documents=file)
    with pytest.raises(SettingsError) as error:
        create_app(settings)
    assert str(error.value).startswith(
        f"BILLING_TRUSTED_DOCUMENTS has documents that cannot be run: {hash_of(document)}{fault}"
    )


def test_it_is_one_line_of_the_command(
    billing: Billing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With several workers, too, of which each would fail by itself."""
    file = write_manifest(tmp_path, "query Old { wallet { id } }")
    monkeypatch.setenv("BILLING_TRUSTED_DOCUMENTS", str(file))
    for workers in ("1", "2"):
        code, said, complaint = billing("serve", "--workers", workers)
        assert (code, said) == (1, "")
        assert complaint.startswith("billing: BILLING_TRUSTED_DOCUMENTS has documents that cannot")
        assert "(Old): Cannot query field 'wallet' on type 'Query'." in complaint
        assert complaint.count("\n") == 1


async def test_a_server_process_obeys_them(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    await add_people(database)
    file = write_manifest(tmp_path, IS_ADMIN)
    settings = Settings(database_url=database_url)
    with running(database_url, BILLING_TRUSTED_DOCUMENTS=str(file)) as [server]:
        async with httpx.AsyncClient(base_url=server.address) as client:
            response = await post(Api(client, settings), documentId=hash_of(IS_ADMIN))
            assert response.json()["data"] == {"viewer": {"isSysAdmin": True}}
