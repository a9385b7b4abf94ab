"""The usage query over the schema: groups, courses, caps, and who sees what."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.billing.viewer import Viewer
from app.database import Database
from schema import schema
from schema.context import Context
from tests.api import NO_LIMITS, as_sent, statements
from tests.statistics import use_some, write
from tests.world import (
    ADMIN,
    GATEWAY,
    MANDATE,
    MEMBER,
    PROVIDERS,
    STRANGER,
    SYSADMIN,
    add_mandate,
    add_user,
    run_sql,
    usage_event,
)

pytestmark = pytest.mark.anyio

EVERYTHING = """
query ($mandate: ID!, $from: Date!, $to: Date!, $granularity: Granularity!, $groupBy: [UsageDimension!],
       $first: Int, $zone: TimeZone, $filter: UsageFilter) {
  usage(mandateId: $mandate, from: $from, to: $to, granularity: $granularity, groupBy: $groupBy,
        first: $first, timeZone: $zone, filter: $filter) {
    from to timeZone currency totalCost transactionCount totalGroups
    groups {
      keys { dimension value user { id displayName } }
      cost transactionCount
      buckets { start end cost transactionCount }
    }
  }
}
"""
MARCH: dict[str, Any] = {"from": "2026-03-01", "to": "2026-04-01", "granularity": "MONTH"}


async def execute(database: Database, viewer: Viewer = SYSADMIN, **variables: Any) -> Any:
    context = Context(database, PROVIDERS, viewer, "r", NO_LIMITS)
    result = await schema.execute(
        EVERYTHING,
        variable_values={"mandate": MANDATE, **MARCH, **variables},
        context_value=context,
    )
    result.data = as_sent(result.data)
    return result


async def ask(database: Database, viewer: Viewer = SYSADMIN, **variables: Any) -> Any:
    result = await execute(database, viewer, **variables)
    assert result.errors is None, result.errors
    return result.data["usage"]


def groups(report: Any) -> list[tuple[list[str | None], str, int]]:
    return [
        ([key["value"] for key in group["keys"]], group["cost"], group["transactionCount"])
        for group in report["groups"]
    ]


@pytest.fixture
async def used(database: Database) -> Database:
    await use_some(database)
    return database


async def test_everything(used: Database) -> None:
    with statements() as sent:
        report = await ask(used, groupBy=["PROVIDER", "USER"], granularity="DAY")
    # The mandate, the groups, their courses, the users.
    assert len([statement for statement in sent if statement.startswith("SELECT")]) == 4
    buckets = [group.pop("buckets") for group in report["groups"]]
    user = {"id": "alice", "displayName": "alice"}
    assert report == {
        "from": "2026-02-28T23:00:00Z",
        "to": "2026-03-31T22:00:00Z",
        "timeZone": "Europe/Zurich",
        "currency": "CHF",
        "totalCost": "6.200000001",
        "transactionCount": 3,
        "totalGroups": 3,
        "groups": [
            {
                "keys": [
                    {"dimension": "PROVIDER", "value": None, "user": None},
                    {
                        "dimension": "USER",
                        "value": "bob",
                        "user": {"id": "bob", "displayName": "bob"},
                    },
                ],
                "cost": "5",
                "transactionCount": 1,
            },
            {
                "keys": [
                    {"dimension": "PROVIDER", "value": "openai", "user": None},
                    {"dimension": "USER", "value": "alice", "user": user},
                ],
                "cost": "1.000000001",
                "transactionCount": 1,
            },
            {
                "keys": [
                    {"dimension": "PROVIDER", "value": "azure", "user": None},
                    {"dimension": "USER", "value": "alice", "user": user},
                ],
                "cost": "0.2",
                "transactionCount": 1,
            },
        ],
    }
    assert [len(course) for course in buckets] == [31] * 3
    assert [course[9]["cost"] for course in buckets] == ["5", "1.000000001", "0"]
    assert [course[10]["cost"] for course in buckets] == ["0", "0", "0.2"]
    assert buckets[0][28] == {
        "start": "2026-03-28T23:00:00Z",
        "end": "2026-03-29T22:00:00Z",  # clocks change
        "cost": "0",
        "transactionCount": 0,
    }


async def test_without_groups_it_is_one(used: Database) -> None:
    neither: tuple[list[str] | None, ...] = (None, [])
    for group_by in neither:
        report = await ask(used, groupBy=group_by)
        assert groups(report) == [([], "6.200000001", 3)]
        assert report["totalGroups"] == 1
        assert [bucket["cost"] for bucket in report["groups"][0]["buckets"]] == ["6.200000001"]


@pytest.mark.parametrize("reader", [{}, {"zone": "UTC"}])
async def test_without_usage(used: Database, reader: dict[str, Any]) -> None:
    empty: dict[str, Any] = {
        "from": "2025-03-01",
        "to": "2025-04-01",
        "granularity": "DAY",
        **reader,
    }
    report = await ask(used, **empty)
    assert groups(report) == [([], "0", 0)]
    assert {bucket["cost"] for bucket in report["groups"][0]["buckets"]} == {"0"}
    report = await ask(used, **empty, groupBy=["USER"])
    assert (report["groups"], report["totalGroups"], report["totalCost"]) == ([], 0, "0")


@pytest.mark.parametrize("reader", [{}, {"zone": "UTC"}])
async def test_the_dearest_alone(used: Database, reader: dict[str, Any]) -> None:
    """Totals are of all groups, and the course is that of the groups shown."""
    report = await ask(used, groupBy=["PROVIDER"], first=2, granularity="DAY", **reader)
    assert groups(report) == [([None], "5", 1), (["openai"], "1.000000001", 1)]
    assert (report["totalGroups"], report["totalCost"], report["transactionCount"]) == (
        3,
        "6.200000001",
        3,
    )
    for group in report["groups"]:
        assert {bucket["cost"] for bucket in group["buckets"]} == {"0", group["cost"]}


@pytest.mark.parametrize("reader", [{}, {"zone": "UTC"}])
async def test_groups_of_one_cost_stand_in_the_order_of_their_names(
    database: Database, reader: dict[str, Any]
) -> None:
    await add_mandate(database, time_zone="Europe/Zurich")
    noon = datetime(2026, 3, 10, 12, tzinfo=UTC)
    for name in ("b", None, "a", "B"):
        await write(database, usage_event(1, occurred_at=noon, aicore_model=name))
    assert groups(await ask(database, groupBy=["MODEL"], **reader)) == [
        (["B"], "1", 1),
        (["a"], "1", 1),
        (["b"], "1", 1),
        ([None], "1", 1),
    ]


async def test_costs_beyond_64_bits_keep_their_order(used: Database) -> None:
    """SQLite adds them by halves: their order is not that of the halves."""
    noon = datetime(2026, 3, 10, 12, tzinfo=UTC)
    for place, model in enumerate("abcdefgh"):
        await write(
            used,
            *(
                usage_event(f"0.{digits}", occurred_at=noon, aicore_model=model, feature_code=code)
                for digits, code in (("999999999", "x"), (f"00000000{place + 1}", "y"))
            ),
        )
    report = await ask(used, groupBy=["MODEL"], filter={"userId": "alice"}, first=3)
    assert [key for (key,), _, _ in groups(report)] == ["gpt", "h", "g"]
    await run_sql(used, "UPDATE daily_usage SET cost = 9223372036854775807 WHERE cost > 900000000")
    await run_sql(used, "UPDATE daily_usage SET cost = -cost WHERE aicore_model IN ('g', 'h')")
    report = await ask(used, groupBy=["MODEL"])
    assert [key for (key,), _, _ in groups(report)][:3] == ["gpt", "f", "e"]
    assert [(key, cost) for (key,), cost, _ in groups(report)][-2:] == [
        ("g", "-9223372036.854775814"),
        ("h", "-9223372036.854775815"),
    ]


def hours(days: int) -> dict[str, Any]:
    end = datetime(2026, 3, 1) + timedelta(days=days)
    return {"from": "2026-03-01", "to": f"{end:%Y-%m-%d}", "granularity": "HOUR"}


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (hours(94), "granularity: HOUR"),
        ({**hours(94), "granularity": "DAY", "groupBy": ["WORKFLOW"]}, "groupBy: WORKFLOW"),
        ({**hours(94), "granularity": "DAY", "zone": "UTC"}, "timeZone: another one"),
    ],
)
async def test_the_cap_of_what_is_read_from_transactions(
    used: Database, asked: dict[str, Any], word: str
) -> None:
    (error,) = (await execute(used, **asked)).errors
    assert error.extensions == {"code": "BAD_USER_INPUT"}
    assert word in error.message
    assert "at most 93 days" in error.message
    shorter: dict[str, Any] = {**asked, "to": hours(93)["to"]}
    assert (await ask(used, **shorter))["totalCost"] == "6.200000001"
    of_workflow: dict[str, Any] = {**asked, "filter": {"workflowId": "flow"}}
    assert (await ask(used, **of_workflow))["totalCost"] == "1.000000001"


async def test_the_cap_of_groups_times_buckets(used: Database) -> None:
    days: dict[str, Any] = {"from": "2000-01-01", "granularity": "DAY"}
    assert (await ask(used, **days, to="2054-10-03"))["totalGroups"] == 1  # 19,999
    (error,) = (await execute(used, **days, to="2054-10-04")).errors
    assert "20000" in error.message
    assert "20000 buckets" in error.message
    grouped: dict[str, Any] = {
        **days,
        "to": "2026-07-01",
        "groupBy": ["PROVIDER"],
    }  # 9,678 days of 3 groups
    (error,) = (await execute(used, **grouped)).errors
    assert error.message.startswith("groupBy: 3 groups of 9678 buckets each")
    assert "20000" in error.message
    assert "first: 2" in error.message
    assert len((await ask(used, **grouped, first=2))["groups"]) == 2
    assert len((await ask(used, **{**grouped, "granularity": "MONTH"}))["groups"]) == 3


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"to": "2026-03-01"}, "to must"),
        ({"to": "2026-02-01"}, "to must"),
        ({"from": "1969-12-31"}, "1970 to 9998"),
        ({"to": "9999-01-02", "granularity": "YEAR"}, "1970 to 9998"),
        ({"first": 0}, "first"),
        ({"groupBy": ["USER", "USER"]}, "groupBy"),
        ({"zone": "Mars"}, "timeZone"),
        ({"filter": {"workflowId": ""}}, "filter.workflowId"),
    ],
)
async def test_bad_input(used: Database, asked: dict[str, Any], word: str) -> None:
    for viewer in (SYSADMIN, STRANGER):
        result = await execute(used, viewer, **asked)
        (error,) = result.errors
        assert error.extensions == {"code": "BAD_USER_INPUT"}
        assert word in error.message
        assert result.data == {"usage": None}


async def test_a_day_that_never_was(used: Database) -> None:
    """Samoa went from the 29th to the 31st of December 2011: a day without a moment, and no hour."""
    samoa: dict[str, Any] = {"from": "2011-12-30", "to": "2011-12-31", "zone": "Pacific/Apia"}
    for granularity, buckets in (("HOUR", 0), ("DAY", 1), ("MONTH", 1)):
        report = await ask(used, **samoa, granularity=granularity)
        assert (report["from"], report["to"], report["totalCost"]) == (
            "2011-12-30T10:00:00Z",
            "2011-12-30T10:00:00Z",
            "0",
        )
        assert len(report["groups"][0]["buckets"]) == buckets


async def test_all_of_time(used: Database) -> None:
    years: dict[str, Any] = {"from": "1970-01-01", "to": "9999-01-01", "granularity": "YEAR"}
    report = await ask(used, **years)
    assert report["totalCost"] == "6.200000001"
    assert len(report["groups"][0]["buckets"]) == 8029


async def test_who_sees_what(used: Database) -> None:
    for viewer in (ADMIN, GATEWAY, SYSADMIN):
        assert (await ask(used, viewer))["totalCost"] == "6.200000001"
    own = await ask(used, MEMBER, groupBy=["USER", "WORKFLOW"])
    assert groups(own) == [(["alice", "flow"], "1.000000001", 1), (["alice", None], "0.2", 1)]
    assert (own["totalCost"], own["transactionCount"], own["totalGroups"]) == ("1.200000001", 2, 2)
    of_bob = await ask(used, MEMBER, groupBy=["USER"], filter={"userId": "bob"})
    assert (of_bob["totalCost"], of_bob["groups"]) == ("0", [])
    assert await ask(used, STRANGER) is None
    assert await ask(used, SYSADMIN, mandate="absent") is None
    assert await ask(used, STRANGER, **hours(94)) is None


async def test_of_a_mandate_as_of_the_root(used: Database) -> None:
    """Mandate.statistics is the root field, whoever asks."""
    await add_user(used, "gateway")
    fields = "period from to timeZone totalCost costByUser { user { id } cost } buckets { cost }"
    arguments = 'period: MONTH, year: 2026, filter: {aicoreProvider: "openai"}'
    document = f"""{{
        statistics(mandateId: "{MANDATE}", {arguments}) {{ {fields} }}
        mandate(id: "{MANDATE}") {{ statistics({arguments}) {{ {fields} }} }}
    }}"""
    for viewer, cost in ((MEMBER, "1.000000001"), (ADMIN, "1.000000001"), (GATEWAY, "1.000000001")):
        context = Context(used, PROVIDERS, viewer, "r", NO_LIMITS)
        result = await schema.execute(document, context_value=context)
        assert result.errors is None
        assert result.data is not None
        assert result.data["mandate"]["statistics"] == result.data["statistics"]
        assert result.data["statistics"]["totalCost"] == cost
