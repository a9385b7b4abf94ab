"""What is asked of the ledgers: the queries of a dashboard, answered by the real schema without HTTP."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from time import perf_counter
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from app.billing.enums import MembershipRole
from app.billing.types import first_key
from app.billing.viewer import OPERATOR, Viewer
from app.config import Settings
from app.database import Database
from app.rate_limit import RateLimiter
from benchmarks.load import DAYS, MANDATE, PROVIDERS, USERS, ZONE
from schema import schema
from schema.context import Context

_UNLIMITED = RateLimiter(Settings(rate_limits=False))
_MEMBER = Viewer(USERS[0], roles={MANDATE: MembershipRole.MEMBER})

_BY_TIME = """
query ($mandate: ID!, $period: PeriodType!, $year: Int!, $month: Int) {
  statistics(mandateId: $mandate, period: $period, year: $year, month: $month) {
    currency totalCost transactionCount buckets { start end cost transactionCount }
  }
}
"""
_BY_PROVIDER_AND_MODEL = """
query ($mandate: ID!, $year: Int!) {
  statistics(mandateId: $mandate, period: YEAR, year: $year) {
    currency totalCost transactionCount
    costByProvider { key cost transactionCount }
    costByModel { key cost transactionCount }
  }
}
"""
_BY_USER = """
query ($mandate: ID!, $year: Int!) {
  statistics(mandateId: $mandate, period: YEAR, year: $year) {
    currency totalCost transactionCount
    costByUser { user { id displayName } cost transactionCount }
  }
}
"""
_USAGE = """
query ($mandate: ID!, $from: Date!, $to: Date!, $by: [UsageDimension!]) {
  usage(mandateId: $mandate, from: $from, to: $to, granularity: MONTH, groupBy: $by) {
    currency totalCost transactionCount totalGroups
    groups {
      keys { dimension value } cost transactionCount
      buckets { start end cost transactionCount }
    }
  }
}
"""
_PAGE = """
query ($mandate: ID!, $after: String) {
  transactions(mandateId: $mandate, first: 50, after: $after) {
    nodes {
      id transactionType referenceType amount balanceAfter description workflowId featureCode
      aicoreProvider aicoreModel occurredAt createdAt
      user { id displayName }
      account { id accountType user { id displayName } }
    }
    pageInfo { hasNextPage endCursor }
  }
}
"""
_TOTALS = """
query ($mandate: ID!, $filter: TransactionFilter) {
  transactions(mandateId: $mandate, filter: $filter, first: 1) {
    totalCount totals { credits debits net }
  }
}
"""
_BALANCES = """
{ balances { mandate { id name } billingModel currency balance held available isWarning } }
"""


@dataclass(frozen=True, slots=True)
class Question:
    """One query. `is_bound`: as a statistic or a page it must not slow down as the ledger grows."""

    name: str
    query: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    viewer: Viewer = OPERATOR
    is_bound: bool = True


async def questions(database: Database, now: datetime) -> list[Question]:
    """The questions to a loaded ledger, in the order of the table."""
    today = now.astimezone(ZoneInfo(ZONE)).date()
    mandate = {"mandate": MANDATE}
    day, year = mandate | {"period": "DAY"}, mandate | {"year": today.year}
    past = _months_before(today, 2)
    middle = {"after": await _cursor(database, now - timedelta(DAYS) / 2)}
    a_year = mandate | {"from": str(_months_before(today, 12)), "to": str(_months_before(today, 0))}
    return [
        Question(
            "a month by day, two months back",
            _BY_TIME,
            day | {"year": past.year, "month": past.month},
        ),
        Question("this month by day", _BY_TIME, day | {"year": today.year, "month": today.month}),
        Question("this year by month", _BY_TIME, year | {"period": "MONTH"}),
        Question("this year by provider, by model", _BY_PROVIDER_AND_MODEL, year),
        Question("this year by user", _BY_USER, year),
        Question("12 months by month", _USAGE, a_year),
        Question("12 months by provider and model", _USAGE, a_year | {"by": ["PROVIDER", "MODEL"]}),
        Question("the first page of transactions", _PAGE, mandate),
        Question("a page in the middle", _PAGE, mandate | middle),
        Question("totals and count of all", _TOTALS, mandate, is_bound=False),
        Question(
            "totals and count of a provider",
            _TOTALS,
            mandate | {"filter": {"aicoreProvider": "openai"}},
            is_bound=False,
        ),
        Question("balances of a member", _BALANCES, viewer=_MEMBER, is_bound=False),
    ]


async def ask(database: Database, question: Question) -> Mapping[str, Any]:
    """The answer, which must be without errors."""
    context = Context(database, PROVIDERS, question.viewer, "benchmark", _UNLIMITED)
    result = await schema.execute(
        question.query, variable_values=dict(question.variables), context_value=context
    )
    if result.errors or result.data is None:
        raise RuntimeError(f"{question.name}: {result.errors}")
    return result.data


async def milliseconds(database: Database, question: Question) -> float:
    """How long the answer takes."""
    begun = perf_counter()
    await ask(database, question)
    return (perf_counter() - begun) * 1000


def _months_before(day: date, months: int) -> date:
    """The first day of the month that is so many before that of `day`."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return date(year, month + 1, 1)


async def _cursor(database: Database, at: datetime) -> str:
    """The place of an instant in the list of transactions: a cursor of it, with another key."""
    data = await ask(database, Question("a cursor", _PAGE, {"mandate": MANDATE}))
    [bound_to, _] = orjson.loads(
        base64.urlsafe_b64decode(data["transactions"]["pageInfo"]["endCursor"])
    )
    key = first_key(at.astimezone(UTC))
    return base64.urlsafe_b64encode(orjson.dumps([bound_to, key])).decode()
