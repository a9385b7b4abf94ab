"""Users: never deleted, but they can be disabled, and their personal data blanked."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

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


_SHARED = exists().where(
    memberships.c.user_id == users.c.id,
    memberships.c.left_at.is_(None),
    is_among(memberships.c.mandate_id, "administered"),
)


def _by_id(email: ColumnElement[Any]) -> Statement:
    others = [column for column in users.c if column.name != "email"]
    return Statement(select(*others, email.label("email")).where(is_among(users.c.id, "ids")))


def _where(readable: ColumnElement[bool]) -> ColumnElement[Any]:
    return case((readable, users.c.email))


_IS_VIEWER = users.c.id == bindparam("viewer_id")
_ALL_READABLE = _by_id(users.c.email)
_OWN_READABLE = _by_id(_where(_IS_VIEWER))
_SHARED_READABLE = _by_id(_where(or_(_IS_VIEWER, _SHARED)))


async def users_by_id(source: Source, viewer: Viewer, user_ids: Sequence[str]) -> list[Any]:
    """Users in the order asked; `email` is None where the viewer may not read it."""
    administered = [
        mandate_id for mandate_id, role in viewer.roles.items() if role == MembershipRole.ADMIN
    ]
    values: dict[str, Any] = {"ids": list(set(user_ids))}
    if viewer.sees_every_mandate:
        rows = await _ALL_READABLE.rows(source, **values)
    elif not administered:
        rows = await _OWN_READABLE.rows(source, **values, viewer_id=viewer.user_id)
    else:
        rows = await _SHARED_READABLE.rows(
            source, **values, viewer_id=viewer.user_id, administered=administered
        )
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
