from typing import Any

import pytest

from app.billing.directory import enrol
from app.billing.enums import BillingModel
from app.billing.models import users
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.api import Api, add_people, statements
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    add_mandate,
    add_member,
    add_user,
    credit,
    dump,
    read_rows,
    record,
    usage_event,
)

pytestmark = pytest.mark.anyio

USER = "{ id email firstName lastName displayName kind }"
VIEWER = f"""{{ viewer {{
    isSysAdmin user {USER} memberships {{ id role mandate {{ id name }} balance {{ available }} }}
}} }}"""
MANDATES = """query($search: String, $first: Int, $after: String, $last: Int, $before: String) {
    mandates(search: $search, first: $first, after: $after, last: $last, before: $before) {
        nodes { id } totalCount pageInfo { hasNextPage endCursor startCursor }
    }
}"""
USERS = """query($id: ID!, $search: String, $first: Int, $after: String) {
    mandateUsers(mandateId: $id, search: $search, first: $first, after: $after) {
        nodes {
            id role mandate { name } user { id email displayName }
            balance { balance available user { id } }
        }
        totalCount pageInfo { hasNextPage endCursor }
    }
}"""


def ids(page: dict[str, Any]) -> str:
    return " ".join(node.get("user", node)["id"] for node in page["nodes"])


async def mutate(api: Api, name: str, answer: str, /, **values: Any) -> tuple[Any, list[Any]]:
    """What a sysadmin's change answers: its result, and each error as (code, field)."""
    kind = f"{name[0].upper()}{name[1:]}Input!"
    query = f"""mutation($input: {kind}) {{ {name}(input: $input) {{
        {answer} userErrors {{ code field message }}
    }} }}"""
    payload = await api.read("root", query, input=values)
    errors = [(error["code"], *error["field"]) for error in payload.pop("userErrors")]
    return next(iter(payload.values())), errors


async def test_viewer(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    await add_mandate(database, "aaa")
    person = {"firstName": None, "lastName": None, "kind": "HUMAN"}
    alice = {"id": "alice", "email": "alice@example.com", "firstName": "Alice"}
    joined = [
        {
            "id": f"{mandate_id}/alice",
            "role": "MEMBER",
            "mandate": {"id": mandate_id, "name": mandate_id.title()},
            "balance": balance,
        }
        for mandate_id, balance in (("aaa", None), (MANDATE, {"available": "10"}))
    ]
    for user_id, expected in {
        "alice": {
            "isSysAdmin": False,
            "user": person | alice | {"displayName": "Alice"},
            "memberships": joined,
        },
        "root": {
            "isSysAdmin": True,
            "user": person
            | {"id": "root", "email": "root@example.com", "displayName": "root@example.com"},
            "memberships": [],
        },
        "gateway": {
            "isSysAdmin": False,
            "user": person
            | {"id": "gateway", "email": None, "displayName": "gateway", "kind": "SERVICE"},
            "memberships": [],
        },
    }.items():
        assert await api.read(user_id, VIEWER) == expected


async def test_mandates(database: Database, api: Api) -> None:
    await add_people(database)
    await add_mandate(database, "initech")
    await add_member(database, "ada", "initech")
    every = "initech globex acme"
    for user_id, expected in {
        "alice": "initech acme",
        "ada": "initech acme",
        "sven": "globex",
        "gateway": every,
        "root": every,
    }.items():
        page = await api.read(user_id, MANDATES)
        assert (user_id, ids(page)) == (user_id, expected)
        assert page["totalCount"] == len(expected.split())
        for mandate_id in every.split():
            found = await api.read(user_id, f'{{ mandate(id: "{mandate_id}") {{ id name }} }}')
            shown = {"id": mandate_id, "name": mandate_id.title()}
            assert found == (shown if mandate_id in expected else None)
    first = await api.read("root", MANDATES, first=2)
    rest = await api.read("root", MANDATES, first=2, after=first["pageInfo"]["endCursor"])
    assert (ids(first), ids(rest)) == ("initech globex", "acme")
    back = await api.read("root", MANDATES, last=1, before=rest["pageInfo"]["startCursor"])
    assert ids(back) == "globex"
    for search, expected in {
        "ACM": "acme",
        "e": "initech globex acme",
        "%": "",
        "nope": "",
    }.items():
        assert ids(await api.read("root", MANDATES, search=search)) == expected
    assert ids(await api.read("alice", MANDATES, search="globex")) == ""


async def test_admin_lists_users_with_balances(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    await add_member(database, "bob")
    await add_user(
        database, "bob", first_name="J\N{LATIN SMALL LETTER O WITH DIAERESIS}rg", last_name="100%"
    )
    await credit(database, 5, "bob")
    await record(database, usage_event("2.5", user_id="bob"))
    page = await api.read("ada", USERS, id=MANDATE)
    assert page["totalCount"] == 3
    assert page["nodes"] == [
        {
            "id": f"{MANDATE}/{user_id}",
            "role": role,
            "mandate": {"name": "Acme"},
            "user": {"id": user_id, "email": email, "displayName": name},
            "balance": {"balance": balance, "available": available, "user": {"id": user_id}},
        }
        for user_id, role, email, name, balance, available in (
            (
                "bob",
                "MEMBER",
                None,
                "J\N{LATIN SMALL LETTER O WITH DIAERESIS}rg 100%",
                "12.5",
                "12.5",
            ),
            ("ada", "ADMIN", None, "ada", "0", "10"),
            ("alice", "MEMBER", "alice@example.com", "Alice", "0", "10"),
        )
    ]
    for search, expected in {
        "AL": "alice",
        "example.com": "alice",
        "J\N{LATIN CAPITAL LETTER O WITH DIAERESIS}RG": "bob",
        "0%": "bob",
        "_": "",
        "root": "",
        "a": "ada alice",
    }.items():
        page = await api.read("ada", USERS, id=MANDATE, search=search)
        assert (search, ids(page)) == (search, expected)
        assert page["totalCount"] == len(expected.split())
    first = await api.read("ada", USERS, id=MANDATE, first=2)
    rest = await api.read("ada", USERS, id=MANDATE, after=first["pageInfo"]["endCursor"])
    assert (ids(first), ids(rest)) == ("bob ada", "alice")
    answer = await api("ada", USERS, id=MANDATE, search="a", after=first["pageInfo"]["endCursor"])
    assert answer.codes == ["BAD_USER_INPUT"]


async def test_members_have_no_balance_of_their_own_in_a_pool(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_MANDATE)
    await credit(database, 5)
    page = await api.read("ada", USERS, id=MANDATE)
    assert [node["balance"] for node in page["nodes"]] == [None, None]


async def test_users_take_the_same_selects_however_many(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    members = [f"u{place:03}" for place in range(500)]
    await enrol(database, OPERATOR, [(MANDATE, user_id) for user_id in members])
    counts = []
    for size in (1, 500):
        with statements() as sent:
            page = await api.read("ada", USERS, id=MANDATE, first=size)
        assert len(page["nodes"]) == size
        counts.append(len(sent))
    # the viewer with the mandates, memberships, their count, users, balances
    assert counts == [5, 5]


async def test_sysadmin_keeps_mandates(database: Database, api: Api) -> None:
    await add_people(database)
    fields = "mandate { id name currency timeZone }"
    new = {"id": "initech", "name": "Initech", "currency": "CHF", "timeZone": "UTC"}
    assert await mutate(api, "upsertMandate", fields, id="initech", name="Initech") == (new, [])
    for name, value in (("currency", "EUR"), ("timeZone", "Europe/Zurich"), ("name", "I")):
        new |= {name: value}
        given = {"id": "initech", "name": new["name"], name: value}
        assert await mutate(api, "upsertMandate", fields, **given) == (new, [])
    await add_member(database, "alice", "initech")
    await record(database, usage_event(1, mandate_id="initech"))
    before = await dump(database)
    for name, wrong in (
        *(("currency", wrong) for wrong in ("USD", None, "eur", "ABC")),
        *(("timeZone", wrong) for wrong in ("UTC", None, "europe/zurich", "localtime")),
        *(("id", wrong) for wrong in ("", " x", "x" * 129)),
        ("name", ""),
    ):
        refused = await mutate(api, "upsertMandate", fields, **new | {name: wrong})
        assert (name, wrong, *refused) == (name, wrong, None, [("INVALID", name)])
    same = {"currency": "EUR", "timeZone": "Europe/Zurich"}
    assert await mutate(api, "upsertMandate", fields, id="initech", name="I", **same) == (new, [])
    assert await dump(database) == before


async def test_sysadmin_keeps_users(database: Database, api: Api) -> None:
    await add_people(database)
    fields = f"user {USER}"
    new: dict[str, Any] = {
        "id": "new-user",
        "email": None,
        "firstName": None,
        "lastName": None,
        "kind": "HUMAN",
    }
    assert await mutate(api, "upsertUser", fields, id="new-user") == (
        new | {"displayName": "new-user"},
        [],
    )
    steps: list[tuple[dict[str, Any], str]] = [
        ({"email": "new@example.com"}, "new@example.com"),
        ({"lastName": "Person"}, "Person"),
        ({"firstName": "New", "kind": "SERVICE"}, "New Person"),
        ({"firstName": None}, "Person"),
        ({"lastName": None, "email": None}, "new-user"),
        ({"isSysAdmin": True, "kind": "HUMAN"}, "new-user"),
        ({"enabled": False}, "new-user"),
        ({}, "new-user"),
    ]
    for changes, name in steps:
        new |= {key: value for key, value in changes.items() if key in new}
        shown = new | {"displayName": name}
        assert await mutate(api, "upsertUser", fields, id="new-user", **changes) == (shown, [])
    [row] = await read_rows(database, users, id="new-user")
    assert (row.is_sys_admin, row.enabled) == (True, False)
    before = await dump(database)
    for field, wrong in (
        *((field, None) for field in ("kind", "isSysAdmin", "enabled")),
        *(("email", wrong) for wrong in ("new-user", "new@example.com\n", "")),
        ("firstName", ""),
        ("lastName", "x" * 201),
        ("id", "new\nuser"),
    ):
        refused = await mutate(api, "upsertUser", fields, **{"id": "new-user", field: wrong})
        assert (field, wrong, *refused) == (field, wrong, None, [("INVALID", field)])
    assert await dump(database) == before


async def test_sysadmin_keeps_memberships(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    await add_user(database, "new-user")
    fields = "membership { id role user { id } balance { balance available } }"
    this = {"mandateId": MANDATE, "userId": "new-user"}
    shown = {
        "id": f"{MANDATE}/new-user",
        "user": {"id": "new-user"},
        "balance": {"balance": "0", "available": "10"},
    }
    for role in ("MEMBER", "ADMIN"):
        for given in ({"role": role}, {}):
            joined = await mutate(api, "upsertMembership", fields, **this, **given)
            assert joined == (shown | {"role": role}, [])
        allowed = (await api("new-user", USERS, id=MANDATE)).errors == []
        assert allowed == (role == "ADMIN")
    await credit(database, 5, "new-user")
    assert await mutate(api, "removeMembership", "removed", **this) == (True, [])
    assert await mutate(api, "removeMembership", "removed", **this) == (False, [])
    assert await api.read("new-user", f'{{ mandate(id: "{MANDATE}") {{ id }} }}') is None
    assert "new-user" not in ids(await api.read("ada", USERS, id=MANDATE))
    again, errors = await mutate(api, "upsertMembership", fields, **this)
    assert (again["role"], errors) == ("MEMBER", [])
    assert again["balance"] == {"balance": "15", "available": "15"}
    before = await dump(database)
    for name, wrong, code in (
        ("role", None, "INVALID"),
        ("userId", "nobody", "NOT_FOUND"),
        ("mandateId", "nowhere", "NOT_FOUND"),
    ):
        refused = await mutate(api, "upsertMembership", fields, **this | {name: wrong})
        assert refused == (None, [(code, name)])
    gone = await mutate(api, "removeMembership", "removed", mandateId="nowhere", userId="new-user")
    assert gone == (False, [("NOT_FOUND", "mandateId")])
    gone = await mutate(
        api, "removeMembership", "removed", mandateId=OTHER_MANDATE, userId="new-user"
    )
    assert gone == (False, [])
    assert await dump(database) == before
