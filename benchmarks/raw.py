"""The baseline: what an experienced developer writes by hand with Starlette, asyncpg, orjson and SQL.

`python -m benchmarks.raw PORT` serves a route for each question of the benchmark, under the options
of our own server. A route does what any real one must: it verifies the token and reads the viewer's
roles from the database. Its answer has the bytes that our server has for `data`.
"""

import asyncio
import base64
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg  # type: ignore[import-untyped]
import jwt
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.billing.models import transactions
from app.billing.paging import Keyset
from app.billing.transactions import TransactionFilter

NANO = 10**9

_VIEWER = """
SELECT "user".kind, "user".is_sys_admin, "user".enabled, membership.mandate_id, membership.role
FROM "user"
LEFT JOIN membership ON membership.user_id = "user".id AND membership.left_at IS NULL
WHERE "user".id = $1
"""
_PAGE = """
SELECT
    t.id, t.transaction_type, t.reference_type, t.amount, t.balance_after, t.description,
    t.workflow_id, t.feature_code, t.aicore_provider, t.aicore_model, t.occurred_at, t.created_at,
    u.id, u.first_name, u.last_name, u.email, m.id, m.name
FROM "transaction" AS t
JOIN mandate AS m ON m.id = t.mandate_id
LEFT JOIN "user" AS u ON u.id = t.user_id
WHERE t.mandate_id = $1
ORDER BY t.id DESC
LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks, with what the database says of them."""

    user_id: str
    is_sys_admin: bool
    is_service: bool
    roles: Mapping[str, str]

    def require_admin(self, mandate_id: str) -> None:
        if not self.is_sys_admin and self.roles.get(mandate_id) != "ADMIN":
            raise HTTPException(403)

    def require_gateway(self) -> None:
        if not self.is_sys_admin and not self.is_service:
            raise HTTPException(403)


Answer = Callable[[Any, Viewer, Request], Awaitable[Any]]
"""From a connection, who asks and what, to the data."""


def money(nano: int) -> str:
    """The text of an amount in nano units."""
    whole, fraction = divmod(abs(nano), NANO)
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole}.{fraction:09d}".rstrip("0") if fraction else f"{sign}{whole}"


def json(data: Any) -> Response:
    """The answer with that data."""
    body = orjson.dumps({"data": data}, option=orjson.OPT_UTC_Z)
    return Response(body, media_type="application/json")


def subject(request: Request) -> str:
    """The user whom the token names."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        if scheme.lower() != "bearer":
            raise jwt.InvalidTokenError
        claims = jwt.decode(
            token,
            request.app.state.secret,
            algorithms=["HS256"],
            audience="billing",
            issuer="billing",
            options={"require": ["exp", "sub", "aud", "iss"]},
        )
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None
    return str(claims["sub"])


async def read_viewer(connection: Any, user_id: str) -> Viewer:
    """The user with all roles, by one SELECT."""
    rows = await connection.fetch(_VIEWER, user_id)
    if not rows or not rows[0]["enabled"]:
        raise HTTPException(401)
    kind, is_sys_admin, *_ = rows[0]
    roles = {mandate_id: role for *_, mandate_id, role in rows if mandate_id}
    return Viewer(user_id, is_sys_admin, kind == "SERVICE", roles)


def route(path: str, answer: Answer, method: str = "GET") -> Route:
    """A route that knows who asks."""

    async def endpoint(request: Request) -> Response:
        user_id = subject(request)
        async with request.app.state.pool.acquire() as connection:
            viewer = await read_viewer(connection, user_id)
            return json(await answer(connection, viewer, request))

    return Route(path, endpoint, methods=[method])


async def bare_page(request: Request) -> Response:
    """The page for whoever asks."""
    async with request.app.state.pool.acquire() as connection:
        return json(await _page(connection, request))


async def page(connection: Any, viewer: Viewer, request: Request) -> Any:
    viewer.require_admin(request.query_params["mandateId"])
    return await _page(connection, request)


async def _page(connection: Any, request: Request) -> Any:
    mandate_id, size = request.query_params["mandateId"], int(request.query_params["first"])
    rows = await connection.fetch(_PAGE, mandate_id, size + 1)
    nodes = [
        {
            "id": str(key),
            "transactionType": kind,
            "referenceType": reference,
            "amount": money(amount),
            "balanceAfter": money(balance),
            "description": description,
            "workflowId": workflow,
            "featureCode": feature,
            "aicoreProvider": provider,
            "aicoreModel": model,
            "occurredAt": occurred_at,
            "createdAt": created_at,
            "user": user_id
            and {
                "id": user_id,
                "displayName": f"{first_name or ''} {last_name or ''}".strip() or email or user_id,
            },
            "mandate": {"id": mandate, "name": name},
        }
        for (
            key,
            kind,
            reference,
            amount,
            balance,
            description,
            workflow,
            feature,
            provider,
            model,
            occurred_at,
            created_at,
            user_id,
            first_name,
            last_name,
            email,
            mandate,
            name,
        ) in rows[:size]
    ]
    cursor = [_bound_to(mandate_id), nodes[-1]["id"]] if nodes else None
    info = {
        "hasNextPage": len(rows) > size,
        "endCursor": cursor and base64.urlsafe_b64encode(orjson.dumps(cursor)).decode(),
    }
    return {"transactions": {"nodes": nodes, "pageInfo": info}}


@lru_cache
def _bound_to(mandate_id: str) -> str:
    """What a cursor of the mandate's list begins with: it must be that of our server."""
    binding = ("transactions", mandate_id, None, TransactionFilter())
    cursor = Keyset((transactions.c.id,), True, binding).cursor(SimpleNamespace(id=""))
    return str(orjson.loads(base64.urlsafe_b64decode(cursor))[0])


async def _keep(_: Any) -> None:
    """A connection goes back to the pool as it is: asking it to forget everything takes a round trip."""


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.secret = os.environ["BILLING_JWT_SECRET"].encode()
    app.state.pool = await asyncpg.create_pool(
        os.environ["BILLING_DATABASE_URL"], min_size=4, max_size=20, reset=_keep
    )
    async with app.state.pool:
        yield


def create_app() -> Starlette:
    """All routes."""
    routes = [
        Route("/bare", bare_page, methods=["GET"]),
        route("/transactions", page),
    ]
    return Starlette(routes=routes, lifespan=_lifespan)


def main() -> None:
    """Serves until a signal ends it."""
    uvicorn.run(
        create_app(),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        server_header=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
