"""Users: never deleted, but they can be disabled, and their personal data blanked."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, bindparam, case, exists, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.audit import write_audit_event
from app.billing.checks import check_email, check_name, check_text, difference, refuse_null
from app.billing.enums import MembershipRole, UserKind
from app.billing.models import audit_events, memberships, users
from app.billing.types import is_among
from app.billing.viewer import Viewer
from app.database import Database
from app.statements import Source, Statement

NEW_USER = {
    "email": None,
    "first_name": None,
    "last_name": None,
    "kind": UserKind.HUMAN,
    "is_sys_admin": False,
    "enabled": True,
}
"""What a new user has where nothing else is given."""


class ShownUser(NamedTuple):
    """A user as a viewer sees one."""

    id: str
    email: str | None
    first_name: str | None
    last_name: str | None
    kind: UserKind


_IS_VIEWER = users.c.id == bindparam("viewer_id")
_IS_ADMINISTERED = exists().where(
    memberships.c.user_id == users.c.id,
    memberships.c.left_at.is_(None),
    is_among(memberships.c.mandate_id, "administered"),
)
EMAILS: Mapping[str, ColumnElement[Any]] = {
    "all": users.c.email,
    "own": case((_IS_VIEWER, users.c.email)),
    "administered": case((or_(_IS_VIEWER, _IS_ADMINISTERED), users.c.email)),
}
"""E-mail addresses, but for those that a viewer may not read: see `readable_emails`."""
_OTHERS = [column for column in users.c if column.name != "email"]
_BY_ID = {
    readable: Statement(select(*_OTHERS, email.label("email")).where(is_among(users.c.id, "ids")))
    for readable, email in EMAILS.items()
}


def shown_columns(readable: str) -> list[ColumnElement[Any]]:
    """The columns of a ShownUser, to be read with rows of another table."""
    columns = {**users.c, "email": EMAILS[readable]}
    return [columns[name].label(f"{name}_of_user") for name in ShownUser._fields]


def readable_emails(viewer: Viewer) -> tuple[str, dict[str, Any]]:
    """Which of EMAILS the viewer may read, and the values in it."""
    if viewer.sees_every_mandate:
        return "all", {}
    administered = [
        mandate_id for mandate_id, role in viewer.roles.items() if role == MembershipRole.ADMIN
    ]
    if not administered:
        return "own", {"viewer_id": viewer.user_id}
    return "administered", {"viewer_id": viewer.user_id, "administered": administered}


async def users_by_id(source: Source, viewer: Viewer, user_ids: Sequence[str]) -> list[Any]:
    """Users in the order asked; `email` is None where the viewer may not read it."""
    readable, values = readable_emails(viewer)
    rows = await _BY_ID[readable].rows(source, ids=list(set(user_ids)), **values)
    found = {row.id: row for row in rows}
    return [found.get(user_id) for user_id in user_ids]


async def upsert_user(
    database: Database, viewer: Viewer, user_id: str, changes: Mapping[str, Any]
) -> str:
    """Creates a user (HUMAN, enabled, no sysadmin) or changes what is given; returns the id.

    `changes`: email, first_name, last_name (None clears), kind, is_sys_admin, enabled.
    """
    viewer.require_sys_admin()
    check_name(user_id, "id")
    refuse_null(changes, users)
    for name in ("first_name", "last_name"):
        check_text(changes.get(name), name, most=200)
    if changes.get("email") is not None:
        check_email(changes["email"], "email")

    async def unit(connection: AsyncConnection) -> None:
        now = datetime.now(UTC)
        row = (
            await connection.execute(select(users).where(users.c.id == user_id).with_for_update())
        ).first()
        if row is None:
            created = {**NEW_USER, **changes}
            await connection.execute(insert(users).values(id=user_id, created_at=now, **created))
            before, after = None, created
        else:
            before, after = difference(row, changes)
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
