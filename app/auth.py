"""Bearer tokens: who is asking. What they may do is read from the database, never from here."""

from datetime import UTC, datetime, timedelta

import jwt

from app.billing.errors import Unauthenticated
from app.billing.viewer import load_viewer
from app.config import MIN_SECRET_BYTES, Settings
from app.database import Database

_ALGORITHM = "HS256"


def issue_token(settings: Settings, user_id: str, ttl_seconds: int) -> str:
    """A token that says who its bearer is, for so many seconds."""
    now = datetime.now(UTC)
    claims = {
        "sub": user_id,
        "aud": settings.jwt_audience,
        "iss": settings.jwt_issuer,
        "iat": now,
        "exp": now + timedelta(seconds=ttl_seconds),
    }
    return jwt.encode(claims, _key(settings), algorithm=_ALGORITHM)


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

    def __init__(self, settings: Settings) -> None:
        self._key = _key(settings)
        self._audience = settings.jwt_audience
        self._issuer = settings.jwt_issuer

    def subject(self, token: str) -> str:
        """The user id in a token of ours that is in force; Unauthenticated for any other."""
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                audience=self._audience,
                issuer=self._issuer,
                options={"require": ["exp", "sub", "aud", "iss"]},
            )
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
        subject: str = claims["sub"]
        if not subject.strip():
            raise Unauthenticated("The token lacks the claim sub.")
        return subject


def _key(settings: Settings) -> bytes:
    key = settings.jwt_secret.get_secret_value().encode()
    if len(key) < MIN_SECRET_BYTES:
        raise ValueError(f"an {_ALGORITHM} key must have at least {MIN_SECRET_BYTES} bytes")
    return key
