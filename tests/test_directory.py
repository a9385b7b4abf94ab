from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.billing.directory import (
    erase_user,
    find_mandate,
    list_mandates,
    list_memberships,
    mandates_by_id,
    members_by_user,
    memberships_of,
    remove_membership,
    time_zones,
    upsert_mandate,
    upsert_membership,
    upsert_user,
    users_by_id,
)
from app.billing.enums import BillingModel, MembershipRole, UserKind
from app.billing.errors import BadInput, BillingError, Forbidden
from app.billing.models import audit_events, mandates, memberships, settings, users
from app.billing.paging import PageArguments
from app.billing.viewer import OPERATOR, Viewer
from app.database import Database
from tests.world import (
    ADMIN,
    GATEWAY,
    MANDATE,
    MEMBER,
    OTHER_MANDATE,
    STRANGER,
    SYSADMIN,
    add_mandate,
    add_member,
    add_user,
    balances,
    dump,
    read_rows,
    record,
    usage_event,
)

pytestmark = pytest.mark.anyio

Change = Callable[[Database, Viewer], Awaitable[Any]]

CHANGES: dict[str, Change] = {
    "mandate": lambda database, viewer: upsert_mandate(database, viewer, MANDATE, {"name": "New"}),
    "user": lambda database, viewer: upsert_user(database, viewer, "alice", {"first_name": "New"}),
    "erasure": lambda database, viewer: erase_user(database, viewer, "alice"),
    "membership": lambda database, viewer: upsert_membership(
        database, viewer, MANDATE, "alice", {"role": MembershipRole.ADMIN}
    ),
    "removal": lambda database, viewer: remove_membership(database, viewer, MANDATE, "alice"),
}


@pytest.mark.parametrize("name", list(CHANGES))
async def test_only_a_sysadmin_changes_the_directory(database: Database, name: str) -> None:
    await add_mandate(database)
    before = await dump(database)
    for viewer in (MEMBER, ADMIN, GATEWAY, STRANGER):
        with pytest.raises((Forbidden, BillingError)) as error:
            await CHANGES[name](database, viewer)
        of_a_mandate = name in ("membership", "removal")
        assert isinstance(error.value, BillingError) == (viewer is STRANGER and of_a_mandate)
    assert await dump(database) == before
    await CHANGES[name](database, SYSADMIN)
    new = [event for event in await read_rows(database, audit_events) if event.actor_id]
    assert [event.actor_id for event in new] == ["root"]


async def refused(change: Awaitable[Any]) -> tuple[str, tuple[str, ...]]:
    with pytest.raises(BillingError) as error:
        await change
    return str(error.value.code), error.value.field


# Mandates


async def test_a_new_mandate(database: Database) -> None:
    await upsert_mandate(database, SYSADMIN, MANDATE, {"name": "Acme"})
    [row] = await read_rows(database, mandates)
    assert (row.name, row.currency, row.time_zone) == ("Acme", "CHF", "UTC")
    [terms] = await read_rows(database, settings)
    assert (terms.version, terms.billing_model) == (0, "UNLIMITED")
    [event] = await read_rows(database, audit_events)
    assert (event.mandate_id, event.action, event.subject) == (
        MANDATE,
        "mandate.created",
        "mandate:acme",
    )
    assert (event.before, event.after) == (
        None,
        {"name": "Acme", "currency": "CHF", "time_zone": "UTC"},
    )


async def test_a_mandate_keeps_what_is_left_out(database: Database) -> None:
    given = {"name": "Acme", "currency": "EUR", "time_zone": "Europe/Zurich"}
    await upsert_mandate(database, OPERATOR, MANDATE, given)
    await upsert_mandate(database, OPERATOR, MANDATE, {"name": "Other"})
    [row] = await read_rows(database, mandates)
    assert (row.name, row.currency, row.time_zone) == ("Other", "EUR", "Europe/Zurich")
    event = (await read_rows(database, audit_events))[-1]
    assert (event.action, event.before, event.after) == (
        "mandate.updated",
        {"name": "Acme"},
        {"name": "Other"},
    )
    before = await dump(database)
    await upsert_mandate(database, OPERATOR, MANDATE, given | {"name": "Other"})
    assert await dump(database) == before


async def test_currency_and_zone_are_fixed_once_an_account_exists(database: Database) -> None:
    await add_mandate(database)
    changed = {"currency": "EUR", "time_zone": "Asia/Tokyo"}
    await upsert_mandate(database, OPERATOR, MANDATE, changed)
    await record(database, usage_event(0))
    before = await dump(database)
    for name, value in (("currency", "USD"), ("time_zone", "UTC")):
        change = upsert_mandate(database, OPERATOR, MANDATE, {"name": "New", name: value})
        assert await refused(change) == ("INVALID", (name,))
    assert await dump(database) == before
    await upsert_mandate(database, OPERATOR, MANDATE, changed | {"name": "New"})
    assert (await read_rows(database, mandates))[0].name == "New"


BAD_MANDATES: list[tuple[str, dict[str, Any], str]] = [
    *[(wrong, {}, "id") for wrong in ("", " ", "a\0b", " a", "a\n", "x" * 129, "x" * 100_000)],
    *[(MANDATE, {"name": wrong}, "name") for wrong in (None, "", " ", "a\0", "x" * 201)],
    *[
        (MANDATE, {"currency": wrong}, "currency")
        for wrong in (None, "", "chf", "CH", "XXXX", "C\0", "x" * 100_000)
    ],
    *[
        (MANDATE, {"time_zone": wrong}, "time_zone")
        for wrong in (None, "", "utc", "Mars/Base", "../etc/passwd", "localtime", "Factory")
    ],
]


async def test_bad_input_of_a_mandate_is_refused_and_named(database: Database) -> None:
    for mandate_id, changes, field in BAD_MANDATES:
        change = upsert_mandate(database, OPERATOR, mandate_id, {"name": "Acme"} | changes)
        assert await refused(change) == ("INVALID", (field,)), str(changes)[:50]
    assert await read_rows(database, mandates) == []


def test_time_zones_are_known_on_every_machine() -> None:
    assert {"UTC", "Europe/Zurich", "America/Sao_Paulo", "Asia/Kolkata"} <= time_zones()


async def test_which_mandates_a_viewer_finds(database: Database) -> None:
    await add_mandate(database)
    await add_mandate(database, OTHER_MANDATE)
    for viewer, expected in (
        (MEMBER, [MANDATE]),
        (ADMIN, [MANDATE]),
        (STRANGER, [OTHER_MANDATE]),
        (GATEWAY, [OTHER_MANDATE, MANDATE]),
        (SYSADMIN, [OTHER_MANDATE, MANDATE]),
        (Viewer("nobody"), []),
    ):
        page = await list_mandates(database, viewer, search=None, page=PageArguments())
        assert [row.id for row in page.nodes] == expected
        assert await page.count() == len(expected)
        for mandate_id in (MANDATE, OTHER_MANDATE):
            found = await find_mandate(database, viewer, mandate_id)
            assert (found is not None) == (mandate_id in expected)
        for mandate_id in ("nowhere", "", "a\0b", "x" * 100_000):
            assert await find_mandate(database, viewer, mandate_id) is None


async def test_a_search_is_literal_and_ignores_case(database: Database) -> None:
    names = {"a": "Acme AG", "b": "Ärzte", "c": "100% Club", "d_e": "Dee", "f": r"Back\slash"}
    for mandate_id, name in names.items():
        await upsert_mandate(database, OPERATOR, mandate_id, {"name": name})
    expected: dict[str, set[str]] = {
        "acme": {"a"},
        "ÄRZTE": {"b"},
        "ärzte": {"b"},
        "100%": {"c"},
        "%": {"c"},
        "_": {"d_e"},
        "\\": {"f"},
        "D_E": {"d_e"},
        "nothing": set(),
        "'; DROP TABLE mandate; --": set(),
    }
    for search, found in expected.items():
        page = await list_mandates(database, SYSADMIN, search=search, page=PageArguments())
        assert {row.id for row in page.nodes} == found, search
        assert await page.count() == len(found)


async def test_a_search_that_is_refused(database: Database) -> None:
    await add_mandate(database)
    page = PageArguments()
    for search in ("", "a\0b", "x" * 201, "x" * 100_000):
        with pytest.raises(BadInput, match="search"):
            await list_mandates(database, SYSADMIN, search=search, page=page)
        with pytest.raises(BadInput, match="search"):
            await list_memberships(database, SYSADMIN, MANDATE, search=search, page=page)


async def test_mandates_by_id_come_in_the_order_asked(database: Database) -> None:
    await add_mandate(database, "a")
    await add_mandate(database, "b")
    async with database.read() as connection:
        found = await mandates_by_id(connection, ["b", "x", "a", "b", "a\0b"])
    assert [row and row.id for row in found] == ["b", None, "a", "b", None]


# Users


PERSON = {"email": "alice@example.com", "first_name": "Alice", "last_name": "Ärni"}


async def test_a_new_user(database: Database) -> None:
    await upsert_user(database, SYSADMIN, "alice", PERSON)
    [row] = await read_rows(database, users)
    assert (row.email, row.first_name, row.last_name) == tuple(PERSON.values())
    assert (row.kind, row.is_sys_admin, row.enabled) == ("HUMAN", False, True)
    [event] = await read_rows(database, audit_events)
    assert (event.mandate_id, event.action, event.subject) == ("", "user.created", "user:alice")
    assert event.after == PERSON | {"kind": "HUMAN", "is_sys_admin": False, "enabled": True}


async def test_a_user_keeps_what_is_left_out(database: Database) -> None:
    roles = {"kind": UserKind.SERVICE, "is_sys_admin": True, "enabled": False}
    await upsert_user(database, OPERATOR, "alice", PERSON | roles)
    await upsert_user(database, OPERATOR, "alice", {"first_name": None, "is_sys_admin": False})
    [row] = await read_rows(database, users)
    assert (row.email, row.first_name, row.last_name) == ("alice@example.com", None, "Ärni")
    assert (row.kind, row.is_sys_admin, row.enabled) == ("SERVICE", False, False)
    before = await dump(database)
    await upsert_user(database, OPERATOR, "alice", {"first_name": None, "enabled": False})
    assert await dump(database) == before


BAD_USERS: list[tuple[str, dict[str, Any], str]] = [
    *[(wrong, {}, "id") for wrong in ("", " ", "a\0b", " a", "a\n", "x" * 129)],
    *[("alice", {name: None}, name) for name in ("kind", "is_sys_admin", "enabled")],
    *[
        ("alice", {name: wrong}, name)
        for name in ("first_name", "last_name")
        for wrong in ("", " ", "a\0", "x" * 201)
    ],
    *[
        ("alice", {"email": wrong}, "email")
        for wrong in ("", "a", "a@b", "a@example.com\n", "a@example.com\0", "x" * 100_000)
    ],
]


async def test_bad_input_of_a_user_is_refused_and_named(database: Database) -> None:
    for user_id, changes, field in BAD_USERS:
        change = upsert_user(database, OPERATOR, user_id, changes)
        assert await refused(change) == ("INVALID", (field,)), str(changes)[:50]
    assert await read_rows(database, users) == []


@pytest.mark.parametrize(
    ("viewer", "readable"),
    [
        (MEMBER, {"alice"}),
        (ADMIN, {"alice", "ada"}),
        (Viewer("bob"), {"bob"}),
        (STRANGER, {"bob"}),
        (GATEWAY, {"alice", "ada", "bob", "left"}),
        (SYSADMIN, {"alice", "ada", "bob", "left"}),
    ],
)
async def test_whose_email_a_viewer_reads(
    database: Database, viewer: Viewer, readable: set[str]
) -> None:
    names = ["left", "alice", "ada", "bob"]
    await add_mandate(database, users=names[:3])
    await add_mandate(database, OTHER_MANDATE, users=["bob"])
    await remove_membership(database, OPERATOR, MANDATE, "left")
    for name in names:
        await add_user(database, name, email=f"{name}@example.com")
    async with database.read() as connection:
        found = await users_by_id(connection, viewer, [*names, "nobody", "a\0b"])
    assert [row and row.id for row in found] == [*names, None, None]
    assert {row.id for row in found if row and row.email} == readable


async def test_a_user_who_is_erased_leaves_no_name(database: Database) -> None:
    await add_mandate(database, model=BillingModel.PREPAY_USER, users=["alice", "bob"])
    await add_user(database, "alice", **PERSON)
    await add_user(database, "alice", last_name="Other", email=None)
    await add_user(database, "bob", email="bob@example.com")
    await record(database, usage_event(1))
    assert await erase_user(database, OPERATOR, "alice")
    alice, bob = await read_rows(database, users)
    assert (alice.id, alice.email, alice.first_name, alice.last_name) == ("alice", None, None, None)
    assert bob.email == "bob@example.com"
    written = str(await dump(database))
    for word in ("alice@example.com", "Alice", "Ärni", "Other"):
        assert word not in written
    assert await balances(database) == {"alice": 9}
    event = (await read_rows(database, audit_events, mandate_id=""))[-1]
    assert (event.action, event.subject) == ("user.erased", "user:alice")
    changed = await read_rows(database, audit_events, action="user.updated")
    assert changed[0].after == {"email": None, "first_name": None, "last_name": None}


@pytest.mark.parametrize("user_id", ["nobody", "", "a\0b", "x" * 100_000])
async def test_nobody_to_erase(database: Database, user_id: str) -> None:
    await add_user(database, "alice", **PERSON)
    before = await dump(database)
    assert not await erase_user(database, OPERATOR, user_id)
    assert await dump(database) == before


# Memberships


async def test_a_user_joins_leaves_and_joins_again(database: Database) -> None:
    await add_mandate(database, model=BillingModel.PREPAY_USER, users=[])
    await add_user(database, "alice")
    await upsert_membership(database, OPERATOR, MANDATE, "alice", {"role": MembershipRole.ADMIN})
    await record(database, usage_event(4))
    assert await remove_membership(database, OPERATOR, MANDATE, "alice")
    assert await memberships_of(database, "alice") == []
    before = await dump(database)
    assert not await remove_membership(database, OPERATOR, MANDATE, "alice")
    assert await dump(database) == before
    row = await upsert_membership(database, OPERATOR, MANDATE, "alice", {})
    assert (row.role, row.left_at) == ("MEMBER", None)
    assert await memberships_of(database, "alice") == [row]
    await record(database, usage_event(1))
    assert await balances(database) == {"alice": 5}  # no second default credit
    events = await read_rows(database, audit_events, subject="user:alice", mandate_id=MANDATE)
    assert [(event.action, event.before, event.after) for event in events] == [
        ("membership.created", None, {"role": "ADMIN"}),
        ("membership.removed", {"role": "ADMIN"}, None),
        ("membership.created", None, {"role": "MEMBER"}),
    ]


async def test_a_membership_keeps_what_is_left_out(database: Database) -> None:
    await add_mandate(database)
    await add_member(database, "alice", role=MembershipRole.ADMIN)
    before = await dump(database)
    row = await upsert_membership(database, OPERATOR, MANDATE, "alice", {})
    assert row.role == "ADMIN"
    assert await dump(database) == before
    change = upsert_membership(database, OPERATOR, MANDATE, "alice", {"role": None})
    assert await refused(change) == ("INVALID", ("role",))


@pytest.mark.parametrize("wrong", ["nobody", "", "a\0b", "x" * 100_000])
async def test_a_membership_of_nobody_or_nowhere(database: Database, wrong: str) -> None:
    await add_mandate(database)
    before = await dump(database)
    assert await refused(upsert_membership(database, OPERATOR, MANDATE, wrong, {})) == (
        "NOT_FOUND",
        ("user_id",),
    )
    for change in (
        upsert_membership(database, OPERATOR, wrong, "alice", {}),
        remove_membership(database, OPERATOR, wrong, "alice"),
    ):
        assert await refused(change) == ("NOT_FOUND", ("mandate_id",))
    assert not await remove_membership(database, OPERATOR, MANDATE, wrong)
    assert await dump(database) == before


async def test_members_of_a_mandate_for_its_admins(database: Database) -> None:
    await add_mandate(database, users=["alice", "bob", "left"])
    await add_mandate(database, OTHER_MANDATE, users=["carol"])
    await remove_membership(database, OPERATOR, MANDATE, "left")
    await add_user(database, "bob", first_name="Zoë", email="b@bäcker.example")

    async def ask(viewer: Viewer, search: str | None = None) -> list[str] | None:
        page = await list_memberships(
            database, viewer, MANDATE, search=search, page=PageArguments()
        )
        if page is None:
            return None
        assert await page.count() == len(page.nodes)
        return [row.user_id for row in page.nodes]

    for viewer in (ADMIN, SYSADMIN):
        assert await ask(viewer) == ["bob", "alice"]
    for viewer in (MEMBER, GATEWAY):
        with pytest.raises(Forbidden):
            await ask(viewer)
    assert await ask(STRANGER) is None
    for search in ("zoË", "BÄCKER", "bob"):
        assert await ask(ADMIN, search) == ["bob"]
    for search in ("carol", "left", "%"):
        assert await ask(ADMIN, search) == []


async def test_members_in_pages_while_others_join(database: Database) -> None:
    names = [f"user-{n}" for n in range(5)]
    await add_mandate(database, users=names)
    seen: list[str] = []
    after = None
    for _ in range(4):
        arguments = PageArguments(first=2, after=after)
        page = await list_memberships(database, ADMIN, MANDATE, search=None, page=arguments)
        assert page is not None
        seen += [row.user_id for row in page.nodes]
        if not page.has_next_page:
            break
        after = page.cursor(page.nodes[-1])
        await add_member(database, f"new-{len(seen)}")
    assert seen == names[::-1]


async def test_who_is_or_was_a_member(database: Database) -> None:
    await add_mandate(database, users=["alice", "left", "disabled"])
    await remove_membership(database, OPERATOR, MANDATE, "left")
    await add_user(database, "disabled", enabled=False)
    await add_user(database, "nobody")
    async with database.read() as connection:
        asked = ["alice", "left", "disabled", "nobody", "a\0b"]
        found = await members_by_user(connection, MANDATE, asked)
        assert {name: member.may_spend for name, member in found.items()} == {
            "alice": True,
            "left": False,
            "disabled": False,
        }
        assert found["left"].has_left
        assert await members_by_user(connection, OTHER_MANDATE, asked) == {}
    assert len(await read_rows(database, memberships)) == 3
