"""What a line of the log holds, what it never holds, and that nobody but the program makes one."""

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError

from app import logs
from app.auth import issue_token
from app.billing import settings as billing_settings
from app.billing.models import users
from app.config import Settings
from app.database import Database
from tests.api import Api, add_people
from tests.servers import running
from tests.test_config import PRODUCTION
from tests.world import add_user

pytestmark = pytest.mark.anyio

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
in_both = pytest.mark.parametrize("in_production", [True, False])
SECRET = "hunter2xyzzy"
FORGED = '{"level": "info", "event": "forged"}'
BREAKS = [
    "\n",
    "\r",
    "\r\n",
    "\u2028",
    "\u2029",
    "\x85",
    "\x0b",
    "\x0c",
    "\x1b[2K\x1b[1A",
    "\x9b2K",
]


def rendered(
    in_production: bool, message: str, error: BaseException | None = None, **extra: Any
) -> str:
    exc_info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(
        "billing.test", logging.ERROR, __file__, 1, "%s", (message,), exc_info
    )
    record.__dict__.update(extra)
    return logs.formatter(in_production).format(record)


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


@in_both
@pytest.mark.parametrize("line_break", BREAKS)
def test_a_line_cannot_be_forged(in_production: bool, line_break: str) -> None:
    text = f"one{line_break}{FORGED}"
    line = rendered(in_production, text, path=text, operation=text, method=text)
    assert line.isprintable()
    assert line.splitlines() == [line]
    told = rendered(in_production, "x", raised(ValueError(text)))
    assert all(part.isprintable() for part in told.split("\n"))
    assert not [part for part in told.splitlines() if part.startswith(FORGED)]
    if in_production:
        assert json.loads(line)["event"] == json.loads(line)["path"]
        assert told.splitlines() == [told]
        assert json.loads(told)["event"] == "x"


@in_both
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("550 <alice.o'x+1@mail.example.com> is unknown", "550 <"),
        ("to ä@zürich.example", "to "),
        ("{'alice@example.com': (550, b'no')}", "(550"),
        ("connect postgresql://billing:hunter2@db.example.com/x", "postgresql://billing:"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln-_x came", " came"),
    ],
)
def test_addresses_and_credentials_are_hidden(in_production: bool, text: str, kept: str) -> None:
    line = rendered(in_production, text, path=text)
    assert kept in line
    assert "[hidden]" in line
    for secret in ("alice", "zürich", "ä", "hunter2", "eyJ", "c2ln"):
        assert secret not in line


def test_production_tells_types_and_places_and_no_words() -> None:
    cause = raised(OSError(111, SECRET))
    cause.add_note(SECRET)
    error = raised(ExceptionGroup(SECRET, [raised(KeyError(SECRET))]))
    error.__cause__ = cause
    entry = json.loads(rendered(True, "failed", error))
    assert (entry["event"], entry["level"], entry["logger"]) == ("failed", "error", "billing.test")
    for told in (
        "builtins.ConnectionRefusedError errno=111\n",
        "builtins.ExceptionGroup",
        "builtins.KeyError",
        "in raised",
    ):
        assert told in entry["exception"]
    # A traceback quotes lines of source, where this test has no secret either.
    assert SECRET not in entry["exception"]
    assert SECRET in rendered(False, "failed", error)


@in_both
async def test_a_database_error_tells_no_values(in_production: bool, database: Database) -> None:
    await add_user(database, SECRET, email=f"{SECRET}@example.com")

    async def add_again(connection: Any) -> None:
        row = {"id": SECRET, "kind": "HUMAN", "first_name": SECRET, "enabled": True}
        await connection.execute(insert(users).values(row))

    with pytest.raises(DBAPIError) as caught:
        await database.write(add_again)
    assert SECRET not in str(caught.value).partition("[SQL")[2]  # hide_parameters
    told = rendered(in_production, "failed", caught.value)
    assert "IntegrityError" in told
    assert SECRET not in told


@on_sqlite
@pytest.mark.parametrize(
    ("sent", "is_taken"),
    [
        (b"a", True),
        (b"0a-Z" * 16, True),
        (b"", False),
        (b"a" * 65, False),
        (b"abc\n", False),
        (b"a b", False),
        (b"a_b", False),
        ("é".encode(), False),
        (b"a\x1b[1A", False),
        (None, False),
    ],
)
async def test_a_request_id_is_taken_or_made(api: Api, sent: bytes | None, is_taken: bool) -> None:
    headers = {} if sent is None else {b"X-Request-Id": sent}
    response = await api.client.get("/nothing", headers=headers)
    told = response.headers["X-Request-Id"].encode()
    assert (told == sent) == is_taken
    assert re.fullmatch(rb"[A-Za-z0-9-]{1,64}", told)


@on_sqlite
async def test_one_id_in_header_answer_and_log(
    database: Database,
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(SECRET)

    await add_people(database)
    monkeypatch.setattr(billing_settings, "list_providers", fail)
    monkeypatch.setattr("app.server.exports.open_export", fail)
    headers = api.bearer("root") | {"X-Request-Id": "abc-123"}
    ask = {"query": '{ providers(mandateId: "acme") }'}
    lines: list[dict[str, Any]] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(  # type: ignore[method-assign]
        json.loads(logs.formatter(True).format(record))
    )
    logging.getLogger("billing").addHandler(handler)
    caplog.set_level(logging.INFO, "billing")
    try:
        answers = [
            await api.client.post("/graphql", json=ask, headers=headers),
            await api.client.get("/export/usage.csv", headers=headers),
        ]
    finally:
        logging.getLogger("billing").removeHandler(handler)
    for answer in answers:
        assert answer.headers["X-Request-Id"] == "abc-123"
        assert answer.json()["errors"][0]["extensions"]["requestId"] == "abc-123"
    assert [line["event"] for line in lines] == ["request abc-123 failed", "request"] * 2
    assert {line["request_id"] for line in lines} == {"abc-123"}
    assert [line.get("status") for line in lines] == [None, 200, None, 500]
    assert logs.request_id() != "abc-123"


@on_sqlite
async def test_nothing_of_a_request_is_left_to_the_next(api: Api) -> None:
    ids = {(await api.client.get("/nothing")).headers["X-Request-Id"] for _ in range(3)}
    assert len(ids) == 3


FAILING = """
from app.billing import settings
async def fail(*arguments, **named):
    raise KeyError(arguments, named)
settings.list_providers = fail
"""


@on_sqlite
@in_both
async def test_what_a_server_writes(
    database: Database, database_url: str, tmp_path: Path, in_production: bool
) -> None:
    """A line for each request; and nothing of tokens, variables, documents and query strings."""
    await add_people(database)
    options = Settings()
    if in_production:
        options = Settings(
            jwt_secret=SecretStr(PRODUCTION["BILLING_JWT_SECRET"]),
            jwt_audience=PRODUCTION["BILLING_JWT_AUDIENCE"],
            jwt_issuer=PRODUCTION["BILLING_JWT_ISSUER"],
        )
    token = issue_token(options, "root", 60)
    bearer = {"Authorization": f"Bearer {token}"}
    output = tmp_path / "log"
    document = 'query Providers($id: ID!) { providers(mandateId: $id) balance(mandateId: "hunter2xyzzy") { held } }'
    with running(
        database_url,
        1,
        FAILING if in_production else None,
        output=output,
        **(PRODUCTION if in_production else {}),
    ) as [server]:
        async with httpx.AsyncClient(base_url=server.address) as client:
            asked: dict[str, Any] = {"query": document, "variables": {"id": SECRET}}
            named = bearer | {"X-Request-Id": "first"}
            await client.post("/graphql", json=asked, headers=named)
            asked["variables"] = json.dumps(asked["variables"])
            await client.get("/graphql", params=asked, headers=bearer)
            await client.get(
                "/export/transactions.csv", params={"mandateId": SECRET}, headers=bearer
            )
            asked, bad = {"query": f"{{ {SECRET} }}"}, {"Authorization": f"Bearer {SECRET}"}
            await client.post("/graphql", json=asked, headers=bad)
            path = f"/%0aforged%1b%e2%80%a8/{SECRET[:3]}@example.com?x={SECRET}"
            await client.get(path, headers={"X-Request-Id": "a b"})
            assert "server" not in (await client.get("/nothing")).headers
    text = output.read_text()
    assert "forged" in text
    for secret in (SECRET, token, token.split(".")[1], "mandateId", "@example", "\x1b", "\u2028"):
        assert secret not in text
    lines = text.splitlines()
    assert not [line for line in lines if line.startswith(("forged", "Traceback"))]
    if not in_production:
        assert [line for line in lines if "request_id=first" in line and "path=/graphql" in line]
        return
    entries = [json.loads(line) for line in lines if not line.startswith("BILLING_SMTP_URL")]
    assert {entry["logger"] for entry in entries} == {
        "uvicorn.error",
        "billing.access",
        "billing.process",
        "billing.schema",
    }
    requests = [entry for entry in entries if entry["logger"] == "billing.access"]
    assert [(entry["method"], entry["path"], entry["status"]) for entry in requests] == [
        ("POST", "/graphql", 200),
        ("GET", "/graphql", 200),
        ("GET", "/export/transactions.csv", 404),
        ("POST", "/graphql", 401),
        ("GET", "/\\nforged\\x1b\\u2028/[hidden]", 404),
        ("GET", "/nothing", 404),
    ]
    assert [entry.get("operation") for entry in requests] == ["Providers"] * 2 + [None] * 4
    assert requests[0].keys() == {
        "timestamp", "level", "logger", "event", "request_id",
        "method", "path", "status", "duration_ms", "bytes", "operation",
    }  # fmt: skip
    failures = [entry for entry in entries if entry["logger"] == "billing.schema"]
    assert [entry["request_id"] for entry in failures] == [e["request_id"] for e in requests[:2]]
    assert failures[0]["request_id"] == "first"
    assert "builtins.KeyError" in failures[0]["exception"]


def test_the_libraries_take_the_same_way(tmp_path: Path) -> None:
    import subprocess

    script = f"""
import logging, logging.config, warnings
from app import logs
from app.config import Settings
settings = Settings(environment="production", jwt_secret="{"x" * 32}", jwt_audience="a", jwt_issuer="a")
logging.config.dictConfig(logs.configuration(settings))
for name in ("uvicorn.error", "sqlalchemy.pool", "alembic.runtime.migration", "billing.dispatcher"):
    logging.getLogger(name).warning("from %s", name)
warnings.warn("a warning")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["logger"] for entry in entries] == [
        "uvicorn.error", "sqlalchemy.pool", "alembic.runtime.migration", "billing.dispatcher", "py.warnings",
    ]  # fmt: skip
    assert entries[0]["event"] == "from uvicorn.error"
    assert "a warning" in entries[-1]["event"]
    assert done.stderr == ""
