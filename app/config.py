"""What the operator sets: environment variables with the prefix BILLING_, checked as a whole at the start."""

import os
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app.billing.checks import check_name
from app.billing.errors import BillingError

MIN_SECRET_BYTES = 32
"""What HS256 needs: a shorter key can be guessed."""

_PREFIX = "BILLING_"
_OF_TESTS = "BILLING_TEST_"
_IN_DEVELOPMENT = {
    "jwt_secret": "a secret for development, known to everyone",
    "jwt_audience": "billing",
    "jwt_issuer": "billing",
}
_URL_OPTIONS = {"sqlite": set[str](), "postgresql": {"host", "ssl"}}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


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
    jwt_secret: SecretStr = Field(default=None, validate_default=True)
    jwt_audience: str = Field(default=None, validate_default=True)
    jwt_issuer: str = Field(default=None, validate_default=True)
    providers: Annotated[tuple[str, ...], NoDecode] = (
        "anthropic",
        "azure",
        "google",
        "mistral",
        "openai",
    )

    @field_validator("jwt_secret", "jwt_audience", "jwt_issuer", mode="before")
    @classmethod
    def _required_in_production(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            return value
        if info.data.get("environment") == Environment.PRODUCTION:
            raise ValueError("is required in production")
        return _IN_DEVELOPMENT[info.field_name or ""]

    @field_validator("jwt_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
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
        try:
            url = make_url(value)
        except (ArgumentError, ValueError):  # their words may quote the password
            url = None
        if url is None or url.drivername not in _URL_OPTIONS or not url.database:
            raise ValueError("must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE")
        if url.drivername == "sqlite" and url.database == ":memory:":
            raise ValueError("must name a file: a database in memory is not shared")
        known = _URL_OPTIONS[url.drivername]
        if not known.issuperset(url.query):
            allowed = f"the options {', '.join(sorted(known))}" if known else "no options"
            raise ValueError(f"may have {allowed} behind its question mark")
        if url.query.get("ssl", "prefer") not in _SSL_MODES:
            raise ValueError(f"may have ssl as {', '.join(_SSL_MODES)}")
        return value

    @field_validator("providers", mode="before")
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


def load_settings() -> Settings:
    """The settings of this process; SettingsError lists all that is wrong with them."""
    faults = list(_unknown_names())
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


def _unknown_names() -> Iterator[str]:
    known = [f"{_PREFIX}{name}".upper() for name in Settings.model_fields]
    for name in sorted(os.environ):
        given = name.upper()
        if given.startswith(_PREFIX) and not given.startswith(_OF_TESTS) and given not in known:
            yield f"{name} is no setting: there are {', '.join(known)}"
