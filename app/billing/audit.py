"""Who changed what. Written in the change's own transaction; money's own history is the ledger."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.checks import plain
from app.billing.models import audit_events
from app.billing.types import new_key
from app.billing.viewer import Viewer


async def write_audit_event(
    connection: AsyncConnection,
    viewer: Viewer,
    now: datetime,
    action: str,
    subject: str,
    *,
    mandate_id: str = "",
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    """One event. `action` is such as "settings.updated", `subject` such as "user:ID"."""
    event = audit_event(
        viewer, now, action, subject, mandate_id=mandate_id, before=before, after=after
    )
    await connection.execute(insert(audit_events).values(event))


def audit_event(
    viewer: Viewer,
    now: datetime,
    action: str,
    subject: str,
    *,
    mandate_id: str = "",
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
