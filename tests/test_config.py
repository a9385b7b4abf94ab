"""Settings: what is allowed, what is required in production, and that no fault shows a value."""

import os

import pytest
from pydantic import ValidationError

from app.config import Environment, Settings, SettingsError, load_settings

SECRET = "s" * 32
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
        BILLING_DATABASE="hunter3",
    )
    for name in ("ENVIRONMENT", "DATABASE_URL", "JWT_SECRET", "JWT_AUDIENCE", "PROVIDERS"):
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


def test_settings_show_no_secret(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BILLING_DATABASE_URL", "postgresql://user:hunter2@localhost/billing")
    environment.setenv("BILLING_JWT_SECRET", SECRET)
    shown = repr(load_settings())
    assert "hunter2" not in shown
    assert SECRET not in shown


def test_faults_show_no_value_either_when_given_directly() -> None:
    with pytest.raises(ValidationError) as error:
        Settings(database_url="mysql://root:hunter2@localhost/billing")
    assert "hunter2" not in str(error.value)
