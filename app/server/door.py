"""Who asks: from a bearer token to a viewer."""

from app.auth import Authenticator
from app.billing.errors import Unauthenticated
from app.billing.viewer import Viewer, load_viewer
from app.config import Settings
from app.database import Database


class Doorkeeper:
    """Says who asks."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._authenticator = Authenticator(settings)
        self._database = database

    async def viewer(self, authorization: str | None) -> Viewer | None:
        """The user that a bearer token names; None without a token."""
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated
        user_id = await self._authenticator.subject(token.strip())
        return await load_viewer(self._database, user_id)
