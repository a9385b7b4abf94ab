"""The baseline: what an experienced developer writes by hand with Starlette, asyncpg, orjson and SQL.

`python -m benchmarks.raw PORT` serves a route for each question of the benchmark, under the options
of our own server. A route does what any real one must: it verifies the token and reads the viewer's
roles from the database. Its answer has the bytes that our server has for `data`. Nothing of ours is
imported here.
"""

import base64
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg  # type: ignore[import-untyped]
import jwt
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks import raw_writes
from benchmarks.raw_values import NANO, Viewer, money
from benchmarks.serving import serve

CURSOR = "BENCHMARK_CURSOR"
"""The setting of what a cursor of ours begins with: whose list it is of, as a hash."""

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
_BALANCES = """
SELECT
    m.id, m.name, m.currency, s.billing_model, s.credit_limit, s.warning_threshold_percent,
    s.default_user_credit, a.id, a.balance, a.funding_base, a.credit_limit, h.held
FROM billing_settings AS s
JOIN mandate AS m ON m.id = s.mandate_id
LEFT JOIN account AS a ON
    a.mandate_id = s.mandate_id
    AND a.account_type = CASE s.billing_model
        WHEN 'PREPAY_USER' THEN 'USER' WHEN 'UNLIMITED' THEN 'UNLIMITED' ELSE 'MANDATE'
    END
    AND (a.user_id IS NULL OR a.user_id = $2)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(amount), 0)::bigint AS held FROM hold
    WHERE hold.mandate_id = a.mandate_id AND hold.account_id = a.id AND hold.status = 'OPEN'
        AND hold.expires_at > statement_timestamp()
) AS h
WHERE s.mandate_id = ANY($1)
ORDER BY s.mandate_id
"""
_MANDATE = "SELECT currency, time_zone FROM mandate WHERE id = $1"
_STATISTICS = """
WITH usage AS (
    SELECT local_date, aicore_provider, cost, transaction_count FROM daily_total
    WHERE mandate_id = $1 AND local_date >= $2 AND local_date < $3
    UNION ALL
    SELECT local_date, aicore_provider, cost, transaction_count FROM daily_usage
    WHERE mandate_id = $1 AND local_date < $3 AND local_date >= greatest(
        $2, (SELECT totalled_until FROM billing_settings WHERE mandate_id = $1)
    )
)
SELECT extract(month FROM local_date)::int AS month, aicore_provider, sum(cost),
    sum(transaction_count)::bigint
FROM usage
GROUP BY 1, 2
"""


Answer = Callable[[Any, Viewer, Request], Awaitable[Any]]
"""From a connection, who asks and what, to the data."""


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
    cursor = [request.app.state.cursor, nodes[-1]["id"]] if nodes else None
    info = {
        "hasNextPage": len(rows) > size,
        "endCursor": cursor and base64.urlsafe_b64encode(orjson.dumps(cursor)).decode(),
    }
    return {"transactions": {"nodes": nodes, "pageInfo": info}}


async def balances(connection: Any, viewer: Viewer, _: Request) -> Any:
    rows = await connection.fetch(_BALANCES, list(viewer.roles), viewer.user_id)
    return {"balances": [_balance(*row) for row in rows]}


def _balance(
    mandate_id: str,
    name: str,
    currency: str,
    model: str,
    limit: int | None,
    percent: int,
    credit: int,
    account_id: Any,
    balance: int,
    base: int,
    own_limit: int | None,
    held: int,
) -> Any:
    expected = balance if account_id else credit if model == "PREPAY_USER" else 0
    base = base if account_id else expected
    available: int | None = expected - held
    if model == "UNLIMITED":
        available = None
    elif model == "CREDIT_POSTPAY":
        limit = limit if own_limit is None else own_limit
        base = limit or 0
        available = None if limit is None else limit + expected - held
    threshold = max(0, percent * base // (100 * NANO))
    return {
        "mandate": {"id": mandate_id, "name": name},
        "billingModel": model,
        "currency": currency,
        "balance": money(balance or 0),
        "held": money(held),
        "available": None if available is None else money(available),
        "isWarning": available is not None and available <= threshold,
    }


async def statistics(connection: Any, viewer: Viewer, request: Request) -> Any:
    mandate_id, year = request.query_params["mandateId"], int(request.query_params["year"])
    viewer.require_admin(mandate_id)
    currency, time_zone = await connection.fetchrow(_MANDATE, mandate_id)
    rows = await connection.fetch(_STATISTICS, mandate_id, date(year, 1, 1), date(year + 1, 1, 1))
    months: dict[int, list[int]] = defaultdict(_nothing)
    providers: dict[str, list[int]] = defaultdict(_nothing)
    for month, provider, cost, count in rows:
        for sums in (months[month], providers[provider]):
            sums[0] += int(cost)
            sums[1] += count
    zone = ZoneInfo(time_zone)
    edges = [
        datetime(year + place // 12, place % 12 + 1, 1, tzinfo=zone).astimezone(UTC)
        for place in range(13)
    ]
    buckets = []
    for place in range(12):
        cost, count = months[place + 1]
        buckets.append(
            {
                "start": edges[place],
                "end": edges[place + 1],
                "cost": money(cost),
                "transactionCount": count,
            }
        )
    found = {
        "currency": currency,
        "totalCost": money(sum(cost for cost, _ in months.values())),
        "transactionCount": sum(count for _, count in months.values()),
        "buckets": buckets,
        "costByProvider": [
            {"key": provider or None, "cost": money(cost), "transactionCount": count}
            for provider, (cost, count) in sorted(
                providers.items(), key=lambda item: (-item[1][0], not item[0], item[0])
            )
        ],
    }
    return {"statistics": found}


def _nothing() -> list[int]:
    return [0, 0]


async def _keep(_: Any) -> None:
    """A connection goes back to the pool as it is: asking it to forget everything takes a round trip."""


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.secret = os.environ["BILLING_JWT_SECRET"].encode()
    app.state.cursor = os.environ[CURSOR]
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
        route("/balances", balances),
        route("/statistics", statistics),
        route("/usage", raw_writes.record_usage, "POST"),
        route("/holds", raw_writes.create_hold, "POST"),
        route("/settlements", raw_writes.settle_hold, "POST"),
    ]
    return Starlette(routes=routes, lifespan=_lifespan)


if __name__ == "__main__":
    serve(create_app())
