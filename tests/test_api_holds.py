"""Asking, holding and settling as the AI gateway does, and what members see of it."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.billing.directory import enrol, remove_membership
from app.billing.enums import BillingModel
from app.billing.holds import expire_holds
from app.billing.models import holds
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.api import Api, add_people, statements
from tests.world import (
    MANDATE,
    add_member,
    change_settings,
    credit,
    dump,
    expire,
    fresh,
    hold,
    read_rows,
    record,
    release,
    settle,
    usage_event,
)

pytestmark = pytest.mark.anyio

HOLD = """{
    id amount status settledAmount aicoreProvider featureCode workflowId expiresAt createdAt
    account { id balance held available } user { id }
    transaction { id amount hold { id status } }
}"""
LEFT = "balance { id balance held available isWarning account { id } user { id } }"
ERRORS = "userErrors { code field message }"
CREATE = f"""mutation($input: CreateHoldInput!) {{
    createHold(input: $input) {{ hold {HOLD} {LEFT} {ERRORS} }}
}}"""
SETTLE = f"""mutation($input: SettleHoldInput!) {{ settleHold(input: $input) {{
    hold {HOLD}
    transaction {{
        id amount balanceAfter description referenceType aicoreProvider aicoreModel featureCode
        workflowId idempotencyKey occurredAt user {{ id }} actor {{ id }} hold {{ id status }}
    }}
    {LEFT} {ERRORS}
}} }}"""
RELEASE = f"""mutation($input: ReleaseHoldInput!) {{
    releaseHold(input: $input) {{ hold {HOLD} {LEFT} {ERRORS} }}
}}"""
LIST = """query(
    $status: HoldStatus, $user: ID, $account: ID,
    $first: Int, $after: String, $last: Int, $before: String
) {
    holds(
        mandateId: "acme", status: $status, userId: $user, accountId: $account,
        first: $first, after: $after, last: $last, before: $before
    ) {
        nodes { id status } edges { cursor node { id } }
        pageInfo { hasNextPage hasPreviousPage startCursor endCursor } totalCount
    }
}"""
CHECK = f"""query($amount: Decimal!, $user: ID, $provider: String) {{
    spendCheck(mandateId: "acme", amount: $amount, userId: $user, provider: $provider) {{
        allowed denial message {LEFT}
    }}
}}"""


def wish(amount: str = "1", **values: Any) -> dict[str, Any]:
    return {
        "mandateId": MANDATE,
        "userId": "alice",
        "amount": amount,
        "idempotencyKey": fresh(),
        **values,
    }


def this(hold_id: str, **values: Any) -> dict[str, Any]:
    return {"mandateId": MANDATE, "holdId": hold_id, **values}


async def made(api: Api, query: str, user_id: str = "gateway", /, **values: Any) -> Any:
    """What an accepted mutation answers."""
    payload = await api.read(user_id, query, input=values)
    assert payload.pop("userErrors") == []
    return payload


async def refused(api: Api, query: str, /, **values: Any) -> tuple[str, list[str] | None]:
    """Code and field of the one thing that is wrong; nothing else is answered."""
    payload = await api.read("gateway", query, input=values)
    [error] = payload.pop("userErrors")
    assert set(payload.values()) == {None}
    assert not re.search(r"[a-z]_[a-z]", error["message"])
    return error["code"], error["field"]


def ids(page: dict[str, Any]) -> list[str]:
    return [node["id"] for node in page["nodes"]]


# Mutations


async def test_service_holds_money(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    given = wish("4.50", workflowId="flow", featureCode="chat", aicoreProvider="azure")
    payload = await made(api, CREATE, **given)
    [account] = await read_rows(database, holds)
    shown, left = payload["hold"], payload["balance"]
    created, expires = (datetime.fromisoformat(shown.pop(n)) for n in ("createdAt", "expiresAt"))
    assert expires - created == timedelta(minutes=15)
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
    assert shown == {
        "id": account.id,
        "amount": "4.5",
        "status": "OPEN",
        "settledAmount": None,
        "aicoreProvider": "azure",
        "featureCode": "chat",
        "workflowId": "flow",
        "account": {"id": account.account_id, "balance": "10", "held": "4.5", "available": "5.5"},
        "user": {"id": "alice"},
        "transaction": None,
    }
    assert left == {
        "id": "acme/alice",
        "balance": "10",
        "held": "4.5",
        "available": "5.5",
        "isWarning": False,
        "account": {"id": account.account_id},
        "user": {"id": "alice"},
    }
    before = await dump(database)
    again = await made(api, CREATE, **(given | {"amount": "4.500", "ttlSeconds": 1}))
    assert (again["hold"]["id"], again["balance"]) == (account.id, left)
    assert await refused(api, CREATE, **(given | {"amount": "4.6"})) == (
        *("IDEMPOTENCY_CONFLICT", ["idempotencyKey"]),
    )
    assert await dump(database) == before
    short = await made(api, CREATE, "root", **wish(ttlSeconds=1))
    times = [datetime.fromisoformat(short["hold"][name]) for name in ("createdAt", "expiresAt")]
    assert times[1] - times[0] == timedelta(seconds=1)


async def test_service_settles_a_hold(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    hold_id = await hold(
        database, 4, workflow_id="flow", feature_code="chat", aicore_provider="azure"
    )
    then = (datetime.now(UTC) - timedelta(days=34)).replace(microsecond=0)
    given = this(hold_id, amount="9.25", aicoreModel="gpt", occurredAt=then.isoformat())
    payload = await made(api, SETTLE, **given)
    row = payload["transaction"]
    assert row == {
        "id": row["id"],
        "amount": "9.25",
        "balanceAfter": "0.75",
        "description": "AI usage",
        "referenceType": "USAGE",
        "aicoreProvider": "azure",
        "aicoreModel": "gpt",
        "featureCode": "chat",
        "workflowId": "flow",
        "idempotencyKey": None,
        "occurredAt": then.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "user": {"id": "alice"},
        "actor": {"id": "gateway"},
        "hold": {"id": hold_id, "status": "SETTLED"},
    }
    shown = payload["hold"]
    assert (shown["status"], shown["amount"], shown["settledAmount"]) == ("SETTLED", "4", "9.25")
    assert shown["transaction"] == {"id": row["id"], "amount": "9.25", "hold": row["hold"]}
    assert (payload["balance"]["held"], payload["balance"]["available"]) == ("0", "0.75")
    assert payload["balance"]["isWarning"]
    before = await dump(database)
    assert await made(api, SETTLE, **(given | {"amount": "9.250"})) == payload
    assert await refused(api, SETTLE, **(given | {"description": "Other"})) == (
        *("IDEMPOTENCY_CONFLICT", ["holdId"]),
    )
    assert await refused(api, RELEASE, **this(hold_id)) == ("HOLD_NOT_OPEN", ["holdId"])
    assert await dump(database) == before


async def test_service_releases_a_hold(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_MANDATE)
    await credit(database, 10)
    hold_id = await hold(database, 4)
    payload = await made(api, RELEASE, **this(hold_id))
    assert (payload["hold"]["status"], payload["hold"]["settledAmount"]) == ("RELEASED", None)
    assert payload["hold"]["account"]["held"] == payload["balance"]["held"] == "0"
    assert (payload["balance"]["id"], payload["balance"]["user"]) == (MANDATE, None)
    before = await dump(database)
    assert await made(api, RELEASE, **this(hold_id)) == payload
    assert await refused(api, SETTLE, **this(hold_id, amount="1")) == ("HOLD_NOT_OPEN", ["holdId"])
    assert await dump(database) == before


async def test_an_expired_hold_is_released_and_settled(database: Database, api: Api) -> None:
    await add_people(database)
    hold_id = await hold(database, 4)
    await expire(database, hold_id)
    payload = await made(api, RELEASE, **this(hold_id))
    assert payload["hold"]["status"] == "EXPIRED"
    payload = await made(api, SETTLE, **this(hold_id, amount="0"))
    assert (payload["hold"]["status"], payload["hold"]["settledAmount"]) == ("SETTLED", "0")


async def test_what_is_refused_is_named(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER, allowed_providers=["azure"])
    await add_member(database, "left")
    await remove_membership(database, OPERATOR, MANDATE, "left")
    hold_id = await hold(database, 4, aicore_provider="azure")
    azure = {"aicoreProvider": "azure"}
    before = await dump(database)
    cases: list[tuple[str, dict[str, Any], str, list[str]]] = [
        (CREATE, wish("6.000000001", **azure), "INSUFFICIENT_FUNDS", ["amount"]),
        (CREATE, wish("6"), "PROVIDER_NOT_ALLOWED", ["aicoreProvider"]),
        (CREATE, wish("6", aicoreProvider="openai"), "PROVIDER_NOT_ALLOWED", ["aicoreProvider"]),
        (CREATE, wish("0", **azure), "INVALID", ["amount"]),
        (CREATE, wish("1000000.1", **azure), "LIMIT_EXCEEDED", ["amount"]),
        (CREATE, wish(ttlSeconds=86_401, **azure), "INVALID", ["ttlSeconds"]),
        (CREATE, wish(workflowId=" ", **azure), "INVALID", ["workflowId"]),
        (CREATE, wish(featureCode=" ", **azure), "INVALID", ["featureCode"]),
        (CREATE, wish(idempotencyKey="", **azure), "INVALID", ["idempotencyKey"]),
        (CREATE, wish(userId="left", **azure), "NOT_FOUND", ["userId"]),
        (CREATE, wish(userId="sven", **azure), "NOT_FOUND", ["userId"]),
        (CREATE, wish(mandateId="nowhere", **azure), "NOT_FOUND", ["mandateId"]),
        (SETTLE, this(hold_id, amount="-1"), "INVALID", ["amount"]),
        (SETTLE, this(hold_id, amount="1000000.1"), "LIMIT_EXCEEDED", ["amount"]),
        (SETTLE, this(hold_id, amount="1", description=""), "INVALID", ["description"]),
        (SETTLE, this(hold_id, amount="1", aicoreModel=""), "INVALID", ["aicoreModel"]),
        (SETTLE, this(hold_id, amount="1", aicoreProvider=""), "INVALID", ["aicoreProvider"]),
        (
            SETTLE,
            this(hold_id, amount="1", occurredAt="2026-01-01T00:00:00Z"),
            *("INVALID", ["occurredAt"]),
        ),
        (SETTLE, this("unknown", amount="1"), "NOT_FOUND", ["holdId"]),
        (RELEASE, this("unknown"), "NOT_FOUND", ["holdId"]),
        (RELEASE, this(hold_id) | {"mandateId": "globex"}, "NOT_FOUND", ["holdId"]),
    ]
    for query, given, code, field in cases:
        assert (given, await refused(api, query, **given)) == (given, (code, field))
    assert await dump(database) == before


async def test_each_mutation_of_a_request_shows_what_it_made(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    hold_id = await hold(database, 4)
    shown = "hold { status } balance { held available }"
    query = f"""mutation($wish: CreateHoldInput!, $this: SettleHoldInput!, $id: ID!) {{
        a: createHold(input: $wish) {{ {shown} }}
        b: settleHold(input: $this) {{ {shown} }}
        c: releaseHold(input: {{mandateId: "acme", holdId: $id}}) {{ {shown} userErrors {{ code }} }}
    }}"""
    found = await api.read(
        "gateway", query, wish=wish("1"), this=this(hold_id, amount="2"), id=hold_id
    )
    assert found == {
        "a": {"hold": {"status": "OPEN"}, "balance": {"held": "5", "available": "5"}},
        "b": {"hold": {"status": "SETTLED"}, "balance": {"held": "1", "available": "7"}},
        "c": {"hold": None, "balance": None, "userErrors": [{"code": "HOLD_NOT_OPEN"}]},
    }


# Asking


async def test_member_asks_for_oneself(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    before = await dump(database)
    left = {
        "id": "acme/alice",
        "balance": "0",
        "held": "0",
        "available": "10",
        "isWarning": False,
        "account": None,
        "user": {"id": "alice"},
    }
    for asked in ({}, {"user": "alice"}):
        found = await api.read("alice", CHECK, amount="10.0", **asked)
        assert found == {
            "allowed": True,
            "denial": None,
            "message": "10 may be spent now.",
            "balance": left,
        }
        found = await api.read("alice", CHECK, amount="10.000000001", **asked)
        assert found == {
            "allowed": False,
            "denial": "INSUFFICIENT_FUNDS",
            "message": "10.000000001 is more than the 10 available: add credit first.",
            "balance": left,
        }
    assert await dump(database) == before
    await hold(database, 10)
    found = await api.read("alice", CHECK, amount="0")
    assert (found["allowed"], found["denial"]) == (False, "INSUFFICIENT_FUNDS")
    assert (found["balance"]["held"], found["balance"]["available"]) == ("10", "0")
    assert found["balance"]["account"] is not None
    found = await api.read("alice", CHECK, amount="0", provider="nobody")
    assert found["denial"] == "PROVIDER_NOT_ALLOWED"


async def test_service_asks_for_a_mandate(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.CREDIT_POSTPAY, credit_limit=5)
    limit = {"amount": 2, "period": "DAY"}
    await add_member(database, "alice", spend_limit=limit)
    for amount, user_id, denial in (
        ("5", None, None),
        ("6", None, "CREDIT_LIMIT_EXCEEDED"),
        ("2", "alice", None),
        ("3", "alice", "SPEND_LIMIT_EXCEEDED"),
        ("6", "ada", "CREDIT_LIMIT_EXCEEDED"),
    ):
        found = await api.read("gateway", CHECK, amount=amount, user=user_id)
        assert (amount, found["denial"]) == (amount, denial)
        assert (found["balance"]["id"], found["balance"]["user"]) == (MANDATE, None)
    assert await api.read("gateway", CHECK, amount="1", user="sven") is None


async def test_what_cannot_be_asked(database: Database, api: Api) -> None:
    await add_people(database)
    for given, said in (
        ({"amount": "-1"}, "amount must be 0 or more."),
        ({"amount": "1000000.1"}, "amount must be at most 1000000"),
        ({"amount": "1", "provider": "x" * 129}, "provider must have at most 128 characters."),
    ):
        answer = await api("alice", CHECK, **given)
        assert (answer.codes, answer.data) == (["BAD_USER_INPUT"], {"spendCheck": None})
        assert answer.errors[0]["message"].startswith(said)


# Reading


async def test_a_hold_is_what_it_is_now(database: Database, api: Api) -> None:
    """By the database's clock, whatever its row still says."""
    await add_people(database, model=BillingModel.PREPAY_USER)
    still, overdue, tidied, settled, released = [await hold(database, 1) for _ in range(5)]
    await expire(database, tidied)
    assert await expire_holds(database) == 1
    await settle(database, settled, "0.5")
    await release(database, released)
    await expire(database, overdue, settled, released)
    statuses = {
        still: "OPEN",
        overdue: "EXPIRED",
        tidied: "EXPIRED",
        settled: "SETTLED",
        released: "RELEASED",
    }
    stored = {row.id: row.status for row in await read_rows(database, holds)}
    assert stored == statuses | {overdue: "OPEN"}
    page = await api.read("ada", LIST)
    assert {node["id"]: node["status"] for node in page["nodes"]} == statuses
    for status in set(statuses.values()):
        page = await api.read("ada", LIST, status=status)
        expected = [hold_id for hold_id in statuses if statuses[hold_id] == status]
        assert (sorted(ids(page)), page["totalCount"]) == (sorted(expected), len(expected))
        assert {node["status"] for node in page["nodes"]} == {status}
    query = f'query($id: ID!) {{ hold(mandateId: "acme", id: $id) {HOLD} }}'
    for hold_id, status in statuses.items():
        found = await api.read("alice", query, id=hold_id)
        assert (found["status"], found["account"]["held"]) == (status, "1")
        assert (found["transaction"] is None) == (status != "SETTLED")
    shown = await api.read(
        "ada",
        '{ accounts(mandateId: "acme") { nodes { balance held available } totalHeld totalBalance } }',
    )
    assert shown == {
        "nodes": [{"balance": "9.5", "held": "1", "available": "8.5"}],
        "totalHeld": "1",
        "totalBalance": "9.5",
    }


@pytest.mark.parametrize("size", [1, 3, 7])
async def test_holds_in_pages_while_others_hold(database: Database, api: Api, size: int) -> None:
    await add_people(database)
    made = [await hold(database, 1) for _ in range(7)]
    seen: list[str] = []
    page = await api.read("ada", LIST, first=size)
    while True:
        assert [edge["node"]["id"] for edge in page["edges"]] == ids(page)
        seen += ids(page)
        info = page["pageInfo"]
        if not info["hasNextPage"]:
            break
        made.append(await hold(database, 1))
        page = await api.read("ada", LIST, first=size, after=info["endCursor"])
        assert page["totalCount"] == len(made)
    assert seen == made[6::-1]
    seen = []
    page = await api.read("ada", LIST, last=size)
    while True:
        seen = ids(page) + seen
        info = page["pageInfo"]
        if not info["hasPreviousPage"]:
            break
        page = await api.read("ada", LIST, last=size, before=info["startCursor"])
    assert seen == made[::-1]


async def test_holds_that_are_wanted(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    await add_member(database, "bob")
    first, second = await hold(database, 1), await hold(database, 1, user_id="bob")
    await release(database, second)
    third = await hold(database, 1, user_id="bob")
    accounts = {row.user_id: row.account_id for row in await read_rows(database, holds)}
    for wanted, expected in (
        ({}, [third, second, first]),
        ({"user": "bob"}, [third, second]),
        ({"user": "bob", "status": "OPEN"}, [third]),
        ({"account": accounts["alice"]}, [first]),
        ({"account": accounts["alice"], "user": "bob"}, []),
        ({"user": "nobody"}, []),
        ({"account": "unknown"}, []),
        ({"user": "a\0b"}, []),
    ):
        for user_id in ("ada", "gateway", "root"):
            page = await api.read(user_id, LIST, **wanted)
            assert (ids(page), page["totalCount"]) == (expected, len(expected))
    cursor = (await api.read("ada", LIST, status="OPEN", first=1))["pageInfo"]["endCursor"]
    for wanted in ({}, {"status": "EXPIRED"}, {"status": "OPEN", "user": "bob"}):
        answer = await api("ada", LIST, **wanted, after=cursor)
        assert answer.codes == ["BAD_USER_INPUT"]


async def test_member_sees_own_holds_of_a_pool(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_MANDATE)
    await credit(database, 10)
    own, other = await hold(database, 1), await hold(database, 2, user_id="ada")
    assert ids(await api.read("alice", LIST)) == [own]
    assert ids(await api.read("ada", LIST)) == [other, own]
    assert (await api.read("alice", LIST, user="ada"))["totalCount"] == 0
    balance = await api.read("alice", '{ balance(mandateId: "acme") { held available } }')
    assert balance == {"held": "3", "available": "7"}


async def test_a_transaction_names_its_hold(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    hold_id = await hold(database, 4)
    await settle(database, hold_id, 3)
    await record(database, usage_event(1))
    query = """{ transactions(mandateId: "acme") { nodes {
        amount hold { id amount settledAmount user { id } transaction { amount } }
    } } }"""
    settled = {
        "id": hold_id,
        "amount": "4",
        "settledAmount": "3",
        "user": {"id": "alice"},
        "transaction": {"amount": "3"},
    }
    for user_id in ("alice", "ada"):
        page = await api.read(user_id, query)
        assert {node["amount"]: node["hold"] for node in page["nodes"]} == {
            "10": None,
            "3": settled,
            "1": None,
        }


async def test_a_hold_outlives_a_change_of_the_model(database: Database, api: Api) -> None:
    """The balance is the one of now; the account is the hold's own."""
    await add_people(database)
    hold_id = await hold(database, 4)
    await change_settings(database, billing_model=BillingModel.PREPAY_USER)
    payload = await made(api, SETTLE, **this(hold_id, amount="3"))
    assert payload["hold"]["account"]["balance"] == "-3"
    assert (payload["balance"]["balance"], payload["balance"]["available"]) == ("0", "10")


async def test_many_holds_take_as_many_selects_as_one(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    users = [f"u{place}" for place in range(8)]
    await enrol(database, OPERATOR, [(MANDATE, user_id) for user_id in users])
    query = f"""{{ holds(mandateId: "acme", first: 100) {{ nodes {HOLD} totalCount }} }}"""
    counts = []
    for count in (1, 23):
        for place in range(count):
            hold_id = await hold(database, "0.1", user_id=users[place % 8])
            if place % 3 == 0:
                await settle(database, hold_id, "0.1")
        with statements() as sent:
            page = await api.read("ada", query)
        counts.append(len(sent))
    assert (len(page["nodes"]), page["totalCount"]) == (24, 24)
    assert {node["user"]["id"] for node in page["nodes"]} == set(users)
    assert sum(node["transaction"] is not None for node in page["nodes"]) == 9
    assert counts[0] == counts[1] <= 8
