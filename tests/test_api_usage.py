from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.billing.directory import enrol
from app.billing.enums import BillingModel
from app.billing.models import transactions
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.api import Api, add_people, statements
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    add_mandate,
    add_member,
    add_user,
    balances,
    credit,
    dump,
    fresh,
    read_rows,
)

pytestmark = pytest.mark.anyio

RECORD = """mutation($events: [UsageEventInput!]!) { recordUsage(input: {events: $events}) {
    results {
        outcome
        transaction { id amount balanceAfter user { id } account { id } idempotencyKey occurredAt }
        error { code field message }
    }
    userErrors { code field message }
} }"""
STATISTICS = """query($id: ID!, $period: PeriodType!, $year: Int!, $month: Int) {
    statistics(mandateId: $id, period: $period, year: $year, month: $month) {
        period from to timeZone currency totalCost transactionCount
        costByProvider { key cost transactionCount } costByModel { key cost }
        costByFeature { key cost } costByUser { user { id } cost }
        buckets { start end cost transactionCount }
    }
}"""


def call(amount: str = "1", **values: Any) -> dict[str, Any]:
    return {
        "mandateId": MANDATE,
        "userId": "alice",
        "amount": amount,
        "idempotencyKey": fresh(),
        **values,
    }


async def send(api: Api, *events: dict[str, Any], user_id: str = "gateway") -> list[Any]:
    payload = await api.read(user_id, RECORD, events=events)
    assert payload["userErrors"] == []
    return list(payload["results"])


def words(results: list[Any]) -> list[str]:
    """Each result in one word."""
    return [result["error"]["code"] if result["error"] else result["outcome"] for result in results]


async def test_service_records_usage(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    occurred_at = datetime.now(UTC).replace(microsecond=0) - timedelta(days=34)
    first = call("0.000000001", occurredAt=occurred_at.isoformat())
    [result] = await send(api, first)
    assert (result["outcome"], result["error"]) == ("RECORDED", None)
    assert result["transaction"]["amount"] == "0.000000001"
    assert result["transaction"]["balanceAfter"] == "9.999999999"
    assert result["transaction"]["occurredAt"] == occurred_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    [again] = await send(api, first)
    assert (again["outcome"], again["transaction"]) == ("DUPLICATE", result["transaction"])
    [conflict] = await send(api, first | {"amount": "0.000000002"})
    assert (conflict["outcome"], conflict["transaction"]) == ("REJECTED", None)
    assert conflict["error"]["code"] == "IDEMPOTENCY_CONFLICT"
    assert conflict["error"]["field"] == ["events", "0", "idempotencyKey"]
    [result] = await send(api, call(), user_id="root")
    assert result["transaction"]["idempotencyKey"]
    assert await balances(database) == {"alice": Decimal("8.999999999")}


async def test_each_event_has_its_own_outcome(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    await add_member(database, "left")
    await add_user(database, "stranger")
    payload = await api.read(
        "root",
        """mutation($input: RemoveMembershipInput!) { removeMembership(input: $input) { removed } }""",
        input={"mandateId": MANDATE, "userId": "left"},
    )
    assert payload == {"removed": True}
    now = datetime.now(UTC)
    twice = call("1")
    need = {"mode": "REQUIRE_FUNDS"}
    cases = [
        (call("4", **need), "RECORDED"),
        (twice, "RECORDED"),
        (twice | {"mode": "REQUIRE_FUNDS"}, "DUPLICATE"),
        (twice | {"amount": "2"}, "IDEMPOTENCY_CONFLICT"),
        (call("5.000000001", **need), "INSUFFICIENT_FUNDS"),
        (call("5", **need), "RECORDED"),
        (call("0", **need), "INSUFFICIENT_FUNDS"),
        (call("0"), "RECORDED"),
        (call("7"), "RECORDED"),
        (call("1", aicoreProvider="nobody", **need), "PROVIDER_NOT_ALLOWED"),
        (call("1", aicoreProvider="nobody"), "RECORDED"),
        (call("1", userId="left"), "RECORDED"),
        (call("1", userId="left", **need), "NOT_FOUND"),
        (call("1", userId="stranger"), "NOT_FOUND"),
        (call("1", userId="nobody"), "NOT_FOUND"),
        (call("1", mandateId="nowhere"), "NOT_FOUND"),
        (call("1", mandateId=OTHER_MANDATE, userId="sven"), "RECORDED"),
        (call("1", mandateId=OTHER_MANDATE), "NOT_FOUND"),
        (call("-1"), "INVALID"),
        (call("1000000.000000001"), "LIMIT_EXCEEDED"),
        (call("1", description=""), "INVALID"),
        (call("1", aicoreModel="a\0b"), "INVALID"),
        (call("1", idempotencyKey=""), "INVALID"),
        (call("1", idempotencyKey="k" * 256), "INVALID"),
        (call("1", occurredAt=(now - timedelta(days=36)).isoformat()), "INVALID"),
        (call("1", occurredAt=(now + timedelta(minutes=6)).isoformat()), "INVALID"),
        (call("1", occurredAt=(now + timedelta(minutes=4)).isoformat()), "RECORDED"),
    ]
    results = await send(api, *(event for event, _ in cases))
    assert words(results) == [expected for _, expected in cases]
    for place, (result, (event, expected)) in enumerate(zip(results, cases, strict=True)):
        if expected in ("RECORDED", "DUPLICATE"):
            assert result["error"] is None
            assert result["transaction"]["user"]["id"] == event["userId"]
        else:
            assert (result["outcome"], result["transaction"]) == ("REJECTED", None)
            assert result["error"]["field"][:2] == ["events", str(place)]
            assert result["error"]["field"][2] in event
    written = await read_rows(database, transactions, reference_type="USAGE")
    assert len(written) == words(results).count("RECORDED")


async def test_a_thousand_events_of_several_mandates(database: Database, api: Api) -> None:
    await add_people(database)
    models = list(BillingModel)
    members = [f"u{place}" for place in range(10)]
    mandate_ids = [f"m{place}" for place in range(8)]
    for place, mandate_id in enumerate(mandate_ids):
        await add_mandate(database, mandate_id, models[place % 4], users=())
    await enrol(
        database,
        OPERATOR,
        [(mandate_id, user_id) for mandate_id in mandate_ids for user_id in members],
    )
    query = RECORD.replace("transaction {", "transaction { mandate { id }")
    counts = []
    for size in (80, 1000):
        events = [
            call(
                f"0.{place + 1:09}",
                mandateId=mandate_ids[place * 7 % 8],
                userId=members[place * 3 % 10] if place % 8 else "nobody",
            )
            for place in range(size)
        ]
        with statements() as sent:
            payload = await api.read("gateway", query, events=events)
        counts.append(len(sent))
        assert len(payload["results"]) == size
        for place, (event, result) in enumerate(zip(events, payload["results"], strict=True)):
            if place % 8:
                assert result["outcome"] == "RECORDED"
                row = result["transaction"]
                assert row["mandate"] == {"id": event["mandateId"]}
                assert row["user"] == {"id": event["userId"]}
                assert row["amount"] == event["amount"].rstrip("0")
            else:
                assert result["error"]["field"] == ["events", str(place), "userId"]
    said = 0 if database.is_sqlite else 8  # once for each mandate, that there are many keys
    assert counts[1] <= counts[0] + said
    assert counts[1] <= 10 * len(mandate_ids)


async def test_more_than_a_thousand_events_are_refused(database: Database, api: Api) -> None:
    await add_people(database)
    before = await dump(database)
    for events in ([], [call()] * 1001):
        payload = await api.read("gateway", RECORD, events=events)
        [error] = payload["userErrors"]
        assert (error["code"], error["field"], payload["results"]) == ("INVALID", ["events"], [])
        assert "1000" in error["message"]
    assert await dump(database) == before


async def test_what_was_recorded_is_in_the_statistics(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_MANDATE, time_zone="Europe/Zurich")
    await add_member(database, "bob")
    await credit(database, 100)
    noon = datetime.now(UTC).replace(hour=12) - timedelta(days=1)
    then = {"occurredAt": noon.isoformat()}
    await send(
        api,
        call("0.1", aicoreProvider="openai", aicoreModel="gpt", featureCode="chat", **then),
        call("0.2", aicoreProvider="azure", aicoreModel="gpt", userId="bob", **then),
        call("0.000000003", aicoreProvider="openai", **then),
        call("0", **then),
    )
    for period, month, count in (("DAY", noon.month, 28), ("MONTH", None, 12), ("YEAR", None, 1)):
        arguments = {"id": MANDATE, "period": period, "year": noon.year, "month": month}
        for user_id in ("ada", "gateway", "root"):
            found = await api.read(user_id, STATISTICS, **arguments)
            buckets = found["buckets"]
            assert (found["period"], found["timeZone"], found["currency"]) == (
                *(period, "Europe/Zurich", "CHF"),
            )
            assert (found["totalCost"], found["transactionCount"]) == ("0.300000003", 4)
            assert found["costByProvider"] == [
                {"key": "azure", "cost": "0.2", "transactionCount": 1},
                {"key": "openai", "cost": "0.100000003", "transactionCount": 2},
                {"key": None, "cost": "0", "transactionCount": 1},
            ]
            assert found["costByModel"] == [
                {"key": "gpt", "cost": "0.3"},
                {"key": None, "cost": "0.000000003"},
            ]
            assert found["costByFeature"] == [
                {"key": None, "cost": "0.200000003"},
                {"key": "chat", "cost": "0.1"},
            ]
            assert found["costByUser"] == [
                {"user": {"id": "bob"}, "cost": "0.2"},
                {"user": {"id": "alice"}, "cost": "0.100000003"},
            ]
            assert len(buckets) >= count
            assert [bucket["end"] for bucket in buckets[:-1]] == [
                bucket["start"] for bucket in buckets[1:]
            ]
            assert (buckets[0]["start"], buckets[-1]["end"]) == (found["from"], found["to"])
            assert [bucket["cost"] for bucket in buckets if bucket["transactionCount"]] == [
                "0.300000003"
            ]
        own = await api.read("alice", STATISTICS, **arguments)
        assert (own["totalCost"], own["transactionCount"]) == ("0.100000003", 3)
        assert own["costByUser"] == [{"user": {"id": "alice"}, "cost": "0.100000003"}]
