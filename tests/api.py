"""The API as its clients meet it: requests over HTTP with a bearer token, and what they cost."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
from pydantic import SecretStr
from sqlalchemy import Engine, event

from app.auth import issue_token
from app.billing.enums import MembershipRole, UserKind
from app.config import Environment, Settings
from app.database import Database
from app.rate_limit import RateLimiter
from app.server import create_app
from tests.world import OTHER_MANDATE, add_mandate, add_member, add_user

PEOPLE = ("sven", "alice", "ada", "gateway", "root")
"""An outsider to MANDATE, a member of it, its admin, the service and a sysadmin."""


NO_LIMITS = RateLimiter(Settings(rate_limits=False))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request."""

    status: int
    data: Any
    errors: list[dict[str, Any]]
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def codes(self) -> list[str]:
        return [error["extensions"]["code"] for error in self.errors]


class Api:
    """Asks as a user, or as nobody."""

    def __init__(self, client: httpx.AsyncClient, settings: Settings) -> None:
        self.client = client
        self._settings = settings

    def bearer(self, user_id: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {issue_token(self._settings, user_id, 60)}"}

    async def __call__(self, user_id: str | None, query: str, /, **variables: Any) -> Answer:
        response = await self.client.post(
            "/graphql",
            json={"query": query, "variables": variables},
            headers=self.bearer(user_id) if user_id else {},
        )
        body = response.json()
        return Answer(
            response.status_code, body.get("data"), body.get("errors", []), response.headers
        )

    async def read(self, user_id: str, query: str, /, **variables: Any) -> Any:
        """The data of an answer without errors; of its root field alone, where it has one."""
        answer = await self(user_id, query, **variables)
        assert (answer.status, answer.errors) == (200, [])
        return next(iter(answer.data.values())) if len(answer.data) == 1 else answer.data


@asynccontextmanager
async def serving(settings: Settings, demo: bool = False) -> AsyncIterator[Api]:
    """The started server of these settings."""
    app = create_app(settings, demo)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://billing") as client,
    ):
        yield Api(client, settings)


@contextmanager
def statements() -> Iterator[list[str]]:
    """What is sent to any database meanwhile, but for asking how far logs are."""
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "pg_control_system" not in statement:
            sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def in_production(database_url: str, **others: Any) -> Settings:
    """The settings of a server in production, and others."""
    return Settings(
        database_url=database_url,
        environment=Environment.PRODUCTION,
        jwt_secret=SecretStr("x" * 32),
        jwt_audience="billing",
        jwt_issuer="billing",
        **others,
    )


async def add_people(database: Database, **settings: Any) -> None:
    """MANDATE with these settings, and PEOPLE; "sven" administers OTHER_MANDATE."""
    await add_user(database, "root", is_sys_admin=True, email="root@example.com")
    await add_user(database, "gateway", kind=UserKind.SERVICE)
    await add_user(database, "alice", email="alice@example.com", first_name="Alice")
    await add_mandate(database, **settings)
    await add_member(database, "ada", role=MembershipRole.ADMIN)
    await add_mandate(database, OTHER_MANDATE, users=())
    await add_member(database, "sven", OTHER_MANDATE, role=MembershipRole.ADMIN)


def as_sent(data: Any) -> Any:
    """The data of an answer as a client reads it."""
    return orjson.loads(orjson.dumps(data, option=orjson.OPT_UTC_Z))
