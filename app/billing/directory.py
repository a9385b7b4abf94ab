"""Mandates, users and memberships, kept in step with the platform that owns them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from zoneinfo import available_timezones

import pycountry
from sqlalchemy import Table, and_, case, exists, false, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.audit import write_audit_event
from app.billing.checks import check_name, check_text, invalid
from app.billing.errors import BillingError, UserErrorCode
from app.billing.models import (
    MembershipRole,
    UserKind,
    accounts,
    audit_events,
    mandates,
    memberships,
    settings,
    users,
)
from app.billing.paging import Keyset, Page, PageArguments, contains, fetch_page
from app.billing.settings import check_email, lock_settings, no_settings_yet
from app.billing.viewer import Viewer, mandate_not_found, sees
from app.database import Database

MAX_NAME = 200
"""Characters of a mandate's or a person's name."""


@dataclass(frozen=True, slots=True)
class Member:
    """A user of a mandate, or one who has left it."""

    user_id: str
    has_left: bool
    enabled: bool

    @property
    def may_spend(self) -> bool:
        return self.enabled and not self.has_left


async def members_by_user(
    connection: AsyncConnection, mandate_id: str, user_ids: Collection[str]
) -> dict[str, Member]:
    """Those of the users who belong to the mandate or once did."""
    rows = await connection.execute(
        select(memberships.c.user_id, memberships.c.left_at, users.c.enabled)
        .join_from(memberships, users, users.c.id == memberships.c.user_id)
        .where(memberships.c.mandate_id == mandate_id, memberships.c.user_id.in_(user_ids))
    )
    return {
        row.user_id: Member(row.user_id, has_left=row.left_at is not None, enabled=row.enabled)
        for row in rows
    }


async def require_member(connection: AsyncConnection, mandate_id: str, user_id: str) -> None:
    """NOT_FOUND unless the user belongs to the mandate now."""
    member = (await members_by_user(connection, mandate_id, [user_id])).get(user_id)
    if member is None or member.has_left:
        raise BillingError(
            UserErrorCode.NOT_FOUND, "There is no such user in this mandate.", "user_id"
        )


async def mandates_by_id(connection: AsyncConnection, mandate_ids: Sequence[str]) -> list[Any]:
    """Mandates that the caller may see, in the order asked; None for one that does not exist."""
    return await _by_id(connection, mandates, mandate_ids)


async def users_by_id(
    connection: AsyncConnection, viewer: Viewer, user_ids: Sequence[str]
) -> list[Any]:
    """Users in the order asked; `email` is None where the viewer may not read it."""
    administered = [
        mandate_id for mandate_id, role in viewer.roles.items() if role == MembershipRole.ADMIN
    ]
    if viewer.sees_every_mandate:
        email: Any = users.c.email
    else:
        shared = exists().where(
            memberships.c.user_id == users.c.id,
            memberships.c.left_at.is_(None),
            memberships.c.mandate_id.in_(administered),
        )
        readable = or_(users.c.id == viewer.user_id, shared if administered else false())
        email = case((readable, users.c.email)).label("email")
    others = [column for column in users.c if column.name != "email"]
    rows = await connection.execute(select(*others, email).where(users.c.id.in_(set(user_ids))))
    found = {row.id: row for row in rows}
    return [found.get(user_id) for user_id in user_ids]


async def _by_id(connection: AsyncConnection, table: Table, ids: Sequence[str]) -> list[Any]:
    rows = await connection.execute(select(table).where(table.c.id.in_(set(ids))))
    found = {row.id: row for row in rows}
    return [found.get(key) for key in ids]


async def find_mandate(database: Database, viewer: Viewer, mandate_id: str) -> Any:
    """The mandate, or None where it does not exist or is not the viewer's."""
    if not viewer.may_see(mandate_id):
        return None
    async with database.read() as connection:
        return (await mandates_by_id(connection, [mandate_id]))[0]


async def list_mandates(
    database: Database, viewer: Viewer, *, search: str | None, page: PageArguments
) -> Page:
    """The mandates the viewer may see, newest first; `search` looks at ids and names."""
    query = select(mandates)
    if not viewer.sees_every_mandate:
        query = query.where(mandates.c.id.in_(viewer.roles))
    if search is not None:
        query = query.where(contains(search, mandates.c.id, mandates.c.name))
    keyset = Keyset(
        (mandates.c.created_at, mandates.c.id), descending=True, binding=("mandates", search)
    )
    async with database.read() as connection:
        return await fetch_page(database, connection, query, keyset, page)


async def list_memberships(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    *,
    search: str | None,
    page: PageArguments,
) -> Page | None:
    """The users of a mandate, newest first, for its admins; `search` looks at ids, names and e-mail."""
    async with database.read() as connection:
        if not await sees(connection, viewer, mandate_id):
            return None
        viewer.require_admin(mandate_id)
        query = select(memberships).where(
            memberships.c.mandate_id == mandate_id, memberships.c.left_at.is_(None)
        )
        if search is not None:
            query = query.join(users, users.c.id == memberships.c.user_id).where(
                contains(search, users.c.id, users.c.first_name, users.c.last_name, users.c.email)
            )
        keyset = Keyset(
            (memberships.c.created_at, memberships.c.user_id),
            descending=True,
            binding=("memberships", mandate_id, search),
        )
        return await fetch_page(database, connection, query, keyset, page)


async def memberships_of(database: Database, user_id: str) -> Sequence[Any]:
    """The memberships of one user, by mandate id."""
    async with database.read() as connection:
        rows = await connection.execute(
            select(memberships)
            .where(memberships.c.user_id == user_id, memberships.c.left_at.is_(None))
            .order_by(memberships.c.mandate_id)
        )
        return rows.all()


@cache
def _currencies() -> frozenset[str]:
    return frozenset(currency.alpha_3 for currency in pycountry.currencies)


def check_currency(code: str) -> None:
    if code not in _currencies():
        raise invalid("currency must be an ISO 4217 code, such as CHF.", "currency")


def check_time_zone(name: str) -> None:
    if name not in time_zones():
        raise invalid("time_zone must be an IANA name, such as Europe/Zurich.", "time_zone")


@cache
def time_zones() -> frozenset[str]:
    """Every IANA name this machine knows."""
    return frozenset(available_timezones())


async def upsert_mandate(
    database: Database, viewer: Viewer, mandate_id: str, changes: Mapping[str, Any]
) -> str:
    """Creates a mandate (CHF, UTC) or changes name, currency or time_zone; returns its id.

    Currency and time zone are fixed once an account exists.
    """
    viewer.require_sys_admin()
    check_name(mandate_id, "id")
    _refuse_null(changes, "name", "currency", "time_zone")
    check_text(changes.get("name"), "name", most=MAX_NAME)
    if "currency" in changes:
        check_currency(changes["currency"])
    if "time_zone" in changes:
        check_time_zone(changes["time_zone"])

    async def unit(connection: AsyncConnection) -> None:
        now = datetime.now(UTC)
        terms = await lock_settings(connection, mandate_id, change=True)
        if terms is None:
            created = {"currency": "CHF", "time_zone": "UTC", **changes}
            await connection.execute(
                insert(mandates).values(id=mandate_id, created_at=now, **created)
            )
            await connection.execute(insert(settings).values(no_settings_yet(mandate_id, now)))
            before, after = None, created
        else:
            row = (await mandates_by_id(connection, [mandate_id]))[0]
            before, after = _difference(row, changes)
            if not after:
                return
            fixed = next((name for name in ("currency", "time_zone") if name in after), None)
            if fixed and await _has_account(connection, mandate_id):
                raise invalid(f"{fixed} is fixed once the mandate has an account.", fixed)
            await connection.execute(
                update(mandates).where(mandates.c.id == mandate_id).values(**after)
            )
        await write_audit_event(
            connection,
            viewer,
            now,
            "mandate.updated" if before else "mandate.created",
            f"mandate:{mandate_id}",
            mandate_id=mandate_id,
            before=before,
            after=after,
        )

    await database.write(unit)
    return mandate_id


async def _has_account(connection: AsyncConnection, mandate_id: str) -> bool:
    found = await connection.execute(
        select(accounts.c.id).where(accounts.c.mandate_id == mandate_id).limit(1)
    )
    return found.first() is not None


async def upsert_user(
    database: Database, viewer: Viewer, user_id: str, changes: Mapping[str, Any]
) -> str:
    """Creates a user (HUMAN, enabled, no sysadmin) or changes what is given; returns the id.

    `changes`: email, first_name, last_name (None clears), kind, is_sys_admin, enabled.
    """
    viewer.require_sys_admin()
    check_name(user_id, "id")
    _refuse_null(changes, "kind", "is_sys_admin", "enabled")
    for name in ("first_name", "last_name"):
        check_text(changes.get(name), name, most=MAX_NAME)
    if changes.get("email") is not None:
        check_email(changes["email"], "email")

    async def unit(connection: AsyncConnection) -> None:
        now = datetime.now(UTC)
        row = (
            await connection.execute(select(users).where(users.c.id == user_id).with_for_update())
        ).first()
        if row is None:
            created = {
                "email": None,
                "first_name": None,
                "last_name": None,
                "kind": UserKind.HUMAN,
                "is_sys_admin": False,
                "enabled": True,
                **changes,
            }
            await connection.execute(insert(users).values(id=user_id, created_at=now, **created))
            before, after = None, created
        else:
            before, after = _difference(row, changes)
            if not after:
                return
            await connection.execute(update(users).where(users.c.id == user_id).values(**after))
        await write_audit_event(
            connection,
            viewer,
            now,
            "user.updated" if before else "user.created",
            f"user:{user_id}",
            before=before,
            after=after,
        )

    await database.write(unit)
    return user_id


async def erase_user(database: Database, viewer: Viewer, user_id: str) -> bool:
    """Blanks the user's names and e-mail address, in the audit trail too; False if there is none.

    Account, history and id stay: the ledger must add up.
    """
    viewer.require_sys_admin()
    personal = ("email", "first_name", "last_name")

    async def unit(connection: AsyncConnection) -> bool:
        done = await connection.execute(
            update(users).where(users.c.id == user_id).values(dict.fromkeys(personal))
        )
        if not done.rowcount:
            return False
        of_user = and_(audit_events.c.mandate_id == "", audit_events.c.subject == f"user:{user_id}")
        for event in (await connection.execute(select(audit_events).where(of_user))).all():
            blanked = {
                side: document and {**document, **{n: None for n in personal if n in document}}
                for side, document in (("before", event.before), ("after", event.after))
            }
            await connection.execute(
                update(audit_events)
                .where(audit_events.c.mandate_id == "", audit_events.c.id == event.id)
                .values(blanked)
            )
        await write_audit_event(
            connection,
            viewer,
            datetime.now(UTC),
            "user.erased",
            f"user:{user_id}",
            before=None,
            after=None,
        )
        return True

    return await database.write(unit)


async def upsert_membership(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    user_id: str,
    changes: Mapping[str, Any],
) -> Any:
    """Makes a user a MEMBER of a mandate, or changes `role`; one who has left joins again.

    Returns the membership's row.
    """
    viewer.require_sys_admin(mandate_id)
    _refuse_null(changes, "role")

    async def unit(connection: AsyncConnection) -> Any:
        now = datetime.now(UTC)
        if await lock_settings(connection, mandate_id, change=True) is None:
            raise mandate_not_found()
        if (await users_by_id(connection, viewer, [user_id]))[0] is None:
            raise BillingError(UserErrorCode.NOT_FOUND, "There is no such user.", "user_id")
        this = and_(memberships.c.mandate_id == mandate_id, memberships.c.user_id == user_id)
        stored = select(memberships).where(this)
        row = (await connection.execute(stored)).first()
        before: dict[str, Any] | None = None
        if row is None or row.left_at is not None:
            after = {"role": MembershipRole.MEMBER, **changes}
            joined = {**after, "created_at": now, "left_at": None}
            if row is None:
                await connection.execute(
                    insert(memberships).values(mandate_id=mandate_id, user_id=user_id, **joined)
                )
            else:
                await connection.execute(update(memberships).where(this).values(**joined))
        else:
            before, after = _difference(row, changes)
            if not after:
                return row
            await connection.execute(update(memberships).where(this).values(**after))
        await write_audit_event(
            connection,
            viewer,
            now,
            "membership.updated" if before else "membership.created",
            f"user:{user_id}",
            mandate_id=mandate_id,
            before=before,
            after=after,
        )
        return (await connection.execute(stored)).one()

    return await database.write(unit)


async def remove_membership(
    database: Database, viewer: Viewer, mandate_id: str, user_id: str
) -> bool:
    """The user leaves; account, balance and history stay. False where there was no membership."""
    viewer.require_sys_admin(mandate_id)

    async def unit(connection: AsyncConnection) -> bool:
        now = datetime.now(UTC)
        if await lock_settings(connection, mandate_id, change=True) is None:
            raise mandate_not_found()
        this = and_(
            memberships.c.mandate_id == mandate_id,
            memberships.c.user_id == user_id,
            memberships.c.left_at.is_(None),
        )
        row = (await connection.execute(select(memberships).where(this))).first()
        if row is None:
            return False
        await connection.execute(update(memberships).where(this).values(left_at=now))
        await write_audit_event(
            connection,
            viewer,
            now,
            "membership.removed",
            f"user:{user_id}",
            mandate_id=mandate_id,
            before={"role": row.role},
            after=None,
        )
        return True

    return await database.write(unit)


def _refuse_null(changes: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if name in changes and changes[name] is None:
            raise invalid(f"{name} must not be null: leave it out to keep it as it is.", name)


def _difference(row: Any, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the changes change in a row: the values before and after."""
    changed = [name for name, value in changes.items() if getattr(row, name) != value]
    return {name: getattr(row, name) for name in changed}, {n: changes[n] for n in changed}
