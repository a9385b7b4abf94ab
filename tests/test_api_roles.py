"""Who may see and do what, for every root field; and what a mandate looks like to those outside."""

import uuid
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest

from app.billing.directory import remove_membership
from app.billing.enums import MembershipRole
from app.billing.viewer import OPERATOR, Viewer
from app.database import Database
from tests.api import Answer, Api, add_people
from tests.operations import (
    MUTATIONS,
    QUERIES,
    VALID,
    World,
    add_money,
    add_world,
    brief,
    document,
)
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

WHO = {
    "nobody": None,
    "outsider": "otto",
    "member": "alice",
    "admin": "ada",
    "service": "gateway",
    "sysadmin": "root",
}
"""Member and admin belong to MANDATE, the outsider, the service and the sysadmin to no mandate."""

# Who may what, by the mandate that is named: their own, somebody else's, one that is not there.
#               nobody  outsider   member     admin      service    sysadmin
KNOWN = """
    none        401     ok         ok         ok         ok         ok
"""
OF_PLATFORM = """
    none        401     FORBIDDEN  FORBIDDEN  FORBIDDEN  FORBIDDEN  ok
"""
READERS = """
    own         401     null       ok         ok         ok         ok
    foreign     401     null       null       null       ok         ok
    absent      401     null       null       null       null       null
"""
ADMINS = """
    own         401     null       FORBIDDEN  ok         FORBIDDEN  ok
    foreign     401     null       null       null       FORBIDDEN  ok
    absent      401     null       null       null       null       null
"""
FOR_ALICE = """
    own         401     null       ok         FORBIDDEN  ok         ok
    foreign     401     null       null       null       ok         ok
    absent      401     null       null       null       null       null
"""
SPENDERS = """
    own         401     FORBIDDEN  FORBIDDEN  FORBIDDEN  ok         ok
    foreign     401     FORBIDDEN  FORBIDDEN  FORBIDDEN  ok         ok
    absent      401     FORBIDDEN  FORBIDDEN  FORBIDDEN  NOT_FOUND  NOT_FOUND
"""
OF_MANDATE = """
    own         401     NOT_FOUND  FORBIDDEN  FORBIDDEN  FORBIDDEN  ok
    foreign     401     NOT_FOUND  NOT_FOUND  NOT_FOUND  FORBIDDEN  ok
    absent      401     NOT_FOUND  NOT_FOUND  NOT_FOUND  FORBIDDEN  NOT_FOUND
"""

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


def cells(name: str) -> dict[tuple[str, str], str]:
    """What is expected for a root field, by mandate and who asks."""
    return {
        (where, who): expected
        for where, *row in map(str.split, MAY[name].strip().splitlines())
        for who, expected in zip(WHO, row, strict=True)
    }


def outcome(answer: Answer, name: str) -> str:
    """An answer in one word."""
    if answer.status == 401:
        assert answer.codes == ["UNAUTHENTICATED"]
        return "401"
    if answer.errors:
        return str(answer.codes[0])
    payload = answer.data[name]
    if payload is None:
        return "null"
    told = payload if isinstance(payload, dict) else {}
    refused = told.get("userErrors") or [found["error"] for found in told.get("results", ())]
    return str(refused[0]["code"]) if any(refused) else "ok"


def shown(answer: Answer, name: str) -> list[Any]:
    """What an answer tells but for why it was refused."""
    payload = (answer.data or {}).get(name) or {}
    results = payload.pop("results", None) or []
    payload.pop("userErrors", None)
    return [value for value in payload.values() if value] + [
        found["transaction"] for found in results if found["transaction"]
    ]


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The variables with other ids in them."""
    if isinstance(value, dict):
        return {name: renamed(inner, names) for name, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


async def add_worlds(database: Database) -> dict[str, tuple[World, dict[str, str]]]:
    """Two mandates alike but for their ids; what stands in the one that is named, and those ids."""
    own = await add_world(database)
    await add_user(database, "otto")
    await add_user(database, "olga", email="olga@example.com", first_name="Olga")
    await add_member(database, "olga", OTHER_MANDATE)
    await change_settings(
        database, OTHER_MANDATE, billing_model="PREPAY_USER", default_user_credit=0
    )
    foreign = await add_money(database, OTHER_MANDATE, "olga", "sven")
    names = {MANDATE: OTHER_MANDATE, "alice": "olga", "ada": "sven"}
    return {
        "none": (own, {}),
        "own": (own, {}),
        "foreign": (foreign, names),
        "absent": (foreign, {**names, MANDATE: ABSENT[0]}),
    }


def test_every_root_field_is_judged() -> None:
    assert set(MAY) == set(VALID) == {*QUERIES, *MUTATIONS}
    for name in MAY:
        named = MANDATE in repr(VALID[name](World("", "", "")))
        assert {where for where, _ in cells(name)} == (
            {"own", "foreign", "absent"} if named else {"none"}
        )


async def test_each_may_do_what_the_table_says(database: Database, api: Api) -> None:
    worlds = await add_worlds(database)
    ids = [getattr(worlds[where][0], item.name) for where in worlds for item in fields(World)]
    secrets = {*ids, "alice@", "Alice", "olga@", "Olga"}

    async def ask(name: str, where: str, who: str) -> Answer:
        world, names = worlds[where]
        is_null = who == "nobody" or (name in QUERIES and cells(name)[where, who] != "ok")
        query = brief(name) if is_null else document(name)
        return await api(WHO[who], query, **renamed(VALID[name](world), names))

    before = await dump(database)
    for name in MAY:
        expected = cells(name)
        answers = {
            cell: await ask(name, *cell)
            for cell in expected
            if expected[cell] != "ok" or name in QUERIES
        }
        for cell, answer in answers.items():
            assert (name, cell, outcome(answer, name)) == (name, cell, expected[cell])
            if expected[cell] != "ok":
                assert not shown(answer, name)
                assert not any(secret in repr(answer) for secret in secrets)
        for who in ("nobody", "outsider", "member", "admin"):
            assert answers.get(("foreign", who)) == answers.get(("absent", who))
    assert await dump(database) == before
    for name in [name for name in MAY if name in MUTATIONS]:
        for where, who in [cell for cell, expected in cells(name).items() if expected == "ok"]:
            if name in ("settleHold", "releaseHold"):  # each closes its own
                world, names = worlds[where]
                whose = renamed({"mandate_id": MANDATE, "user_id": "alice"}, names)
                worlds[where] = replace(world, hold_id=await hold(database, **whose)), names
                before = await dump(database)
            answer = await ask(name, where, who)
            assert (name, where, who, outcome(answer, name)) == (name, where, who, "ok")
            assert before != (before := await dump(database))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_a_living_token_may_do_ends_with_the_role(database: Database, api: Api) -> None:
    await add_people(database)
    bearer = api.bearer("ada")

    async def ask() -> Answer:
        body = {"query": document("accounts"), "variables": {"mandateId": MANDATE}}
        response = await api.client.post("/graphql", json=body, headers=bearer)
        told = response.json()
        return Answer(response.status_code, told.get("data"), told.get("errors", []))

    for change, expected in (
        (add_member(database, "ada", role=MembershipRole.ADMIN), "ok"),
        (add_member(database, "ada", role=MembershipRole.MEMBER), "FORBIDDEN"),
        (remove_membership(database, OPERATOR, MANDATE, "ada"), "null"),
        (add_member(database, "ada", role=MembershipRole.ADMIN), "ok"),
        (add_user(database, "ada", enabled=False), "401"),
        (add_user(database, "ada", enabled=True), "ok"),
        (add_user(database, "ada", is_sys_admin=True), "ok"),
        (remove_membership(database, OPERATOR, MANDATE, "ada"), "ok"),
        (add_user(database, "ada", is_sys_admin=False), "null"),
    ):
        await change
        assert outcome(await ask(), "accounts") == expected


@pytest.mark.parametrize("user_id", ["sven", "gateway", "root"])
async def test_whatever_its_id_an_absent_mandate_answers_alike(
    database: Database, api: Api, user_id: str
) -> None:
    world = await add_world(database)
    before = await dump(database)
    for name in MAY:
        if ("absent", "member") in cells(name):
            answers = [
                await api(user_id, brief(name), **renamed(VALID[name](world), {MANDATE: absent}))
                for absent in ABSENT
            ]
            assert answers == [answers[0]] * len(ABSENT), name
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
