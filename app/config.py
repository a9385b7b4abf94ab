"""What the operator sets: environment variables with the prefix BILLING_, checked as a whole at the start."""

import base64
import os
import re
import sqlite3
from collections.abc import Iterator
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import httpx
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.addresses import check_database_url, parse_url
from app.billing.checks import check_name
from app.billing.errors import BillingError
from app.jwks import WrongKeySet, read_key_set
from app.trusted_documents import WrongManifest, read_manifest

MIN_SECRET_BYTES = 32
"""What HS256 needs: a shorter key can be guessed."""

MAX_RATE_LIMIT = 100_000
"""Each call of the last minute is remembered."""

_PREFIX = "BILLING_"
_OF_TESTS = "BILLING_TEST_"
_WITHOUT_WAL_BUG = (3, 51, 3)
"""From this version on, several processes that write cannot damage SQLite's write-ahead log."""
_IN_DEVELOPMENT = {
    "jwt_secret": "a secret for development, known to everyone",
    "jwt_audience": "billing",
    "jwt_issuer": "billing",
}
_ADDRESS = re.compile(r"[\w.!#$%'*+/?^`{|}~-]+@[\w.-]+", re.ASCII)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_REDIS_PATH = re.compile("/([0-9]{1,4})?")
_ORIGIN = re.compile(r"https?://[a-z0-9.:\[\]-]+", re.ASCII)
_OF_TRACING = (
    "opentelemetry.sdk.trace",
    "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry.instrumentation.asgi",
    "opentelemetry.instrumentation.sqlalchemy",
)


class SettingsError(Exception):
    """The settings are wrong; the message lists every fault and shows no value."""


class Environment(StrEnum):
    DEVELOPMENT = "development"
    PRODUCTION = "production"


class Settings(BaseSettings):
    """Every setting of the program. What is not given has a default, but for secrets in production."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, hide_input_in_errors=True)

    environment: Environment = Environment.DEVELOPMENT
    database_url: str = Field(default="sqlite:///billing.db", repr=False)
    direct_database_url: str | None = Field(default=None, repr=False)
    database_pooled: bool = Field(default=False, validate_default=True)
    read_database_url: str | None = Field(default=None, repr=False)
    jwks_url: str | None = None
    jwks_file: Path | None = None
    jwt_secret: SecretStr | None = Field(default=None, validate_default=True)
    jwt_audience: str = Field(default=None, validate_default=True)
    jwt_issuer: str = Field(default=None, validate_default=True)
    providers: Annotated[tuple[str, ...], NoDecode] = (
        "anthropic",
        "azure",
        "google",
        "mistral",
        "openai",
    )
    smtp_url: str | None = Field(default=None, repr=False)
    webhook_url: str | None = Field(default=None, repr=False)
    webhook_secret: SecretStr | None = Field(default=None, validate_default=True)
    redis_url: str | None = Field(default=None, repr=False)
    rate_limits: bool = True
    rate_limit_balance: int = 60
    rate_limit_reads: int = 30
    rate_limit_writes: int = 10
    rate_limit_spends: int = 0
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    trusted_documents: Path | None = None
    metrics: bool = False
    tracing: bool = False

    @property
    def direct_url(self) -> str:
        """The address of the database itself, for the operator's commands."""
        return self.direct_database_url or self.database_url

    @field_validator("jwks_url")
    @classmethod
    def _check_jwks_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        url = parse_url(value, "https", "http")
        if url is None or url.userinfo or url.fragment:
            raise ValueError("must be https://HOST:PORT/PATH")
        in_development = info.data.get("environment") == Environment.DEVELOPMENT
        if url.scheme == "http" and url.host not in _LOOPBACK and not in_development:
            raise ValueError("must be https:// but for this machine and for development")
        return value

    @field_validator("jwks_file")
    @classmethod
    def _check_jwks_file(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        if info.data.get("jwks_url"):
            raise ValueError(f"and {_PREFIX}JWKS_URL exclude each other")
        try:
            read_key_set(value)
        except WrongKeySet as fault:
            raise ValueError(str(fault)) from None
        return value

    @field_validator("jwt_secret", "jwt_audience", "jwt_issuer", mode="before")
    @classmethod
    def _required_in_production(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        is_secret = name == "jwt_secret"
        has_keys = any(info.data.get(given, "faulty") for given in ("jwks_url", "jwks_file"))
        if value is not None or (is_secret and has_keys):
            return value
        if info.data.get("environment") == Environment.PRODUCTION:
            unless = f" without {_PREFIX}JWKS_URL or {_PREFIX}JWKS_FILE" if is_secret else ""
            raise ValueError(f"is required in production{unless}")
        return _IN_DEVELOPMENT[name]

    @field_validator("jwt_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        secret = value.get_secret_value()
        if len(secret.encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"must have at least {MIN_SECRET_BYTES} bytes")
        in_production = info.data.get("environment") == Environment.PRODUCTION
        if in_production and secret == _IN_DEVELOPMENT["jwt_secret"]:
            raise ValueError("must not be the secret for development")
        return value

    @field_validator("jwt_audience", "jwt_issuer")
    @classmethod
    def _check_not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty or blank")
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        return check_database_url(value)

    @field_validator("direct_database_url", "read_database_url")
    @classmethod
    def _check_other_database_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("database_url", value).startswith("sqlite:"):
            raise ValueError(f"is for PostgreSQL, and {_PREFIX}DATABASE_URL names SQLite")
        return None if value is None else check_database_url(value, "postgresql")

    @field_validator("database_pooled")
    @classmethod
    def _check_database_pooled(cls, value: bool, info: ValidationInfo) -> bool:
        if "direct_database_url" in info.data and value != bool(info.data["direct_database_url"]):
            raise ValueError(
                f"and {_PREFIX}DIRECT_DATABASE_URL need each other: the latter leads past PgBouncer"
            )
        return value

    @field_validator("providers", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("providers")
    @classmethod
    def _check_providers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                check_name(name, "each name")
            except BillingError as error:
                raise ValueError(f"is a comma list of names: {error.message}") from None
        if len(set(names)) < len(names):
            raise ValueError("must not name a provider twice")
        return names

    @field_validator("smtp_url")
    @classmethod
    def _check_smtp_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = parse_url(value, "smtp", "smtps")
        if url is None or url.path != "/" or url.fragment or (url.password and not url.username):
            raise ValueError("must be smtp://USER:PASSWORD@HOST:PORT, or smtps:// for TLS at once")
        if not _ADDRESS.fullmatch(mail_sender(url)):
            raise ValueError("may name a sender behind its question mark: from=ADDRESS")
        return value

    @field_validator("webhook_url")
    @classmethod
    def _check_webhook_url(cls, value: str | None) -> str | None:
        if value is not None and parse_url(value, "http", "https") is None:
            raise ValueError("must be http:// or https://HOST:PORT/PATH")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _check_webhook_secret(
        cls, value: SecretStr | None, info: ValidationInfo
    ) -> SecretStr | None:
        if value is not None and not _is_signing_secret(value.get_secret_value()):
            raise ValueError("must be whsec_ and the base64 of 24 to 64 bytes")
        if "webhook_url" in info.data and (value is None) != (info.data["webhook_url"] is None):
            raise ValueError(f"and {_PREFIX}WEBHOOK_URL need each other")
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = parse_url(value, "redis", "rediss")
        if url is None or not _REDIS_PATH.fullmatch(url.raw_path.decode()) or url.fragment:
            raise ValueError("must be redis://USER:PASSWORD@HOST:PORT/NUMBER, or rediss:// for TLS")
        return value

    @field_validator("database_pooled", "rate_limits", "metrics", "tracing", mode="before")
    @classmethod
    def _check_on_or_off(cls, value: Any) -> Any:
        if value not in (True, False, "on", "off"):
            raise ValueError("must be on or off")
        return value

    @field_validator(
        "rate_limit_balance",
        "rate_limit_reads",
        "rate_limit_writes",
        "rate_limit_spends",
        mode="before",
    )
    @classmethod
    def _check_rate_limit(cls, value: Any) -> Any:
        if not re.fullmatch("[0-9]{1,6}", str(value)) or int(value) > MAX_RATE_LIMIT:
            raise ValueError(
                f"must be a number of calls a minute up to {MAX_RATE_LIMIT}, or 0 for no limit"
            )
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_cors_origins(cls, origins: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "*" in origins:
            raise ValueError("must name each origin: * would let every page on the web ask")
        in_production = info.data.get("environment") == Environment.PRODUCTION
        for origin in origins:
            url = parse_url(origin, "https", *(() if in_production else ("http",)))
            # Compared with what browsers send, letter for letter.
            if url is None or not _ORIGIN.fullmatch(origin) or str(url) != origin:
                schemes = "with https in production, " if in_production else ""
                raise ValueError(
                    "is a comma list of origins as browsers send them:"
                    f" https://app.example.com, {schemes}in lower case and without a path"
                )
        return origins

    @field_validator("trusted_documents")
    @classmethod
    def _check_trusted_documents(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                read_manifest(value)
            except WrongManifest as fault:
                raise ValueError(str(fault)) from None
        return value

    @field_validator("tracing")
    @classmethod
    def _check_tracing(cls, value: bool) -> bool:
        if value and not all(map(_is_installed, _OF_TRACING)):
            raise ValueError(
                "needs packages that are not installed: pip install 'mandate-billing[tracing]'"
            )
        return value


def mail_sender(url: httpx.URL) -> str:
    """From whom mail comes, by the address of its server: `?from=`, else billing at that host."""
    query = unquote(url.query.decode())
    return query.removeprefix("from=") if query else f"billing@{url.raw_host.decode()}"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # what it is part of
        return False


def _is_signing_secret(text: str) -> bool:
    prefix, _, encoded = text.partition("_")
    try:
        return prefix == "whsec" and 24 <= len(base64.b64decode(encoded, validate=True)) <= 64
    except ValueError:
        return False


def load_settings(
    workers: int = 1, sqlite_version: tuple[int, ...] = sqlite3.sqlite_version_info
) -> Settings:
    """The settings of so many processes; SettingsError lists all that is wrong with them."""
    faults = [*_unknown_names(), *_faults_of_workers(workers, sqlite_version)]
    try:
        settings = Settings()
    except ValidationError as error:
        faults += [
            f"{_PREFIX}{fault['loc'][0]}".upper() + f" {fault['msg']}".replace("Value error, ", "")
            for fault in error.errors(include_input=False, include_context=False)
        ]
    if faults:
        raise SettingsError("; ".join(fault.rstrip(".") for fault in faults) + ".")
    return settings


def _faults_of_workers(workers: int, sqlite_version: tuple[int, ...]) -> Iterator[str]:
    # As they are given, so that this fault stands beside those that leave no settings.
    given = {name.upper(): value for name, value in os.environ.items()}
    if (
        workers > 1
        and sqlite_version < _WITHOUT_WAL_BUG
        and given.get(f"{_PREFIX}ENVIRONMENT") == Environment.PRODUCTION
        and given.get(f"{_PREFIX}DATABASE_URL", "sqlite:").startswith("sqlite:")
    ):
        found, needed = (
            ".".join(map(str, version)) for version in (sqlite_version, _WITHOUT_WAL_BUG)
        )
        yield (
            f"{workers} workers can damage a database of SQLite {found}:"
            f" serve with one, on PostgreSQL, or with SQLite {needed} or newer"
        )


def _unknown_names() -> Iterator[str]:
    known = [f"{_PREFIX}{name}".upper() for name in Settings.model_fields]
    for name in sorted(os.environ):
        given = name.upper()
        if given.startswith(_PREFIX) and not given.startswith(_OF_TESTS) and given not in known:
            yield f"{name} is no setting: there are {', '.join(known)}"
