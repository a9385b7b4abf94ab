"""Settings: what is allowed, what is required in production, and that no fault shows a value."""

import base64
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from app.config import Environment, Settings, SettingsError, load_settings, mail_sender
from tests.conftest import Billing

SECRET = "s" * 32
HOOK_SECRET = "whsec_" + base64.b64encode(b"hunter2" * 5).decode()
PRODUCTION = {
    "BILLING_ENVIRONMENT": "production",
    "BILLING_JWT_SECRET": SECRET,
    "BILLING_JWT_AUDIENCE": "billing-api",
    "BILLING_JWT_ISSUER": "platform",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("BILLING_"):
            monkeypatch.delenv(name)
    return monkeypatch


def fault(environment: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    return str(error.value)


def test_development_needs_nothing() -> None:
    settings = load_settings()
    assert settings.environment is Environment.DEVELOPMENT
    assert settings.database_url == "sqlite:///billing.db"
    assert settings.jwt_secret
    assert len(settings.jwt_secret.get_secret_value()) >= 32
    assert (settings.jwks_url, settings.jwks_file) == (None, None)
    assert (settings.jwt_audience, settings.jwt_issuer) == ("billing", "billing")
    assert settings.providers == ("anthropic", "azure", "google", "mistral", "openai")
    assert (settings.smtp_url, settings.webhook_url, settings.webhook_secret) == (None, None, None)


def test_production_with_all_it_needs(environment: pytest.MonkeyPatch) -> None:
    for name, value in PRODUCTION.items():
        environment.setenv(name, value)
    settings = load_settings()
    assert settings.environment is Environment.PRODUCTION
    assert settings.jwt_secret == SecretStr(SECRET)
    assert (settings.jwt_audience, settings.jwt_issuer) == ("billing-api", "platform")


def test_production_lists_all_that_is_missing(environment: pytest.MonkeyPatch) -> None:
    assert fault(environment, BILLING_ENVIRONMENT="production") == (
        "BILLING_JWT_SECRET is required in production without BILLING_JWKS_URL or BILLING_JWKS_FILE;"
        " BILLING_JWT_AUDIENCE is required in production;"
        " BILLING_JWT_ISSUER is required in production."
    )


def test_production_refuses_the_secret_for_development(environment: pytest.MonkeyPatch) -> None:
    secret = load_settings().jwt_secret
    assert secret
    known = secret.get_secret_value()
    message = fault(environment, **PRODUCTION | {"BILLING_JWT_SECRET": known})
    assert message == "BILLING_JWT_SECRET must not be the secret for development."


POSTGRESQL = {"BILLING_DATABASE_URL": "postgresql://billing:hunter2@db/billing"}
DIRECT = {"BILLING_DIRECT_DATABASE_URL": "postgresql://billing:hunter2@db:6432/billing"}
POOLED = {"BILLING_DATABASE_POOLED": "on"}


def test_past_pgbouncer(environment: pytest.MonkeyPatch) -> None:
    for name, value in (POSTGRESQL | DIRECT | POOLED).items():
        environment.setenv(name, value)
    settings = load_settings()
    assert settings.database_pooled
    assert settings.direct_url == DIRECT["BILLING_DIRECT_DATABASE_URL"]
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("given", [POSTGRESQL | DIRECT, POSTGRESQL | POOLED])
def test_pgbouncer_needs_a_way_past_it(
    environment: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    assert fault(environment, **given) == (
        "BILLING_DATABASE_POOLED and BILLING_DIRECT_DATABASE_URL need each other:"
        " the latter leads past PgBouncer."
    )


@pytest.mark.parametrize("name", ["BILLING_READ_DATABASE_URL", "BILLING_DIRECT_DATABASE_URL"])
@pytest.mark.parametrize("value", ["", "sqlite:///replica.db", "postgresql://hunter2@db"])
def test_other_addresses_are_of_postgresql(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    complaint = f"{name} must be postgresql://USER:PASSWORD@HOST/DATABASE"
    assert complaint in fault(environment, **POSTGRESQL | POOLED | {name: value})


def test_sqlite_has_no_replica(environment: pytest.MonkeyPatch) -> None:
    replica = POSTGRESQL["BILLING_DATABASE_URL"]
    assert fault(environment, BILLING_READ_DATABASE_URL=replica) == (
        "BILLING_READ_DATABASE_URL is for PostgreSQL, and BILLING_DATABASE_URL names SQLite."
    )


OLD, MENDED = (3, 51, 2), (3, 51, 3)
ON_SQLITE = PRODUCTION | {"BILLING_DATABASE_URL": "sqlite:////var/lib/billing.db"}
ON_POSTGRESQL = PRODUCTION | {"BILLING_DATABASE_URL": "postgresql://user@localhost/billing"}
DAMAGE = (
    "4 workers can damage a database of SQLite 3.51.2: serve with one, on PostgreSQL, or with"
    " SQLite 3.51.3 or newer."
)


@pytest.mark.parametrize(
    ("variables", "workers", "version", "is_refused"),
    [
        (ON_SQLITE, 4, OLD, True),
        (ON_SQLITE, 2, (3, 9, 99), True),
        (PRODUCTION, 4, OLD, True),
        (ON_SQLITE, 4, MENDED, False),
        (ON_SQLITE, 4, (3, 52, 0), False),
        (ON_SQLITE, 4, (4, 0, 0), False),
        (ON_SQLITE, 1, OLD, False),
        (ON_POSTGRESQL, 4, OLD, False),
        ({}, 4, OLD, False),
    ],
)
def test_production_refuses_several_workers_on_an_old_sqlite(
    environment: pytest.MonkeyPatch,
    variables: dict[str, str],
    workers: int,
    version: tuple[int, ...],
    is_refused: bool,
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    if not is_refused:
        load_settings(workers, version)
        return
    with pytest.raises(SettingsError, match=f"^{workers} workers can damage a database of SQLite"):
        load_settings(workers, version)


def test_production_lists_every_fault_at_once_and_no_secret(
    environment: pytest.MonkeyPatch,
) -> None:
    for name, value in ON_SQLITE.items():
        environment.setenv(name, value)
    environment.setenv("BILLING_JWT_SECRET", "hunter2")
    environment.delenv("BILLING_JWT_AUDIENCE")
    environment.setenv("BILLING_JWT_ISSUER", " ")
    environment.setenv("BILLING_JWT_SECRETS", "hunter3")
    environment.setenv("BILLING_SMTP_URL", "smtp://user:hunter4@")
    environment.setenv("BILLING_WEBHOOK_SECRET", "hunter5")
    with pytest.raises(SettingsError) as error:
        load_settings(4, OLD)
    message = str(error.value)
    faults = message.split("; ")
    assert [fault for fault in faults if "BILLING_JWT_SECRETS is no setting" in fault]
    for told in (
        DAMAGE.removesuffix("."),
        "BILLING_JWT_SECRET must have at least 32 bytes",
        "BILLING_JWT_AUDIENCE is required in production",
        "BILLING_JWT_ISSUER must not be empty or blank",
        "BILLING_SMTP_URL must be smtp://USER:PASSWORD@HOST:PORT, or smtps:// for TLS at once",
        "BILLING_WEBHOOK_SECRET must be whsec_ and the base64 of 24 to 64 bytes.",
    ):
        assert told in faults
    assert len(faults) == 7
    assert "hunter" not in message
    assert "\n" not in message


def test_a_server_that_may_not_start_says_why_in_one_line(
    command: Billing, environment: pytest.MonkeyPatch
) -> None:
    """The workers of the command line are judged with the settings."""
    secret = load_settings().jwt_secret.get_secret_value()  # type: ignore[union-attr]
    environment.setenv("BILLING_ENVIRONMENT", "production")
    environment.setenv("BILLING_JWT_SECRET", secret)
    environment.setattr("app.config._WITHOUT_WAL_BUG", (99, 0, 0))
    code, out, error = command("serve", "--workers", "2")
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert error.startswith("billing: 2 workers can damage a database of SQLite ")
    assert error.count(" is required in production") == 2
    assert "BILLING_JWT_SECRET must not be the secret for development" in error
    assert secret not in error


@pytest.mark.parametrize(
    ("secret", "accepted"), [("x" * 31, False), ("x" * 32, True), ("é" * 16, True), ("", False)]
)
def test_a_secret_has_32_bytes(
    environment: pytest.MonkeyPatch, secret: str, accepted: bool
) -> None:
    if accepted:
        environment.setenv("BILLING_JWT_SECRET", secret)
        assert load_settings().jwt_secret == SecretStr(secret)
    else:
        message = fault(environment, BILLING_JWT_SECRET=secret)
        assert message == "BILLING_JWT_SECRET must have at least 32 bytes."


KEYS = b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "%s"}]}' % (b"A" * 43)


def test_keys_of_an_issuer_replace_the_secret(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(KEYS)
    for name, value in PRODUCTION.items():
        environment.setenv(name, value)
    environment.delenv("BILLING_JWT_SECRET")
    for setting, given in (
        ("BILLING_JWKS_URL", "https://issuer.example.com/keys"),
        ("BILLING_JWKS_FILE", str(file)),
    ):
        environment.setenv(setting, given)
        for name in Environment:  # the secret that everybody knows counts for nothing beside them
            environment.setenv("BILLING_ENVIRONMENT", name)
            settings = load_settings()
            assert settings.jwt_secret is None
            assert given in (settings.jwks_url, str(settings.jwks_file))
        environment.setenv("BILLING_JWT_SECRET", SECRET)
        assert load_settings().jwt_secret == SecretStr(SECRET)
        environment.delenv("BILLING_JWT_SECRET")
        environment.delenv(setting)


@pytest.mark.parametrize(
    ("url", "environments"),
    [
        ("https://issuer.example.com/.well-known/jwks.json", "production development"),
        ("http://127.0.0.1:9000/keys", "production development"),
        ("http://localhost/keys", "production development"),
        ("http://[::1]/keys", "production development"),
        ("http://issuer.example.com/keys", "development"),
        ("http://127.0.0.1.example.com/keys", "development"),
        ("http://localhost@issuer.example.com/keys", ""),
        ("https://root:hunter2@issuer.example.com/keys", ""),
        ("file:///etc/keys.json", ""),
        ("ftp://issuer.example.com/keys", ""),
        ("issuer.example.com", ""),
        ("https://", ""),
        ("https://issuer.example.com:0", ""),
        ("https://issuer.example.com/#keys", ""),
        ("", ""),
    ],
)
def test_where_keys_may_come_from(
    environment: pytest.MonkeyPatch, url: str, environments: str
) -> None:
    for name, value in PRODUCTION.items():
        environment.setenv(name, value)
    for name in Environment:
        environment.setenv("BILLING_ENVIRONMENT", name)
        if name in environments.split():
            environment.setenv("BILLING_JWKS_URL", url)
            assert load_settings().jwks_url == url
        else:
            message = fault(environment, BILLING_JWKS_URL=url)
            assert message.startswith("BILLING_JWKS_URL must be https://")
            assert "hunter2" not in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is no JWK Set: a JSON object with a list of keys"),
        (b"\xff", "is no JWK Set: a JSON object with a list of keys"),
        (b'{"hunter2": 1}', "is no JWK Set: a JSON object with a list of keys"),
        (b'{"keys": []}', "has no key that can be used: it is empty"),
        (
            b'{"keys": [{"kty": "oct", "k": "hunter2"}, {"kty": "RSA", "n": "hunter2"}]}',
            "has no key that can be used: key 1 is not RSA, EC P-256 or OKP Ed25519,"
            " key 2 is malformed",
        ),
        (KEYS + b" " * 256 * 1024, "is larger than 256 KiB"),
    ],
    ids=range(7),
)
def test_a_file_of_keys_is_refused(
    environment: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, told: str
) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_bytes(content)
    missing: Any = {"BILLING_ENVIRONMENT": "production", "BILLING_JWKS_FILE": str(file)}
    message = fault(environment, **PRODUCTION | missing)
    assert message == f"BILLING_JWKS_FILE {told}."
    environment.delenv("BILLING_JWT_SECRET")
    assert fault(environment) == message  # nor is the secret missing, then


def test_keys_come_from_one_place(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(KEYS)
    url = "https://issuer.example.com/keys"
    message = fault(environment, BILLING_JWKS_URL=url, BILLING_JWKS_FILE=str(file))
    assert message == "BILLING_JWKS_FILE and BILLING_JWKS_URL exclude each other."


HASH = sha256(b"{ viewer { isSysAdmin } }").hexdigest()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is no manifest: a JSON object of documents by their SHA-256"),
        (b"\xff", "is no manifest: a JSON object of documents by their SHA-256"),
        (b"[]", "is no manifest: a JSON object of documents by their SHA-256"),
        (b"{}", "is no manifest: a JSON object of documents by their SHA-256"),
        (b'{"hunter2": "{ viewer }"}', "has faults: key 1 is no SHA-256 in lower-case hexadecimal"),
        (
            f'{{"{HASH}": "{{ hunter2 }}", "sha256:{HASH}": 2, "{HASH.upper()}": "hunter2"}}'.encode(),
            f"has faults: {HASH} is not the SHA-256 of its document, sha256:{HASH} is not the"
            " SHA-256 of its document, key 3 is no SHA-256 in lower-case hexadecimal",
        ),
        (b" " * (16 * 1024 * 1024 + 1), "is larger than 16 MiB"),
    ],
    ids=range(8),
)
def test_a_manifest_of_trusted_documents_is_refused(
    environment: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, told: str
) -> None:
    file = tmp_path / "persisted-documents.json"
    if content is not None:
        file.write_bytes(content)
    message = fault(environment, BILLING_TRUSTED_DOCUMENTS=str(file))
    assert message == f"BILLING_TRUSTED_DOCUMENTS {told}."


def test_one_message_lists_every_fault_and_no_value(environment: pytest.MonkeyPatch) -> None:
    message = fault(
        environment,
        BILLING_ENVIRONMENT="staging-7",
        BILLING_DATABASE_URL="mysql://root:hunter2@localhost/billing",
        BILLING_JWKS_URL="http://root:hunter2@issuer.example.com",
        BILLING_JWKS_FILE="/no/such/hunter3",
        BILLING_JWT_SECRET="tooshort",
        BILLING_JWT_AUDIENCE=" ",
        BILLING_PROVIDERS="openai,,azure",
        BILLING_SMTP_URL="http://root:hunter2@localhost",
        BILLING_WEBHOOK_URL="smtp://root:hunter2@localhost",
        BILLING_WEBHOOK_SECRET="hunter3",
        BILLING_TRUSTED_DOCUMENTS="/no/such/hunter3",
        BILLING_DATABASE="hunter3",
    )
    for name in (
        "ENVIRONMENT",
        "DATABASE_URL",
        "JWKS_URL",
        "JWKS_FILE",
        "JWT_SECRET",
        "JWT_AUDIENCE",
        "PROVIDERS",
        "SMTP_URL",
        "WEBHOOK_URL",
        "WEBHOOK_SECRET",
        "TRUSTED_DOCUMENTS",
    ):
        assert message.count(f"BILLING_{name} ") == 1
    assert "BILLING_DATABASE is no setting: there are BILLING_ENVIRONMENT, " in message
    assert "'development' or 'production'" in message
    assert "\n" not in message
    for value in ("staging-7", "hunter2", "hunter3", "tooshort"):
        assert value not in message


def test_variables_of_the_tests_are_none_of_ours(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BILLING_TEST_TRACE", "trace.csv")
    load_settings()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///billing.db",
        "sqlite:////var/lib/billing.db",
        "postgresql://user:word@db.example.com:5432/billing",
        "postgresql://user@/billing?host=/run/postgresql",
        "postgresql://user@db.example.com/billing?ssl=require",
        "postgresql://user@[::1]:5432/billing",
        "postgresql://user@/billing?host=one.example:5432&host=other.example:5432",
    ],
)
def test_a_database_url_is_accepted(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("BILLING_DATABASE_URL", url)
    assert load_settings().database_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "billing.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///billing.db?mode=hunter2",
        "mysql://user:hunter2@localhost/billing",
        "postgresql+psycopg://user:hunter2@localhost/billing",
        "postgresql://user:hunter2@localhost",
        "postgresql://user:hunter2@localhost:port/billing",
        "postgresql://user:hunter2@localhost/billing?sslmode=require",
        "postgresql://user:hunter2@localhost/billing?ssl=no",
        "postgresql://user:hunter2@localhost:99999/billing",
        "postgresql://user:hunter2@db..example/billing",
        f"postgresql://user:hunter2@{'x' * 64}.example/billing",
        "postgresql://user:hunter2@/billing?host=/run/a&host=/run/b",
        "postgresql://user:hunter2@/billing?host=one.example:1,other.example:2",
        "postgresql://user:hunter2@/billing?host=one.example:1&host=other.example:99999",
    ],
)
def test_a_database_url_is_refused(environment: pytest.MonkeyPatch, url: str) -> None:
    message = fault(environment, BILLING_DATABASE_URL=url)
    assert message.startswith("BILLING_DATABASE_URL m")
    assert "hunter2" not in message


def test_providers_keep_their_order(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BILLING_PROVIDERS", "openai, local-llama,azure")
    assert load_settings().providers == ("openai", "local-llama", "azure")


@pytest.mark.parametrize("names", ["", ",", "openai,openai", "open\tai", "x" * 129, "a\N{ESCAPE}b"])
def test_providers_are_refused(environment: pytest.MonkeyPatch, names: str) -> None:
    assert fault(environment, BILLING_PROVIDERS=names).startswith("BILLING_PROVIDERS ")


@pytest.mark.parametrize(
    ("url", "sender"),
    [
        ("smtp://mail.example.com", "billing@mail.example.com"),
        ("smtp://127.0.0.1:1025/", "billing@127.0.0.1"),
        ("smtp://post.zürich.example", "billing@post.xn--zrich-kva.example"),
        (
            "smtps://user:p%40ss@mail.example.com:465?from=billing@example.com",
            "billing@example.com",
        ),
        ("smtp://user:p@ss@mail.example.com?from=a+b@example.com", "a+b@example.com"),
        ("smtp://[::1]:25?from=a%2Bb@localhost", "a+b@localhost"),
    ],
)
def test_a_mail_server_is_accepted(environment: pytest.MonkeyPatch, url: str, sender: str) -> None:
    environment.setenv("BILLING_SMTP_URL", url)
    assert load_settings().smtp_url == url
    assert mail_sender(httpx.URL(url)) == sender


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example.com",
        "http://user:hunter2@mail.example.com",
        "smtp://",
        "smtp:///hunter2",
        "smtp://user:hunter2@",
        "smtp://:hunter2@mail.example.com",
        "smtp://user:hunter2@mail example.com",
        "smtp://user:hunter2@mail.example.com:port",
        "smtp://user:hunter2@mail.example.com:0",
        "smtp://user:hunter2@mail.example.com:65536",
        "smtp://user:hunter2@mail.example.com/path",
        "smtp://user:hunter2@mail.example.com#part",
        "smtp://user:hunter2@mail.example.com?sender=a@example.com",
        "smtp://user:hunter2@mail.example.com?from=hunter2",
        "smtp://user:hunter2@mail.example.com?from=a@example.com&timeout=1",
        "smtp://user:hunter2@mail.example.com?from=a@example.com%0d%0aBcc:b@example.com",
        "smtp://user:hunter2@[::1]:25",
    ],
)
def test_a_mail_server_is_refused(environment: pytest.MonkeyPatch, url: str) -> None:
    message = fault(environment, BILLING_SMTP_URL=url)
    assert message.startswith("BILLING_SMTP_URL m")
    assert "hunter2" not in message
    assert "\n" not in message


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "https://a:b@example.com/hook?key=c"])
def test_a_webhook_is_accepted(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("BILLING_WEBHOOK_URL", url)
    environment.setenv("BILLING_WEBHOOK_SECRET", HOOK_SECRET)
    settings = load_settings()
    assert settings.webhook_url == url
    assert settings.webhook_secret
    assert settings.webhook_secret.get_secret_value() == HOOK_SECRET


@pytest.mark.parametrize(
    "url", ["", "example.com", "ftp://example.com", "https://", "http://a:x", "http://a:65536"]
)
def test_a_webhook_is_refused(environment: pytest.MonkeyPatch, url: str) -> None:
    message = fault(environment, BILLING_WEBHOOK_URL=url, BILLING_WEBHOOK_SECRET=HOOK_SECRET)
    assert message == "BILLING_WEBHOOK_URL must be http:// or https://HOST:PORT/PATH."


@pytest.mark.parametrize(
    ("key", "accepted"),
    [(bytes(24), True), (bytes(64), True), (bytes(23), False), (bytes(65), False), (b"", False)],
)
def test_a_webhook_secret_has_24_to_64_bytes(
    environment: pytest.MonkeyPatch, key: bytes, accepted: bool
) -> None:
    environment.setenv("BILLING_WEBHOOK_URL", "https://example.com")
    secret = "whsec_" + base64.b64encode(key).decode()
    if accepted:
        environment.setenv("BILLING_WEBHOOK_SECRET", secret)
        assert load_settings().webhook_secret
    else:
        message = fault(environment, BILLING_WEBHOOK_SECRET=secret)
        assert message == "BILLING_WEBHOOK_SECRET must be whsec_ and the base64 of 24 to 64 bytes."


@pytest.mark.parametrize("secret", ["", HOOK_SECRET[6:], HOOK_SECRET[:-1], HOOK_SECRET + "é"])
def test_a_webhook_secret_has_its_form(environment: pytest.MonkeyPatch, secret: str) -> None:
    environment.setenv("BILLING_WEBHOOK_URL", "https://example.com")
    message = fault(environment, BILLING_WEBHOOK_SECRET=secret)
    assert message == "BILLING_WEBHOOK_SECRET must be whsec_ and the base64 of 24 to 64 bytes."


@pytest.mark.parametrize(
    ("name", "value"),
    [("BILLING_WEBHOOK_URL", "https://example.com"), ("BILLING_WEBHOOK_SECRET", HOOK_SECRET)],
)
def test_a_webhook_needs_both_settings(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    message = fault(environment, **{name: value})
    assert message == "BILLING_WEBHOOK_SECRET and BILLING_WEBHOOK_URL need each other."


def test_rate_limits_are_those_of_the_original(environment: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert (settings.rate_limits, settings.redis_url) == (True, None)
    assert (settings.rate_limit_balance, settings.rate_limit_reads) == (60, 30)
    assert (settings.rate_limit_writes, settings.rate_limit_spends) == (10, 0)
    for name, number in (("BALANCE", 100_000), ("READS", 1), ("WRITES", 0), ("SPENDS", 600)):
        environment.setenv(f"BILLING_RATE_LIMIT_{name}", str(number))
        assert getattr(load_settings(), f"rate_limit_{name}".lower()) == number


@pytest.mark.parametrize(("value", "expected"), [("on", True), ("off", False)])
def test_rate_limits_are_on_or_off(
    environment: pytest.MonkeyPatch, value: str, expected: bool
) -> None:
    environment.setenv("BILLING_RATE_LIMITS", value)
    assert load_settings().rate_limits is expected


@pytest.mark.parametrize("value", ["", "maybe", "no", "ON\n"])
def test_rate_limits_are_nothing_else(environment: pytest.MonkeyPatch, value: str) -> None:
    message = fault(environment, BILLING_RATE_LIMITS=value)
    assert message == "BILLING_RATE_LIMITS must be on or off."


@pytest.mark.parametrize("name", ["BALANCE", "READS", "WRITES", "SPENDS"])
@pytest.mark.parametrize(
    "value", ["", "-1", "1.5", "1_000", " 5", "5\n", "²", "٣", "100001", "ten"]
)
def test_a_rate_limit_is_refused(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    message = fault(environment, **{f"BILLING_RATE_LIMIT_{name}": value})
    assert message == (
        f"BILLING_RATE_LIMIT_{name} must be a number of calls a minute up to 100000, or 0 for no limit."
    )


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis://127.0.0.1:6379/",
        "rediss://user:p%40ss@redis.example.com:6380/3",
        "redis://:word@[::1]:6379/15",
    ],
)
def test_a_redis_is_accepted(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("BILLING_REDIS_URL", url)
    assert load_settings().redis_url == url
    assert url not in repr(load_settings())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:6379",
        "http://:hunter2@127.0.0.1",
        "redis://",
        "redis:///hunter2",
        "redis://:hunter2@",
        "redis://:hunter2@127.0.0.1:port",
        "redis://:hunter2@127.0.0.1:65536",
        "redis://:hunter2@127.0.0.1/name",
        "redis://:hunter2@127.0.0.1/0/1",
        "redis://:hunter2@127.0.0.1/?db=1",
        "redis://:hunter2@127.0.0.1/0#part",
        "redis://:hunter2@a..b",
        "redis+cluster://:hunter2@127.0.0.1",
    ],
)
def test_a_redis_is_refused(environment: pytest.MonkeyPatch, url: str) -> None:
    message = fault(environment, BILLING_REDIS_URL=url)
    assert message == (
        "BILLING_REDIS_URL must be redis://USER:PASSWORD@HOST:PORT/NUMBER, or rediss:// for TLS."
    )


@pytest.mark.parametrize(
    ("environment_name", "origins"),
    [
        ("development", "https://app.example.com, http://localhost:3000,http://[::1]:8080"),
        ("development", "https://xn--zrich-kva.example"),
        ("production", "https://app.example.com,https://app.example.com:8443"),
    ],
)
def test_origins_are_accepted(
    environment: pytest.MonkeyPatch, environment_name: str, origins: str
) -> None:
    variables = PRODUCTION | {"BILLING_ENVIRONMENT": environment_name}
    for name, value in (variables | {"BILLING_CORS_ORIGINS": origins}).items():
        environment.setenv(name, value)
    assert load_settings().cors_origins == tuple(origins.replace(" ", "").split(","))


@pytest.mark.parametrize(
    "origins",
    [
        "",
        ",",
        "null",
        "app.example.com",
        "https://",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://app.example.com?x",
        "https://app.example.com,",
        "https://App.example.com",
        "https://app.example.com:443",
        "https://*.example.com",
        "https://user:hunter2@app.example.com",
        "https://zürich.example",
        "ftp://app.example.com",
    ],
)
def test_origins_are_refused(environment: pytest.MonkeyPatch, origins: str) -> None:
    message = fault(environment, BILLING_CORS_ORIGINS=origins)
    assert message == (
        "BILLING_CORS_ORIGINS is a comma list of origins as browsers send them:"
        " https://app.example.com, in lower case and without a path."
    )


def test_an_origin_in_production_has_https(environment: pytest.MonkeyPatch) -> None:
    variables = PRODUCTION | {"BILLING_CORS_ORIGINS": "http://app.example.com"}
    message = fault(environment, **variables)
    assert message.startswith("BILLING_CORS_ORIGINS is a comma list of origins")
    assert "with https in production" in message


def test_not_every_origin_may_ask(environment: pytest.MonkeyPatch) -> None:
    message = fault(environment, BILLING_CORS_ORIGINS="https://app.example.com,*")
    assert message == (
        "BILLING_CORS_ORIGINS must name each origin: * would let every page on the web ask."
    )


@pytest.mark.parametrize("name", ["metrics", "tracing"])
def test_what_is_on_or_off(environment: pytest.MonkeyPatch, name: str) -> None:
    assert getattr(load_settings(), name) is False
    for value, meant in (("on", True), ("off", False)):
        environment.setenv(f"BILLING_{name}".upper(), value)
        assert getattr(load_settings(), name) is meant
    message = fault(environment, **{f"BILLING_{name}".upper(): "hunter2"})
    assert message.startswith(f"BILLING_{name}".upper() + " ")
    assert "hunter2" not in message


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.instrumentation.sqlalchemy"])
def test_tracing_needs_its_packages(environment: pytest.MonkeyPatch, missing: str) -> None:
    def find(name: str) -> object:
        if name == missing:
            return None
        if name.startswith(f"{missing}."):
            raise ModuleNotFoundError
        return object()

    environment.setattr("app.config.find_spec", find)
    load_settings()
    assert fault(environment, BILLING_TRACING="on") == (
        "BILLING_TRACING needs packages that are not installed:"
        " pip install 'mandate-billing[tracing]'."
    )


def test_settings_show_no_secret(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BILLING_DATABASE_URL", "postgresql://user:hunter2@localhost/billing")
    environment.setenv("BILLING_SMTP_URL", "smtp://user:hunter2@localhost")
    environment.setenv("BILLING_WEBHOOK_URL", "https://user:hunter2@localhost")
    environment.setenv("BILLING_WEBHOOK_SECRET", HOOK_SECRET)
    environment.setenv("BILLING_JWT_SECRET", SECRET)
    shown = repr(load_settings())
    assert "hunter2" not in shown
    assert SECRET not in shown
    assert HOOK_SECRET not in shown


def test_faults_show_no_value_either_when_given_directly() -> None:
    with pytest.raises(ValidationError) as error:
        Settings(database_url="mysql://root:hunter2@localhost/billing")
    assert "hunter2" not in str(error.value)
