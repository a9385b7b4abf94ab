"""Memberships: who belongs to which mandate. One who leaves keeps account, balance and history."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import and_, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.audit import write_audit_event
from app.billing.checks import check_limit, difference, refuse_null
from app.billing.directory.users import users_by_id
from app.billing.enums import MembershipRole, PeriodType
from app.billing.errors import BillingError, UserErrorCode
from app.billing.models import memberships, users
from app.billing.paging import Keyset, Page, PageArguments, contains, fetch_page, pattern_of
from app.billing.settings import lock_settings
from app.billing.types import is_among
from app.billing.viewer import Viewer, sees
from app.database import Database
from app.statements import Statement

NEW_MEMBERSHIP = {"role": MembershipRole.MEMBER}
"""What a new membership has where nothing else is given."""


@dataclass(frozen=True, slots=True)
class Member:
    """A user of a mandate, or one who has left it."""

    has_left: bool
    enabled: bool
    spend_limit: Decimal | None
    spend_period: PeriodType | None

    @property
    def may_spend(self) -> bool:
        return self.enabled and not self.has_left


_MEMBERS = Statement(
    select(
        memberships.c.user_id,
        memberships.c.left_at,
        memberships.c.spend_limit,
        memberships.c.spend_period,
        users.c.enabled,
    )
    .join_from(memberships, users, users.c.id == memberships.c.user_id)
    .where(
        memberships.c.mandate_id == bindparam("mandate_id"),
        is_among(memberships.c.user_id, "user_ids"),
    )
)


async def members_by_user(
    connection: AsyncConnection, mandate_id: str, user_ids: Collection[str]
) -> dict[str, Member]:
    """Those of the users who belong to the mandate or once did."""
    rows = await _MEMBERS.rows(connection, mandate_id=mandate_id, user_ids=list(user_ids))
    return {
        row.user_id: Member(row.left_at is not None, row.enabled, row.spend_limit, row.spend_period)
        for row in rows
    }


async def require_member(connection: AsyncConnection, mandate_id: str, user_id: str) -> None:
    """NOT_FOUND unless the user belongs to the mandate now."""
    member = (await members_by_user(connection, mandate_id, [user_id])).get(user_id)
    if member is None or member.has_left:
        raise no_such_member()


def no_such_member() -> BillingError:
    return BillingError(
        UserErrorCode.NOT_FOUND, "There is no such user in this mandate.", "user_id"
    )


async def list_memberships(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    *,
    search: str | None,
    page: PageArguments,
) -> Page | None:
    """The users of a mandate, newest first, for its admins; `search` looks at ids, names and e-mail."""

    async def read(connection: AsyncConnection) -> Page | None:
        if not await sees(connection, viewer, mandate_id):
            return None
        viewer.require_admin(mandate_id)
        query = select(memberships).where(
            memberships.c.mandate_id == mandate_id, memberships.c.left_at.is_(None)
        )
        if search is not None:
            query = query.join(users, users.c.id == memberships.c.user_id).where(
                contains(
                    pattern_of(search),
                    users.c.id,
                    users.c.first_name,
                    users.c.last_name,
                    users.c.email,
                )
            )
        keyset = Keyset(
            (memberships.c.created_at, memberships.c.user_id),
            descending=True,
            binding=("memberships", mandate_id, search),
        )
        return await fetch_page(database, connection, query, keyset, page)

    return await database.reader.consult(read)


async def memberships_of(database: Database, user_id: str) -> Sequence[Any]:
    """The memberships of one user, by mandate id."""
    async with database.read() as connection:
        rows = await connection.execute(
            select(memberships)
            .where(memberships.c.user_id == user_id, memberships.c.left_at.is_(None))
            .order_by(memberships.c.mandate_id)
        )
        return rows.all()


async def upsert_membership(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    user_id: str,
    changes: Mapping[str, Any],
) -> Any:
    """Makes a user a MEMBER of a mandate, or changes `role` or `spend_limit`.

    A limit is {"amount", "period"}, or None for none. One who has left joins again, as a MEMBER
    unless a role is given and under the limit they had. Returns the membership's row.
    """
    viewer.require_sys_admin(mandate_id)
    changes = _columns(changes)
    refuse_null(changes, memberships)

    async def unit(connection: AsyncConnection) -> Any:
        now = datetime.now(UTC)
        await lock_settings(connection, mandate_id, change=True)
        if (await users_by_id(connection, viewer, [user_id]))[0] is None:
            raise BillingError(UserErrorCode.NOT_FOUND, "There is no such user.", "user_id")
        this = and_(memberships.c.mandate_id == mandate_id, memberships.c.user_id == user_id)
        stored = select(memberships).where(this)
        row = (await connection.execute(stored)).first()
        before: dict[str, Any] | None = None
        if row is None or row.left_at is not None:
            after = {**NEW_MEMBERSHIP, **changes}
            joined = {**after, "created_at": now, "left_at": None}
            if row is None:
                await connection.execute(
                    insert(memberships).values(mandate_id=mandate_id, user_id=user_id, **joined)
                )
            else:
                await connection.execute(update(memberships).where(this).values(**joined))
        else:
            before, after = difference(row, changes)
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


def _columns(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes as the table has them: a limit is two columns there."""
    columns = dict(changes)
    if "spend_limit" in columns:
        limit = columns["spend_limit"] or {"amount": None, "period": None}
        check_limit(limit["amount"], "spend_limit", "amount")
        columns |= {"spend_limit": limit["amount"], "spend_period": limit["period"]}
    return columns


async def remove_membership(
    database: Database, viewer: Viewer, mandate_id: str, user_id: str
) -> bool:
    """The user leaves; account, balance and history stay. False where there was no membership."""
    viewer.require_sys_admin(mandate_id)

    async def unit(connection: AsyncConnection) -> bool:
        now = datetime.now(UTC)
        await lock_settings(connection, mandate_id, change=True)
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
