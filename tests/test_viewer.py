from collections.abc import Callable

import pytest

from app.billing.directory import remove_membership
from app.billing.enums import MembershipRole, UserKind
from app.billing.errors import BillingError, Forbidden, Unauthenticated
from app.billing.viewer import OPERATOR, Viewer, load_viewer, sees
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
)

pytestmark = pytest.mark.anyio


async def load(database: Database, user_id: str) -> Viewer:
    async with database.read() as connection:
        return await load_viewer(connection, user_id)


async def test_roles_are_those_held_right_now(database: Database) -> None:
    await add_mandate(database)
    await add_mandate(database, OTHER_MANDATE, users=["bob"])
    assert await load(database, "alice") == MEMBER
    await add_member(database, "alice", OTHER_MANDATE, role=MembershipRole.ADMIN)
    assert (await load(database, "alice")).roles == {
        MANDATE: MembershipRole.MEMBER,
        OTHER_MANDATE: MembershipRole.ADMIN,
    }
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    assert (await load(database, "alice")).roles == {OTHER_MANDATE: MembershipRole.ADMIN}
    await remove_membership(database, OPERATOR, OTHER_MANDATE, "alice")
    assert await load(database, "alice") == Viewer("alice")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Viewer("root")),
        ({"is_sys_admin": True}, SYSADMIN),
        ({"kind": UserKind.SERVICE}, Viewer("root", is_service=True)),
    ],
)
async def test_what_a_user_is(
    database: Database, changes: dict[str, object], expected: Viewer
) -> None:
    await add_user(database, "root", **changes)
    assert await load(database, "root") == expected


@pytest.mark.parametrize("user_id", ["nobody", "ALICE", "", "a\0b", "x" * 100_000])
async def test_an_unknown_user_is_unauthenticated(database: Database, user_id: str) -> None:
    """Nobody can come as the operator, whose id is empty."""
    await add_user(database, "alice")
    with pytest.raises(Unauthenticated):
        await load(database, user_id)


async def test_a_disabled_user_is_unauthenticated(database: Database) -> None:
    await add_mandate(database)
    await add_user(database, "alice", is_sys_admin=True, enabled=False)
    with pytest.raises(Unauthenticated):
        await load(database, "alice")
    await add_user(database, "alice", enabled=True)
    assert (await load(database, "alice")).is_sys_admin


@pytest.mark.parametrize(
    ("viewer", "may_see", "administers", "only_user"),
    [
        (MEMBER, True, False, "alice"),
        (ADMIN, True, True, None),
        (GATEWAY, True, False, None),
        (SYSADMIN, True, True, None),
        (OPERATOR, True, True, None),
        (STRANGER, False, False, "sven"),
    ],
)
async def test_what_a_viewer_may_see(
    database: Database, viewer: Viewer, may_see: bool, administers: bool, only_user: str | None
) -> None:
    assert viewer.may_see(MANDATE) is may_see
    assert viewer.administers(MANDATE) is administers
    assert viewer.only_user(MANDATE) == only_user
    await add_mandate(database)
    async with database.read() as connection:
        assert await sees(connection, viewer, MANDATE) is may_see
        for mandate_id in ("nowhere", "", "a\0b"):
            assert await sees(connection, viewer, mandate_id) is False


@pytest.mark.parametrize(
    ("viewer", "admin", "sys_admin", "gateway"),
    [
        (MEMBER, False, False, False),
        (ADMIN, True, False, False),
        (GATEWAY, False, False, True),
        (SYSADMIN, True, True, True),
        (OPERATOR, True, True, True),
    ],
)
def test_what_a_viewer_may_do(viewer: Viewer, admin: bool, sys_admin: bool, gateway: bool) -> None:
    requirements: list[tuple[bool, Callable[[], None]]] = [
        (admin, lambda: viewer.require_admin(MANDATE)),
        (sys_admin, viewer.require_sys_admin),
        (sys_admin, lambda: viewer.require_sys_admin(MANDATE)),
        (gateway, viewer.require_gateway),
    ]
    for allowed, require in requirements:
        if allowed:
            require()
            continue
        with pytest.raises(Forbidden):
            require()


def test_a_stranger_is_told_that_the_mandate_does_not_exist() -> None:
    with pytest.raises(BillingError) as error:
        STRANGER.require_sys_admin(MANDATE)
    assert (error.value.code, error.value.field) == ("NOT_FOUND", ("mandate_id",))
