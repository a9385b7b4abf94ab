"""GET /livez and /readyz: whether the process lives, and whether requests should be sent to it."""

import asyncio
import time

from sqlalchemy.exc import DBAPIError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.database import Database, DatabaseUnavailable
from app.revision import find_revision, revision_needed

_FRESH_SECONDS = 1.0
"""For so long one look at the database serves all who ask: anybody may, as often as they like."""


class Probes:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._look: asyncio.Task[str | None] | None = None
        self._looked_at = 0.0

    async def livez(self, _: Request) -> Response:
        """Whether the loop turns; the database is no part of it."""
        return _answer(None)

    async def readyz(self, request: Request) -> Response:
        """Whether the database answers, at the right revision, and the process is not ending."""
        if request.scope.get("state", {}).get("draining"):
            return _answer("The process is ending.")
        return _answer(await self._what_is_wrong())

    async def _what_is_wrong(self) -> str | None:
        now = time.monotonic()
        if self._look is None or (self._look.done() and now - self._looked_at > _FRESH_SECONDS):
            self._look = asyncio.create_task(self._ask())
            self._looked_at = now
        return await asyncio.shield(self._look)

    async def _ask(self) -> str | None:
        try:
            found = await self._database.ask(find_revision)
        except (DatabaseUnavailable, DBAPIError):
            return "The database cannot be reached."
        if found != revision_needed():
            return "The database is not at the revision that this program needs."
        return None


def _answer(reason: str | None) -> Response:
    body = {"status": "ok"} if reason is None else {"status": "unavailable", "reason": reason}
    return JSONResponse(body, 200 if reason is None else 503, {"Cache-Control": "no-store"})
