"""Bearer tokens: who is asking. What they may do is read from the database, never from here."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from app.billing.errors import Unauthenticated
from app.billing.viewer import load_viewer
from app.config import MIN_SECRET_BYTES, Settings, SettingsError
from app.database import Database
from app.jwks import RemoteKeySet, read_key_set

MAX_TOKEN = 8192
"""Characters; a longer one is not even looked at."""
KEPT_SECONDS = 60
"""For so long a token that our secret has signed is not verified again, unless it expires before."""
_KEPT_TOKENS = 1000
_SYMMETRIC = "HS256"
_ASYMMETRIC = ("RS256", "ES256", "EdDSA")


def issue_token(settings: Settings, user_id: str, ttl_seconds: int) -> str:
    """A token that says who its bearer is, for so many seconds."""
    key = _secret(settings)
    if key is None:
        raise SettingsError(
            "Without BILLING_JWT_SECRET there is nothing to sign a token with: set it, or get a"
            " token from the issuer whose keys BILLING_JWKS_URL or BILLING_JWKS_FILE names."
        )
    now = datetime.now(UTC)
    claims = {
        "sub": user_id,
        "aud": settings.jwt_audience,
        "iss": settings.jwt_issuer,
        "iat": now,
        "exp": now + timedelta(seconds=ttl_seconds),
    }
    return jwt.encode(claims, key, algorithm=_SYMMETRIC)


async def is_active(database: Database, user_id: str) -> bool:
    """Whether a token for this user would be accepted."""
    async with database.read() as connection:
        try:
            await load_viewer(connection, user_id)
        except Unauthenticated:
            return False
    return True


class Authenticator:
    """Tells whom a token names; whether that user exists is not its business."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._secret = _secret(settings)
        self._known: dict[str, tuple[str, float]] = {}
        """Subject, and until when it is taken as known, by token."""
        self._audience = settings.jwt_audience
        self._issuer = settings.jwt_issuer
        self._keys = (
            RemoteKeySet(settings.jwks_url, clock)
            if settings.jwks_url
            else read_key_set(settings.jwks_file)
            if settings.jwks_file
            else None
        )

    async def subject(self, token: str) -> str:
        """The user id in a token of ours that is in force; Unauthenticated for any other."""
        subject, good_until = self._known.get(token, ("", 0.0))
        if time.time() < good_until:
            return subject
        claims, algorithm = await self._verify(token)
        subject = str(claims["sub"])
        if algorithm == _SYMMETRIC:  # a key of a set may be withdrawn at any time
            if len(self._known) == _KEPT_TOKENS:
                self._known.clear()
            self._known[token] = subject, min(int(claims["exp"]), time.time() + KEPT_SECONDS)
        return subject

    async def _verify(self, token: str) -> tuple[dict[str, Any], str]:
        """The claims, and by which algorithm they are signed."""
        try:
            algorithm, key = await self._key(token)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                options={"require": ["exp", "sub", "aud", "iss"]},
            )
            subject: str = claims["sub"]
            subject.encode()  # JSON can hold half a character, which no database takes
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired: get a new one.") from None
        except jwt.ImmatureSignatureError:
            raise Unauthenticated("The token is not valid yet.") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"The token lacks the claim {error.claim}.") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("The token was issued for another audience.") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("The token comes from another issuer.") from None
        except (jwt.PyJWTError, ValueError):
            raise Unauthenticated("The token is malformed or not signed by us.") from None
        if not subject.strip():
            raise Unauthenticated("The token lacks the claim sub.")
        return claims, algorithm

    async def _key(self, token: str) -> tuple[str, bytes | jwt.PyJWK]:
        """What must have signed it: a key of ours that serves the algorithm it names, and only that one.

        Of the header `alg` and `kid` are read; a key or an address of one in it is as good as not there.
        """
        if len(token) > MAX_TOKEN:
            raise jwt.InvalidTokenError("too long")
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == _SYMMETRIC and self._secret:
            return _SYMMETRIC, self._secret
        key = None
        if algorithm in _ASYMMETRIC and self._keys:
            key = await self._keys.find(algorithm, kid)
        if key is None:
            raise jwt.InvalidKeyError("no such key")
        return key.algorithm_name, key


def _secret(settings: Settings) -> bytes | None:
    if settings.jwt_secret is None:
        return None
    secret = settings.jwt_secret.get_secret_value().encode()
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"an {_SYMMETRIC} key must have at least {MIN_SECRET_BYTES} bytes")
    return secret
