"""What is measured: each question as our clients put it, and as the hand-written routes take it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from benchmarks.client import HOLD, SERIAL
from benchmarks.load import GATEWAY, MANDATE, USERS
from benchmarks.world import MEMBER, VIEWER

_PAGE = """
query ($mandate: ID!, $first: Int!) {
  transactions(mandateId: $mandate, first: $first) {
    nodes {
      id transactionType referenceType amount balanceAfter description workflowId featureCode
      aicoreProvider aicoreModel occurredAt createdAt
      user { id displayName }
      mandate { id name }
    }
    pageInfo { hasNextPage endCursor }
  }
}
"""
_BALANCES = """
{ balances { mandate { id name } billingModel currency balance held available isWarning } }
"""
_STATISTICS = """
query ($mandate: ID!, $year: Int!) {
  statistics(mandateId: $mandate, period: MONTH, year: $year) {
    currency totalCost transactionCount
    buckets { start end cost transactionCount }
    costByProvider { key cost transactionCount }
  }
}
"""
_RECORD = """
mutation ($input: RecordUsageInput!) {
  recordUsage(input: $input) {
    results { outcome transaction { id balanceAfter } error { code } }
    userErrors { code }
  }
}
"""
_CREATE_HOLD = """
mutation ($input: CreateHoldInput!) {
  createHold(input: $input) { hold { id status expiresAt } userErrors { code } }
}
"""
_SETTLE_HOLD = """
mutation ($input: SettleHoldInput!) {
  settleHold(input: $input) {
    hold { id status } transaction { id balanceAfter } userErrors { code }
  }
}
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One request in both forms."""

    query: str
    variables: Mapping[str, Any]
    raw_path: str
    raw_body: Any = None
    """None for a GET."""
    bare_path: str | None = None
    """Of a route that asks for no token and looks for no viewer."""

    def asked_of_schema(self, token: str) -> bytes:
        body = orjson.dumps({"query": self.query, "variables": self.variables})
        return _request("POST", "/graphql", token, body)

    def asked_of_routes(self, token: str, *, bare: bool) -> bytes:
        path = self.bare_path if bare and self.bare_path else self.raw_path
        if self.raw_body is None:
            return _request("GET", path, token)
        return _request("POST", path, token, orjson.dumps(self.raw_body))


@dataclass(frozen=True, slots=True)
class Work:
    """A row of the table."""

    name: str
    label: str
    viewer: str
    steps: Sequence[Sequence[Step]]
    """Requests that take turns, each of one step or more."""
    connections: int = 4
    expected: tuple[bytes, int] | None = None
    """Of writes: what stands how often in the last answer."""
    of_raw: float | None = None
    of_stock: float | None = None
    """The aims: at least so much of the rate of raw, and of stock."""

    @property
    def has_bare(self) -> bool:
        return self.steps[0][0].bare_path is not None


def all_work(now: datetime) -> list[Work]:
    """In the order of the table: what writes comes last."""
    return [
        _page(1, of_raw=0.4),
        _page(50, of_raw=0.5, of_stock=8),
        _page(500, of_raw=0.5, of_stock=8),
        Work(
            "balances",
            "balances of 20 mandates",
            MEMBER,
            [[Step(_BALANCES, {}, "/balances")]],
            of_raw=0.5,
        ),
        _statistics(now.astimezone(UTC).year),
        _record(1),
        _record(1000, of_raw=0.4),
        Work(
            "hold",
            "hold and settle, 16 clients",
            GATEWAY,
            [hold_and_settle(MANDATE, user_id) for user_id in USERS],
            connections=16,
            expected=(b'"status":"SETTLED"', 1),
            of_raw=0.5,
        ),
    ]


def reading() -> Work:
    """Pages, most of them short, for as long as one likes."""
    short, long = (_page(size).steps[0] for size in (1, 50))
    return Work(
        "reading", "reading", VIEWER, [long, *[short] * 9], expected=(b'"hasNextPage":true', 1)
    )


def _page(size: int, **aims: Any) -> Work:
    variables = {"mandate": MANDATE, "first": size}
    asked = f"mandateId={MANDATE}&first={size}"
    step = Step(_PAGE, variables, f"/transactions?{asked}", bare_path=f"/bare?{asked}")
    label = "1 transaction" if size == 1 else f"{size} transactions"
    return Work(f"page-{size}", f"{label}, user and mandate", VIEWER, [[step]], **aims)


def _statistics(year: int) -> Work:
    step = Step(
        _STATISTICS,
        {"mandate": MANDATE, "year": year},
        f"/statistics?mandateId={MANDATE}&year={year}",
    )
    return Work("statistics", "statistics of a year", VIEWER, [[step]], of_raw=0.5)


def _record(count: int, **aims: Any) -> Work:
    label = "recordUsage, 1 event" if count == 1 else f"recordUsage, {count:,} events"
    steps = [[record(MANDATE, USERS, count, first)] for first in range(0, len(USERS), count)]
    expected = (b'"outcome":"RECORDED"', count)
    return Work(f"record-{count}", label, GATEWAY, steps, expected=expected, **aims)


def record(mandate_id: str, users: Sequence[str], count: int, first: int = 0) -> Step:
    """So many events of one mandate, of its users in turn."""
    events = [
        {
            "mandateId": mandate_id,
            "userId": users[(first + place) % len(users)],
            "amount": "0.004125",
            "idempotencyKey": f"{count}-{SERIAL}-{place}",
            "aicoreProvider": "openai",
            "aicoreModel": "gpt-4o-mini",
            "featureCode": "chat",
        }
        for place in range(count)
    ]
    return Step(_RECORD, {"input": {"events": events}}, "/usage", {"events": events})


def hold_and_settle(mandate_id: str, user_id: str) -> list[Step]:
    """One spend: money is set aside, and settled for less."""
    hold = {
        "mandateId": mandate_id,
        "userId": user_id,
        "amount": "0.02",
        "idempotencyKey": f"hold-{SERIAL}",
        "aicoreProvider": "openai",
        "featureCode": "chat",
    }
    settlement = {
        "mandateId": mandate_id,
        "holdId": HOLD,
        "amount": "0.004125",
        "aicoreModel": "gpt-4o-mini",
    }
    return [
        Step(_CREATE_HOLD, {"input": hold}, "/holds", hold),
        Step(_SETTLE_HOLD, {"input": settlement}, "/settlements", settlement),
    ]


def _request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nAccept: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
