"""Who changed what. Written in the change's own transaction; money's own history is the ledger."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.checks import plain
from app.billing.models import audit_events
from app.billing.paging import Keyset, Page, PageArguments, check_argument, fetch_page
from app.billing.types import ID_LENGTH, first_key, new_key
from app.billing.viewer import Viewer, sees
from app.database import Database
from app.feed import note

NO_MANDATE = ""
"""The mandate of events that concern none: users as such."""
_MAX_SUBJECT = len("transaction:") + ID_LENGTH


async def write_audit_event(
    connection: AsyncConnection,
    viewer: Viewer,
    now: datetime,
    action: str,
    subject: str,
    *,
    mandate_id: str = NO_MANDATE,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    """One event. `action` is such as "settings.updated", `subject` such as "user:ID"."""
    event = audit_event(
        viewer, now, action, subject, mandate_id=mandate_id, before=before, after=after
    )
    await connection.execute(insert(audit_events).values(event))
    note_event(connection, event)


def note_event(connection: AsyncConnection, event: Mapping[str, Any]) -> None:
    """Tells those who watch the mandate, or the user, that an admin has changed something of it."""
    kind, _, subject = event["subject"].partition(":")
    if event["mandate_id"] != NO_MANDATE:
        note(connection, event["mandate_id"])
    elif kind == "user":
        note(connection, NO_MANDATE, subject)


def audit_event(
    viewer: Viewer,
    now: datetime,
    action: str,
    subject: str,
    *,
    mandate_id: str = NO_MANDATE,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The row of one event, for those who write many at once."""
    return {
        "mandate_id": mandate_id,
        "id": new_key(now),
        "actor_id": viewer.actor_id,
        "action": action,
        "subject": subject,
        "before": _document(before),
        "after": _document(after),
        "created_at": now,
    }


def _document(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if values is None else {name: plain(value) for name, value in values.items()}


async def list_audit_events(
    database: Database,
    viewer: Viewer,
    mandate_id: str | None,
    *,
    actor_id: str | None,
    subject: str | None,
    created_from: datetime | None,
    created_to: datetime | None,
    page: PageArguments,
) -> Page | None:
    """A mandate's events for its admins, newest first; without a mandate those that concern none.

    The latter are for sysadmins. None where the mandate does not exist or is not the viewer's.
    """
    check_argument(subject, "subject", _MAX_SUBJECT)
    if mandate_id is None:
        viewer.require_sys_admin()
    columns = audit_events.c
    of_mandate = columns.mandate_id == (NO_MANDATE if mandate_id is None else mandate_id)
    query = select(audit_events).where(of_mandate)
    if actor_id is not None:
        query = query.where(columns.actor_id == actor_id)
    if subject is not None:
        query = query.where(columns.subject == subject)
    # Ids are UUIDv7 of created_at: a range of the one is a range of the other, and has the index.
    if created_from is not None:
        query = query.where(columns.id >= first_key(created_from))
    if created_to is not None:
        query = query.where(columns.id < first_key(created_to))
    keyset = Keyset(
        (columns.id,),
        descending=True,
        binding=("auditLog", mandate_id, actor_id, subject, created_from, created_to),
    )

    async def read(connection: AsyncConnection) -> Page | None:
        if mandate_id is not None:  # "" is a mandate that does not exist
            if not await sees(connection, viewer, mandate_id):
                return None
            viewer.require_admin(mandate_id)
        return await fetch_page(database, connection, query, keyset, page)

    return await database.reader.consult(read)
