"""The command line: what each command does and prints, and that a failure is one line and exit code 1."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from app import process
from app.auth import Authenticator
from app.billing.enums import UserKind
from app.billing.models import mandates, transactions, users
from app.config import load_settings
from app.imports import HEADER
from app.revision import revision_needed
from app.server import schema_text
from tests.conftest import Billing, OnDatabase
from tests.world import (
    MANDATE,
    add_mandate,
    add_user,
    dump,
    read_rows,
    record,
    run_sql,
    usage_event,
)


def failure(message: str) -> tuple[int, str, str]:
    return 1, "", f"billing: {message}\n"


def test_help_names_every_command(command: Billing) -> None:
    code, out, _ = command("--help")
    assert code == 0
    for name in (
        "serve",
        "migrate",
        "distribute",
        "user-add",
        "user-erase",
        "token",
        "seed-demo",
        "import-usage",
        "export",
        "copy-from",
        "verify-ledger",
        "export-schema",
    ):
        assert f" {name} " in out
        assert command(name, "--help")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["token"], ["token", "root", "--ttl", "0"], ["serve", "--port", "x"]],
)
def test_a_wrong_use_ends_with_2(command: Billing, arguments: list[str]) -> None:
    code, out, error = command(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: billing" in error


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "--help"], capture_output=True, text=True, check=True
    )
    assert "import-usage" in done.stdout


def test_wrong_settings_are_one_line(command: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", "mysql://root:hunter2@localhost/billing")
    monkeypatch.setenv("BILLING_JWT_SECRET", "hunter3")
    message = (
        "BILLING_DATABASE_URL must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE;"
        " BILLING_JWT_SECRET must have at least 32 bytes."
    )
    for name in ("serve", "migrate", "verify-ledger"):
        assert command(name) == failure(message)


@pytest.mark.parametrize("name", ["serve", "migrate", "verify-ledger"])
def test_no_database(
    command: Billing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://root:hunter2@127.0.0.1:1/billing")
    code, out, error = command(name)
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert error.startswith("billing: The database cannot be reached: ")
    assert "hunter2" not in error
    monkeypatch.setenv("BILLING_DATABASE_URL", f"sqlite:///{tmp_path}/none/billing.db")
    message = "The database cannot be reached: unable to open database file"
    if name != "migrate":
        message = (
            f"There is no database {tmp_path}/none/billing.db: run `billing migrate` to create it,"
            " or set BILLING_DATABASE_URL."
        )
    assert command(name) == failure(message)


def test_migrate_from_nothing_and_again(
    command: Billing, monkeypatch: pytest.MonkeyPatch, blank_database_url: str
) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", blank_database_url)
    needed = revision_needed()
    message = (
        f"The database is at revision none and this program needs {needed}: run `billing migrate`."
    )
    file = Path(blank_database_url.removeprefix("sqlite:///"))
    if blank_database_url.startswith("sqlite"):
        message = (
            f"There is no database {file}: run `billing migrate` to create it,"
            " or set BILLING_DATABASE_URL."
        )
    for arguments in (["token", "root"], ["serve"], ["verify-ledger"], ["seed-demo"]):
        assert command(*arguments) == failure(message)
        assert not file.exists()
    for _ in range(2):
        assert command("migrate") == (0, f"The database is at revision {needed}.\n", "")
    assert command("token", "root") == failure("User root is unknown or disabled.")


def test_migrate_on_a_database_of_a_newer_version(
    billing: Billing, database_url: str, on_database: OnDatabase
) -> None:
    if not database_url.startswith("sqlite"):
        return  # the tests share one PostgreSQL database, and it must keep its revision
    on_database(run_sql, "UPDATE alembic_version SET version_num = '9999'")
    for name in ("migrate", "serve"):
        code, out, error = billing(name)
        assert (code, out) == (1, "")
        assert error.startswith("billing: The database is at revision 9999, which this program")


def test_user_add_keeps_what_is_left_out(billing: Billing, on_database: OnDatabase) -> None:
    def row() -> Any:
        [found] = on_database(read_rows, users)
        return found

    done = (0, "User root is saved.\n", "")
    assert billing("user-add", "root", "--sysadmin", "--email", "root@example.com") == done
    assert (row().is_sys_admin, row().kind, row().enabled) == (True, UserKind.HUMAN, True)
    assert billing("user-add", "root", "--first-name", "Root", "--last-name", "User") == done
    assert (row().email, row().first_name, row().last_name) == ("root@example.com", "Root", "User")
    assert row().is_sys_admin
    assert billing("user-add", "root", "--no-sysadmin", "--service") == done
    assert (row().is_sys_admin, row().kind) == (False, UserKind.SERVICE)
    before = on_database(dump)
    assert billing("user-add", "root") == done
    assert billing("user-add", "root", "--email", "none")[0] == 1
    assert billing("user-add", " root") == failure(
        "id must be printable characters without blanks around them."
    )
    assert on_database(dump) == before


def test_user_erase(billing: Billing, on_database: OnDatabase) -> None:
    billing("user-add", "alice", "--email", "alice@example.com", "--first-name", "Alice")
    code, out, error = billing("user-erase", "alice")
    assert (code, out, error) == (0, "Names and e-mail address of user alice are erased.\n", "")
    assert "alice@example.com" not in str(on_database(dump))
    assert billing("user-erase", "bob") == failure("There is no user bob.")


def test_token_prints_a_token_alone(billing: Billing, on_database: OnDatabase) -> None:
    on_database(add_user, "alice")
    code, out, error = billing("token", "alice", "--ttl", "60")
    assert (code, error) == (0, "")
    subject = Authenticator(load_settings()).subject(out.removesuffix("\n"))
    assert asyncio.run(subject) == "alice"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_token_without_a_secret(
    billing: Billing, on_database: OnDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_database(add_user, "alice")
    monkeypatch.setenv("BILLING_JWKS_URL", "http://127.0.0.1:1/keys")
    reason = "Without BILLING_JWT_SECRET there is nothing to sign a token with"
    code, out, error = billing("token", "alice")
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert error.startswith(f"billing: {reason}: set it, or get a token from the issuer")


def test_no_token_for_who_may_not_ask(billing: Billing, on_database: OnDatabase) -> None:
    on_database(add_user, "alice", enabled=False)
    for user_id in ("alice", "bob"):
        assert billing("token", user_id) == failure(f"User {user_id} is unknown or disabled.")


def usage_file(path: Path, *rows: str) -> str:
    file = path / "usage.csv"
    file.write_text("\n".join([",".join(HEADER), *rows]), encoding="utf-8-sig")
    return str(file)


GOOD = f"a,{MANDATE},alice,2026-08-01T12:00:00Z,0.5,openai,gpt-4o,,,"


def test_import_usage_twice(billing: Billing, on_database: OnDatabase, tmp_path: Path) -> None:
    file = usage_file(tmp_path, GOOD)
    code, out, error = billing("import-usage", file, "--create-missing")
    assert (code, error) == (0, "")
    assert out.startswith("1 recorded, 0 duplicate, 0 rejected in ")
    assert out.endswith(" rows per second\n")
    before = on_database(dump)
    code, out, error = billing("import-usage", file)
    assert (code, error) == (0, "")
    assert out.startswith("0 recorded, 1 duplicate, 0 rejected in ")
    assert on_database(dump) == before


def test_import_usage_with_rejected_rows(
    billing: Billing, on_database: OnDatabase, tmp_path: Path
) -> None:
    on_database(add_mandate)
    file = usage_file(tmp_path, "word", GOOD, *["word"] * 24)
    code, out, error = billing("import-usage", file)
    assert code == 1
    assert out.startswith("1 recorded, 0 duplicate, 25 rejected in ")
    said = error.splitlines()
    assert said[0] == "line 2: The row has 1 columns instead of 10."
    assert said[1].startswith("line 4: ")
    assert said[20:] == ["and 5 more"]
    assert len(on_database(read_rows, transactions)) == 1


def test_import_usage_of_no_such_file(billing: Billing, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.csv")
    assert billing("import-usage", missing) == failure(f"{missing}: No such file or directory")
    assert billing("import-usage", str(tmp_path)) == failure(f"{tmp_path}: Is a directory")
    other = tmp_path / "other.csv"
    other.write_bytes(b"\xff\xfe,\x00\n")
    code, out, error = billing("import-usage", str(other))
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert error.startswith("billing: The first line must be idempotency_key,")


def test_a_progress_bar_on_a_terminal_alone(
    billing: Billing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[bool] = []
    monkeypatch.setattr(Progress, "start", lambda self: shown.append(not self.disable))
    file = usage_file(tmp_path, GOOD)
    billing("import-usage", file, "--create-missing")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    billing("import-usage", file)
    assert (shown[0], shown[-1]) == (False, True)


def test_verify_ledger(billing: Billing, on_database: OnDatabase) -> None:
    on_database(add_mandate)
    on_database(record, usage_event(5))
    sound = (0, "1 mandates: every figure follows from the transactions.\n", "")
    assert billing("verify-ledger") == sound
    on_database(run_sql, "UPDATE account SET sequence = 7")
    on_database(run_sql, "UPDATE daily_usage SET cost = 0")
    code, out, error = billing("verify-ledger")
    assert (code, out.count("\n")) == (1, 2)
    assert out.startswith(f"mandate {MANDATE}, account ")
    assert "sequence is 7 and must be 1\n" in out
    assert error == "billing: 2 figures do not follow from the transactions.\n"


def test_rebuild_rollups(billing: Billing, on_database: OnDatabase) -> None:
    for mandate_id in ("acme", "globex"):
        on_database(add_mandate, mandate_id)
        on_database(record, usage_event(5, mandate_id=mandate_id))
    before = on_database(dump)
    on_database(run_sql, "UPDATE daily_usage SET cost = 0")
    assert billing("verify-ledger")[0] == 1
    assert billing("rebuild-rollups") == (0, "The roll-ups of 2 mandates are rebuilt.\n", "")
    assert on_database(dump) == before


def test_set_time_zone(billing: Billing, on_database: OnDatabase) -> None:
    on_database(add_mandate)
    on_database(record, usage_event(5))
    done = f"The days of mandate {MANDATE} are those of Asia/Kathmandu.\n"
    assert billing("set-time-zone", MANDATE, "Asia/Kathmandu") == (0, done, "")
    [mandate] = on_database(read_rows, mandates)
    assert mandate.time_zone == "Asia/Kathmandu"
    assert billing("verify-ledger")[0] == 0
    before = on_database(dump)
    assert billing("set-time-zone", "none", "UTC") == failure("There is no such mandate.")
    code, out, error = billing("set-time-zone", MANDATE, "Mars/Olympus")
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert "Europe/Zurich" in error
    assert on_database(dump) == before


def test_export_schema(command: Billing, tmp_path: Path) -> None:
    assert command("export-schema") == (0, schema_text(), "")
    file = tmp_path / "schema.graphql"
    assert command("export-schema", str(file)) == (0, "", "")
    assert file.read_text(encoding="utf-8") == schema_text()
    nowhere = tmp_path / "none" / "schema.graphql"
    assert command("export-schema", str(nowhere)) == failure(
        f"{nowhere}: No such file or directory"
    )


NO_MAIL = "BILLING_SMTP_URL is not set: alerts by e-mail wait in the outbox.\n"
NO_REDIS = "BILLING_REDIS_URL is not set: each of 2 workers counts rate limits for itself.\n"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """With what the server would have been started."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(process, "serve", lambda *options: calls.append(options))
    return calls


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return str(taken.getsockname()[1])


def test_serve(billing: Billing, served: list[tuple[Any, ...]]) -> None:
    port = free_port()
    assert billing("serve", "--port", port, "--workers", "2") == (0, "", NO_MAIL + NO_REDIS)
    [options] = served
    assert options == (load_settings(), "127.0.0.1", int(port), 2, 5, False)


@pytest.mark.parametrize(
    ("workers", "variables", "is_told"),
    [
        ("1", {}, False),
        ("2", {}, True),
        ("2", {"BILLING_REDIS_URL": "redis://127.0.0.1:1/0"}, False),
        ("2", {"BILLING_RATE_LIMITS": "off"}, False),
    ],
)
def test_serve_says_that_workers_count_for_themselves(
    billing: Billing,
    served: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    workers: str,
    variables: dict[str, str],
    is_told: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = NO_MAIL + (NO_REDIS if is_told else "")
    assert billing("serve", "--port", free_port(), "--workers", workers) == (0, "", said)
    assert len(served) == 1


def test_serve_with_a_mail_server(
    billing: Billing, served: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_SMTP_URL", "smtp://mail.example.com")
    assert billing("serve", "--port", free_port()) == (0, "", "")
    assert len(served) == 1


def test_serve_where_something_listens(billing: Billing, served: list[tuple[Any, ...]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert billing("serve", "--port", port) == failure(
            f"Cannot listen on 127.0.0.1, port {port}: Address already in use"
        )
    assert served == []


def test_serve_demo_prints_a_token_for_each_role(
    billing: Billing, on_database: OnDatabase, served: list[tuple[Any, ...]]
) -> None:
    people = ["demo-sysadmin", "university-admin", "member-one", "gateway"]
    for user_id in people:
        on_database(add_user, user_id)
    port = free_port()
    code, out, _ = billing("serve", "--demo", "--port", port)
    assert (code, [options[-1] for options in served]) == (0, [True])
    assert f"http://127.0.0.1:{port}/graphql" in out
    tokens = [line for line in out.splitlines() if line.startswith("ey")]
    authenticator = Authenticator(load_settings())
    assert [asyncio.run(authenticator.subject(token)) for token in tokens] == people
    curls = [line for line in out.splitlines() if line.startswith("curl ")]
    assert all(token in curl for token, curl in zip(tokens, curls, strict=True))


def in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_ENVIRONMENT", "production")
    monkeypatch.setenv("BILLING_JWT_SECRET", "s" * 32)
    monkeypatch.setenv("BILLING_JWT_AUDIENCE", "billing")
    monkeypatch.setenv("BILLING_JWT_ISSUER", "platform")


def test_no_demo_in_production(
    billing: Billing,
    on_database: OnDatabase,
    served: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_production(monkeypatch)
    on_database(add_user, "gateway")
    assert billing("seed-demo") == failure("Demo data has no place in production.")
    assert billing("seed-demo", "--if-empty") == (0, "", "")
    assert on_database(read_rows, mandates) == []
    assert billing("serve", "--demo", "--port", free_port()) == (0, "", NO_MAIL)
    assert len(served) == 1


def test_seed_demo_leaves_other_data_alone(billing: Billing, on_database: OnDatabase) -> None:
    on_database(add_mandate)
    before = on_database(dump)
    has = "The database has mandates already:"
    assert billing("seed-demo") == failure(f"{has} demo data needs an empty one.")
    assert billing("seed-demo", "--if-empty") == (0, f"{has} no demo data is added.\n", "")
    assert on_database(dump) == before


def test_seed_demo(
    billing: Billing, on_database: OnDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.demo._DAYS", 5)
    code, out, error = billing("seed-demo", "--if-empty")
    assert (code, error) == (0, "")
    assert out.startswith("Five mandates with ")
    assert len(on_database(read_rows, mandates)) == 5
