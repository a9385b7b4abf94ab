"""Mandates, users and memberships that an import names: many created at once, as the upserts would."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Table, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.audit import audit_event
from app.billing.checks import check_name
from app.billing.directory.mandates import NEW_MANDATE
from app.billing.directory.memberships import NEW_MEMBERSHIP
from app.billing.directory.users import NEW_USER
from app.billing.models import audit_events, mandates, memberships, settings, users
from app.billing.settings import no_settings_yet
from app.billing.viewer import Viewer
from app.database import Database


async def enrol(database: Database, viewer: Viewer, pairs: Collection[tuple[str, str]]) -> None:
    """Creates what does not exist of these (mandate id, user id) pairs; who has left stays away."""
    viewer.require_sys_admin()
    for mandate_id, user_id in pairs:
        check_name(mandate_id, "mandate_id")
        check_name(user_id, "user_id")
    mandate_ids = {mandate_id for mandate_id, _ in pairs}
    user_ids = {user_id for _, user_id in pairs}

    async def unit(connection: AsyncConnection) -> None:
        known = await connection.execute(
            select(memberships.c.mandate_id, memberships.c.user_id).where(
                memberships.c.mandate_id.in_(mandate_ids), memberships.c.user_id.in_(user_ids)
            )
        )
        new_pairs = sorted(set(pairs) - {(row.mandate_id, row.user_id) for row in known})
        new_mandates = await _unknown(connection, mandates, mandate_ids)
        new_users = await _unknown(connection, users, user_ids)
        now = datetime.now(UTC)

        def event(noun: str, subject: str, mandate_id: str, new: Mapping[str, Any]) -> Any:
            action = f"{noun}.created"
            return audit_event(
                viewer, now, action, subject, mandate_id=mandate_id, before=None, after=new
            )

        rows: list[tuple[Table, Sequence[Mapping[str, Any]]]] = [
            (mandates, [_mandate(key) | {"id": key, "created_at": now} for key in new_mandates]),
            (settings, [no_settings_yet(key, now) for key in new_mandates]),
            (users, [{**NEW_USER, "id": key, "created_at": now} for key in new_users]),
            (
                memberships,
                [
                    {**NEW_MEMBERSHIP, "mandate_id": mandate_id, "user_id": user_id}
                    | {"created_at": now, "left_at": None}
                    for mandate_id, user_id in new_pairs
                ],
            ),
            (
                audit_events,
                [event("mandate", f"mandate:{key}", key, _mandate(key)) for key in new_mandates]
                + [event("user", f"user:{key}", "", NEW_USER) for key in new_users]
                + [
                    event("membership", f"user:{user_id}", mandate_id, NEW_MEMBERSHIP)
                    for mandate_id, user_id in new_pairs
                ],
            ),
        ]
        for table, created in rows:
            if created:
                await connection.execute(insert(table), created)

    if pairs:
        await database.write(unit)


def _mandate(mandate_id: str) -> dict[str, Any]:
    """A mandate of which only the id is known: it serves as the name."""
    return {**NEW_MANDATE, "name": mandate_id}


async def _unknown(connection: AsyncConnection, table: Table, ids: Collection[str]) -> list[str]:
    rows = await connection.execute(select(table.c.id).where(table.c.id.in_(ids)))
    return sorted(set(ids) - {row.id for row in rows})
