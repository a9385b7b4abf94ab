"""Settings: what is allowed, what is required in production, and that no fault shows a value."""

import base64
import os

import httpx
import pytest
from pydantic import ValidationError

from app.config import Environment, Settings, SettingsError, load_settings, mail_sender

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
    assert len(settings.jwt_secret.get_secret_value()) >= 32
    assert (settings.jwt_audience, settings.jwt_issuer) == ("billing", "billing")
    assert settings.providers == ("anthropic", "azure", "google", "mistral", "openai")
    assert (settings.smtp_url, settings.webhook_url, settings.webhook_secret) == (None, None, None)


def test_production_with_all_it_needs(environment: pytest.MonkeyPatch) -> None:
    for name, value in PRODUCTION.items():
        environment.setenv(name, value)
    settings = load_settings()
    assert settings.environment is Environment.PRODUCTION
    assert settings.jwt_secret.get_secret_value() == SECRET
    assert (settings.jwt_audience, settings.jwt_issuer) == ("billing-api", "platform")


def test_production_lists_all_that_is_missing(environment: pytest.MonkeyPatch) -> None:
    assert fault(environment, BILLING_ENVIRONMENT="production") == (
        "BILLING_JWT_SECRET is required in production;"
        " BILLING_JWT_AUDIENCE is required in production;"
        " BILLING_JWT_ISSUER is required in production."
    )


def test_production_refuses_the_secret_for_development(environment: pytest.MonkeyPatch) -> None:
    known = load_settings().jwt_secret.get_secret_value()
    message = fault(environment, **PRODUCTION | {"BILLING_JWT_SECRET": known})
    assert message == "BILLING_JWT_SECRET must not be the secret for development."


@pytest.mark.parametrize(
    ("secret", "accepted"), [("x" * 31, False), ("x" * 32, True), ("é" * 16, True), ("", False)]
)
def test_a_secret_has_32_bytes(
    environment: pytest.MonkeyPatch, secret: str, accepted: bool
) -> None:
    if accepted:
        environment.setenv("BILLING_JWT_SECRET", secret)
        assert load_settings().jwt_secret.get_secret_value() == secret
    else:
        message = fault(environment, BILLING_JWT_SECRET=secret)
        assert message == "BILLING_JWT_SECRET must have at least 32 bytes."


def test_one_message_lists_every_fault_and_no_value(environment: pytest.MonkeyPatch) -> None:
    message = fault(
        environment,
        BILLING_ENVIRONMENT="staging-7",
        BILLING_DATABASE_URL="mysql://root:hunter2@localhost/billing",
        BILLING_JWT_SECRET="tooshort",
        BILLING_JWT_AUDIENCE=" ",
        BILLING_PROVIDERS="openai,,azure",
        BILLING_SMTP_URL="http://root:hunter2@localhost",
        BILLING_WEBHOOK_URL="smtp://root:hunter2@localhost",
        BILLING_WEBHOOK_SECRET="hunter3",
        BILLING_DATABASE="hunter3",
    )
    for name in (
        "ENVIRONMENT",
        "DATABASE_URL",
        "JWT_SECRET",
        "JWT_AUDIENCE",
        "PROVIDERS",
        "SMTP_URL",
        "WEBHOOK_URL",
        "WEBHOOK_SECRET",
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
