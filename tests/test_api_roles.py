"""Who may see and do what, for every root field; and what a mandate looks like to those outside."""

import uuid
from dataclasses import replace
from typing import Any

import pytest

from app.billing.directory import remove_membership
from app.billing.enums import MembershipRole
from app.billing.viewer import OPERATOR, Viewer
from app.database import Database
from tests.api import PEOPLE, Answer, Api, add_people
from tests.operations import MUTATIONS, QUERIES, VALID, add_world, brief, document, replaced
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    add_member,
    add_user,
    change_settings,
    credit,
    dump,
    fresh,
    hold,
    record,
    usage_event,
)

pytestmark = pytest.mark.anyio

#              outsider  member    admin     service   sysadmin
KNOWN = "       ok        ok        ok        ok        ok      "
READERS = "     null      ok        ok        ok        ok      "
ADMINS = "      null      FORBIDDEN ok        FORBIDDEN ok      "
OF_MANDATE = "  NOT_FOUND FORBIDDEN FORBIDDEN FORBIDDEN ok      "
OF_PLATFORM = " FORBIDDEN FORBIDDEN FORBIDDEN FORBIDDEN ok      "
SPENDERS = "    FORBIDDEN FORBIDDEN FORBIDDEN ok        ok      "
FOR_ALICE = "   null      ok        FORBIDDEN ok        ok      "

MAY = {
    "viewer": KNOWN,
    "balances": KNOWN,
    "mandate": READERS,
    "mandates": KNOWN,
    "balance": READERS,
    "transactions": READERS,
    "transaction": READERS,
    "statistics": READERS,
    "usage": READERS,
    "providers": READERS,
    "mandateUsers": ADMINS,
    "accounts": ADMINS,
    "billingSettings": ADMINS,
    "spendCheck": FOR_ALICE,
    "hold": READERS,
    "holds": READERS,
    "ledgerCheck": ADMINS,
    "auditLog": ADMINS,
    "rateLimit": KNOWN,
    "addCredit": OF_MANDATE,
    "updateBillingSettings": OF_MANDATE,
    "updateAccount": OF_MANDATE,
    "upsertMandate": OF_PLATFORM,
    "upsertUser": OF_PLATFORM,
    "upsertMembership": OF_MANDATE,
    "recordUsage": SPENDERS,
    "addDebit": OF_MANDATE,
    "createHold": SPENDERS,
    "settleHold": SPENDERS,
    "releaseHold": SPENDERS,
    "transferCredit": OF_MANDATE,
    "reverseTransaction": OF_MANDATE,
    "removeMembership": OF_MANDATE,
}


def outcome(answer: Answer, name: str) -> str:
    """An answer in one word."""
    if answer.errors:
        return str(answer.codes[0])
    payload = answer.data[name]
    if payload is None:
        return "null"
    refused = payload.get("userErrors") if isinstance(payload, dict) else None
    return refused[0]["code"] if refused else "ok"


def test_every_root_field_is_judged() -> None:
    assert set(MAY) == set(VALID) == {*QUERIES, *MUTATIONS}


async def test_each_may_do_what_the_role_allows(database: Database, api: Api) -> None:
    world = await add_world(database)
    expected = {
        (user_id, name): allowed
        for name, row in MAY.items()
        for user_id, allowed in zip(PEOPLE, row.split(), strict=True)
    }
    before = await dump(database)
    for (user_id, name), allowed in expected.items():
        if allowed != "ok" or name in QUERIES:
            answer = await api(user_id, document(name), **VALID[name](world))
            assert (user_id, name, outcome(answer, name)) == (user_id, name, allowed)
            assert answer.status == 200
            assert "alice@example.com" not in repr(answer) or user_id != "sven"
    assert await dump(database) == before
    for (user_id, name), allowed in expected.items():
        if allowed == "ok" and name in MUTATIONS:
            if name in ("settleHold", "releaseHold"):  # each closes its own
                world = replace(world, hold_id=await hold(database))
                before = await dump(database)
            answer = await api(user_id, document(name), **VALID[name](world))
            assert (user_id, name, outcome(answer, name)) == (user_id, name, "ok")
            assert await dump(database) != before
            before = await dump(database)


async def test_anonymous(database: Database, api: Api) -> None:
    world = await add_world(database)
    before = await dump(database)
    for name, valid in VALID.items():
        answer = await api(None, document(name), **valid(world))
        assert (answer.status, answer.codes, name) == (401, ["UNAUTHENTICATED"], name)
        assert not any((answer.data or {}).values())
    assert await dump(database) == before


async def test_roles_are_read_on_each_request(database: Database, api: Api) -> None:
    await add_people(database)
    query = document("accounts")
    assert outcome(await api("ada", query, mandateId=MANDATE), "accounts") == "ok"
    await add_member(database, "ada", role=MembershipRole.MEMBER)
    assert outcome(await api("ada", query, mandateId=MANDATE), "accounts") == "FORBIDDEN"
    await add_user(database, "ada", enabled=False)
    answer = await api("ada", query, mandateId=MANDATE)
    assert (answer.status, answer.codes) == (401, ["UNAUTHENTICATED"])


ABSENT = [
    "nobody-has-this-id",
    "",
    " acme",
    "ACME",
    "a\0b",
    "x" * 100_000,
    "../acme",
    "acm\N{FULLWIDTH LATIN SMALL LETTER E}",
    "%",
]


@pytest.mark.parametrize("user_id", ["sven", "gateway", "root"])
async def test_a_foreign_mandate_answers_like_an_absent_one(
    database: Database, api: Api, user_id: str
) -> None:
    world = await add_world(database)
    before = await dump(database)
    for name, valid in VALID.items():
        path: Any = {"mandate": ("id",), "recordUsage": ("input", "events", 0, "mandateId")}.get(
            name, ("input", "mandateId") if name in MUTATIONS else ("mandateId",)
        )
        if name in ("viewer", "balances", "mandates", "rateLimit", "upsertMandate", "upsertUser"):
            continue
        variables = valid(world)
        answers = [
            await api(
                user_id,
                brief(name),
                **replaced(variables, path, mandate_id),
            )
            for mandate_id in ABSENT
        ]
        if user_id == "sven":
            answers.append(await api(user_id, brief(name), **variables))
        assert answers == [answers[0]] * len(answers), name
        expected = dict(zip(PEOPLE, MAY[name].split(), strict=True))
        if name == "recordUsage" and user_id != "sven":
            assert answers[0].data[name]["results"][0]["error"]["code"] == "NOT_FOUND"
        elif user_id == "sven":
            assert outcome(answers[0], name) == expected["sven"]
        elif expected[user_id] == "ok":
            assert outcome(answers[0], name) == ("null" if name in QUERIES else "NOT_FOUND")
    assert await dump(database) == before


async def test_a_foreign_id_in_ones_own_mandate_finds_nothing(database: Database, api: Api) -> None:
    world = await add_world(database)
    for foreign in (
        {"accountId": world.account_id},
        {"accountId": str(uuid.uuid4())},
        {"userId": "alice"},
        {"userId": "nobody"},
    ):
        page = await api.read(
            "sven", document("transactions"), mandateId=OTHER_MANDATE, filter=foreign
        )
        assert (page["nodes"], page["totalCount"], page["totals"]["credits"]) == ([], 0, "0")
    for transaction_id in (world.transaction_id, str(uuid.uuid4()), "", "a\0b"):
        found = await api.read(
            "sven", document("transaction"), mandateId=OTHER_MANDATE, id=transaction_id
        )
        assert found is None
    for hold_id in (world.hold_id, str(uuid.uuid4()), "", "a\0b"):
        assert await api.read("sven", document("hold"), mandateId=OTHER_MANDATE, id=hold_id) is None
    for wanted in ({}, {"userId": "alice"}, {"accountId": world.account_id}, {"userId": "a\0b"}):
        page = await api.read("sven", document("holds"), mandateId=OTHER_MANDATE, **wanted)
        assert (page["nodes"], page["totalCount"]) == ([], 0)
    for user_id in ("alice", "nobody", "", "a\0b"):
        assert (
            await api.read("sven", document("balance"), mandateId=OTHER_MANDATE, userId=user_id)
            is None
        )
        page = await api.read("sven", document("accounts"), mandateId=OTHER_MANDATE, userId=user_id)
        assert page["nodes"] == []
        assert page["totalBalance"] == "0"


async def test_a_foreign_id_in_another_mandate_changes_nothing(
    database: Database, api: Api
) -> None:
    world = await add_world(database)
    await change_settings(database, OTHER_MANDATE, billing_model="PREPAY_USER")
    before = await dump(database)
    here = {"mandateId": OTHER_MANDATE}
    debit = {"amount": "1", "description": "Refund", "idempotencyKey": fresh()}
    reason = {"reason": "Wrong", "idempotencyKey": fresh()}
    for name, path, ids, values in (
        ("updateAccount", "accountId", [world.account_id, str(uuid.uuid4())], {"enabled": False}),
        ("addCredit", "userId", ["alice", "nobody"], {"amount": "1", "idempotencyKey": fresh()}),
        ("addDebit", "userId", ["alice", "nobody"], debit),
        ("createHold", "userId", ["alice", "nobody"], {"amount": "1", "idempotencyKey": fresh()}),
        ("settleHold", "holdId", [world.hold_id, str(uuid.uuid4()), ""], {"amount": "1"}),
        ("releaseHold", "holdId", [world.hold_id, str(uuid.uuid4()), "a\0b"], {}),
        ("reverseTransaction", "transactionId", [world.transaction_id, str(uuid.uuid4())], reason),
        ("transferCredit", "fromUserId", ["alice", "nobody"], debit),
        ("transferCredit", "toUserId", ["alice", "nobody"], debit),
        ("upsertMembership", "userId", ["nobody", ""], {}),
    ):
        answers = [
            await api("root", document(name), input={**here, path: one, **values}) for one in ids
        ]
        assert answers == [answers[0]] * len(ids)
        [error] = answers[0].data[name]["userErrors"]
        assert (error["code"], error["field"]) == ("NOT_FOUND", [path])
    assert await dump(database) == before


async def test_a_cursor_is_good_for_its_own_list_and_viewer(database: Database, api: Api) -> None:
    await add_world(database)
    lists = document("transactions")
    own = await api.read("ada", lists, mandateId=MANDATE, first=1)
    cursor = own["pageInfo"]["endCursor"]
    await add_member(database, "ada", OTHER_MANDATE)
    for user_id, name, arguments in (
        ("ada", "transactions", {"mandateId": OTHER_MANDATE}),
        ("alice", "transactions", {"mandateId": MANDATE}),
        ("ada", "transactions", {"mandateId": MANDATE, "filter": {"userId": "alice"}}),
        (
            "ada",
            "transactions",
            {"mandateId": MANDATE, "orderBy": {"field": "CREATED_AT", "direction": "ASC"}},
        ),
        ("ada", "accounts", {"mandateId": MANDATE}),
        ("ada", "holds", {"mandateId": MANDATE}),
        ("ada", "mandateUsers", {"mandateId": MANDATE}),
        ("ada", "mandates", {}),
    ):
        for place in ("after", "before"):
            answer = await api(user_id, document(name), **arguments, **{place: cursor})
            assert answer.codes == ["BAD_USER_INPUT"]
            assert answer.errors[0]["message"].startswith(f"{place} is not a cursor of this list")


async def test_member_sees_own_rows_alone(database: Database, api: Api) -> None:
    await add_world(database)
    await add_member(database, "bob")
    other = await credit(database, 7, "bob")
    await record(database, usage_event(3, user_id="bob", workflow_id="w"))
    page = document("transactions")
    seen = await api.read("alice", page, mandateId=MANDATE)
    assert {node["user"]["id"] for node in seen["nodes"]} == {"alice"}
    assert (seen["totalCount"], seen["totals"]["credits"]) == (2, "100")
    for hidden in (
        {"userId": "bob"},
        {"accountId": other.account_id},
        {"workflowId": "w"},
        {"minAmount": "7", "maxAmount": "7"},
        {"idempotencyKey": other.idempotency_key},
    ):
        seen = await api.read("alice", page, mandateId=MANDATE, filter=hidden)
        assert (seen["nodes"], seen["totalCount"], seen["totals"]["credits"]) == ([], 0, "0")
    for transaction_id in (other.id, str(uuid.uuid4())):
        found = await api.read(
            "alice", document("transaction"), mandateId=MANDATE, id=transaction_id
        )
        assert found is None
    theirs = await hold(database, user_id="bob")
    page = document("holds")
    seen = await api.read("alice", page, mandateId=MANDATE)
    assert [node["user"]["id"] for node in seen["nodes"]] == ["alice"]
    assert seen["totalCount"] == 1
    for hidden in ({"userId": "bob"}, {"accountId": other.account_id}):
        seen = await api.read("alice", page, mandateId=MANDATE, **hidden)
        assert (seen["nodes"], seen["totalCount"]) == ([], 0)
    for hold_id in (theirs, str(uuid.uuid4())):
        assert await api.read("alice", document("hold"), mandateId=MANDATE, id=hold_id) is None
    year, month = other.created_at.year, other.created_at.month
    for wanted, count in (({}, 1), ({"userId": "bob"}, 0), ({"userId": "alice"}, 1)):
        statistics = await api.read(
            "alice",
            document("statistics"),
            **{"mandateId": MANDATE, "period": "DAY", "year": year, "month": month},
            filter=wanted,
        )
        assert statistics["transactionCount"] == count
        assert {part["user"]["id"] for part in statistics["costByUser"]} <= {"alice"}


async def test_member_names_another_user(database: Database, api: Api) -> None:
    await add_world(database)
    for user_id in ("ada", "nobody", "", "a\0b"):
        answer = await api("alice", document("balance"), mandateId=MANDATE, userId=user_id)
        assert (answer.status, answer.codes, answer.data) == (200, ["FORBIDDEN"], {"balance": None})
        assert "userId" in answer.errors[0]["message"]


async def test_who_asks_whether_another_may_spend(database: Database, api: Api) -> None:
    await add_world(database)
    query = document("spendCheck")
    for user_id in ("ada", "nobody", "", "a\0b"):
        answer = await api("alice", query, mandateId=MANDATE, amount="1", userId=user_id)
        assert (answer.codes, answer.data) == (["FORBIDDEN"], {"spendCheck": None})
        assert "userId" in answer.errors[0]["message"]
    for user_id in ("alice", "nobody"):
        answer = await api("ada", query, mandateId=MANDATE, amount="1", userId=user_id)
        assert (answer.codes, answer.data) == (["FORBIDDEN"], {"spendCheck": None})
    for user_id in ("gateway", "root"):
        found = await api.read(user_id, query, mandateId=MANDATE, amount="1", userId="alice")
        assert (found["allowed"], found["balance"]["user"]["id"]) == (True, "alice")
        for absent in ("sven", "nobody", "", "a\0b"):
            found = await api.read(user_id, query, mandateId=MANDATE, amount="1", userId=absent)
            assert found is None
        answer = await api(user_id, query, mandateId=MANDATE, amount="1")
        assert answer.codes == ["BAD_USER_INPUT"]
        assert answer.errors[0]["message"].startswith("userId is required")


async def test_who_reads_an_email_address(database: Database, api: Api) -> None:
    await add_people(database, model="PREPAY_USER")
    await add_member(database, "bob")
    await add_user(database, "alice", first_name=None)
    row = await credit(database, 1, "bob", viewer=Viewer("alice", is_sys_admin=True))
    query = """query($mandateId: ID!, $id: ID!) {
        transaction(mandateId: $mandateId, id: $id) { actor { id email displayName } }
    }"""
    for user_id in ("bob", "ada", "gateway", "root"):
        email = None if user_id == "bob" else "alice@example.com"
        found = await api.read(user_id, query, mandateId=MANDATE, id=row.id)
        shown = {"id": "alice", "email": email, "displayName": email or "alice"}
        assert (user_id, found["actor"]) == (user_id, shown)
    viewer = await api.read("alice", "{ viewer { user { email } } }")
    assert viewer["user"]["email"] == "alice@example.com"


async def test_an_admin_reads_email_addresses_of_present_members_alone(
    database: Database, api: Api
) -> None:
    await add_people(database)
    await add_member(database, "alice", OTHER_MANDATE)
    await record(database, usage_event(1, mandate_id=OTHER_MANDATE))
    query = "query($id: ID!) { transactions(mandateId: $id) { nodes { user { email } } } }"
    for shown in ("alice@example.com", None):
        page = await api.read("sven", query, id=OTHER_MANDATE)
        assert page["nodes"] == [{"user": {"email": shown}}]
        await remove_membership(database, OPERATOR, OTHER_MANDATE, "alice")
