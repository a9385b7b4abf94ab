"""The statistics query over the schema: its names, its nulls, its errors, and how often it reads."""

from typing import Any

import pytest

from app.billing.viewer import Viewer
from app.database import Database
from schema import schema
from schema.context import Context
from tests.api import NO_LIMITS, as_sent, statements
from tests.statistics import use_some
from tests.world import MANDATE, MEMBER, PROVIDERS, STRANGER, SYSADMIN

pytestmark = pytest.mark.anyio

EVERYTHING = """
query ($mandate: ID!, $period: PeriodType!, $year: Int!, $month: Int, $zone: TimeZone, $filter: UsageFilter) {
  statistics(mandateId: $mandate, period: $period, year: $year, month: $month, timeZone: $zone, filter: $filter) {
    period from to timeZone currency totalCost transactionCount
    costByProvider { key cost transactionCount }
    costByFeature { key cost transactionCount }
    costByModel { key cost transactionCount }
    costByUser { user { id displayName } cost transactionCount }
    buckets { start end cost transactionCount }
  }
}
"""


async def execute(database: Database, viewer: Viewer = SYSADMIN, **variables: Any) -> Any:
    context = Context(database, PROVIDERS, viewer, "r", NO_LIMITS)
    result = await schema.execute(
        EVERYTHING,
        variable_values={"mandate": MANDATE, "period": "MONTH", "year": 2026} | variables,
        context_value=context,
    )
    result.data = as_sent(result.data)
    return result


@pytest.fixture
async def used_world(database: Database) -> Database:
    await use_some(database)
    return database


async def test_everything_at_once(used_world: Database) -> None:
    with statements() as sent:
        result = await execute(used_world)
    assert result.errors is None
    assert len(sent) == 3  # the mandate, all sums, the users
    found = result.data["statistics"]
    buckets = found.pop("buckets")
    assert found == {
        "period": "MONTH",
        "from": "2025-12-31T23:00:00Z",
        "to": "2026-12-31T23:00:00Z",
        "timeZone": "Europe/Zurich",
        "currency": "CHF",
        "totalCost": "6.200000001",
        "transactionCount": 3,
        "costByProvider": [
            {"key": None, "cost": "5", "transactionCount": 1},
            {"key": "openai", "cost": "1.000000001", "transactionCount": 1},
            {"key": "azure", "cost": "0.2", "transactionCount": 1},
        ],
        "costByFeature": [
            {"key": None, "cost": "5", "transactionCount": 1},
            {"key": "chat", "cost": "1.200000001", "transactionCount": 2},
        ],
        "costByModel": [
            {"key": None, "cost": "5", "transactionCount": 1},
            {"key": "gpt", "cost": "1.200000001", "transactionCount": 2},
        ],
        "costByUser": [
            {"user": {"id": "bob", "displayName": "bob"}, "cost": "5", "transactionCount": 1},
            {
                "user": {"id": "alice", "displayName": "alice"},
                "cost": "1.200000001",
                "transactionCount": 2,
            },
        ],
    }
    assert len(buckets) == 12
    assert buckets[2] == {
        "start": "2026-02-28T23:00:00Z",
        "end": "2026-03-31T22:00:00Z",
        "cost": "6.200000001",
        "transactionCount": 3,
    }
    assert {part["cost"] for part in buckets} == {"0", "6.200000001"}


async def test_not_the_viewers(used_world: Database) -> None:
    for viewer, mandate in ((STRANGER, MANDATE), (SYSADMIN, "absent")):
        result = await execute(used_world, viewer, mandate=mandate)
        assert (result.data, result.errors) == ({"statistics": None}, None)


async def test_member(used_world: Database) -> None:
    result = await execute(used_world, MEMBER)
    assert result.data["statistics"]["totalCost"] == "1.200000001"
    result = await execute(used_world, MEMBER, filter={"userId": "bob"})
    assert result.errors is None
    assert result.data["statistics"]["totalCost"] == "0"
    assert result.data["statistics"]["costByUser"] == []


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"month": 1}, "month"),
        ({"period": "DAY"}, "month"),
        ({"period": "DAY", "month": 13}, "month"),
        ({"year": 0}, "year"),
        ({"year": 10000}, "year"),
        ({"zone": "Mars/Olympus"}, "timeZone"),
        ({"zone": "UTC"}, "timeZone"),
        ({"filter": {"featureCode": ""}}, "filter.featureCode"),
    ],
)
async def test_bad_input(used_world: Database, variables: dict[str, Any], name: str) -> None:
    result = await execute(used_world, **variables)
    (error,) = result.errors
    assert error.extensions == {"code": "BAD_USER_INPUT"}
    assert error.message.startswith(name)
    assert result.data == {"statistics": None}


async def test_given_null_is_left_out(used_world: Database) -> None:
    nothing = dict.fromkeys(("userId", "aicoreProvider", "featureCode", "workflowId"))
    for filter_ in (None, {}, nothing):
        result = await execute(used_world, month=None, zone=None, filter=filter_)
        assert result.data["statistics"]["totalCost"] == "6.200000001"
