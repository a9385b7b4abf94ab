"""Who asks, and what they may see and do. Read from the database on every request, never from a token."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, bindparam, select

from app.billing.enums import MembershipRole, UserKind
from app.billing.errors import BillingError, Forbidden, Unauthenticated, UserErrorCode
from app.billing.models import mandates, memberships, users
from app.statements import Source, Statement


class OwnMandate(NamedTuple):
    """A mandate that the viewer belongs to."""

    id: str
    name: str
    currency: str
    time_zone: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Viewer:
    """A known, enabled user with the roles held right now."""

    user_id: str
    is_sys_admin: bool = False
    is_service: bool = False
    roles: Mapping[str, MembershipRole] = field(default_factory=dict)
    """The role in each mandate the viewer belongs to, by mandate id."""
    mandates: Mapping[str, "OwnMandate"] = field(default_factory=dict, compare=False)
    """Those mandates, as they were when the roles were read; empty once something has been changed."""

    @property
    def actor_id(self) -> str | None:
        """Who is named as the author of a row; None for the operator."""
        return self.user_id or None

    @property
    def sees_every_mandate(self) -> bool:
        return self.is_sys_admin or self.is_service

    def may_see(self, mandate_id: str) -> bool:
        """False also where the mandate does not exist, but for those who see every mandate."""
        return self.sees_every_mandate or mandate_id in self.roles

    def administers(self, mandate_id: str) -> bool:
        return self.is_sys_admin or self.roles.get(mandate_id) is MembershipRole.ADMIN

    def may_read_keys(self, mandate_id: str) -> bool:
        """Idempotency keys are for those who may administer the mandate."""
        return self.administers(mandate_id)

    def only_user(self, mandate_id: str) -> str | None:
        """The one user whose rows the viewer may see there; None for all of the mandate's."""
        if self.sees_every_mandate or self.administers(mandate_id):
            return None
        return self.user_id

    def require_admin(self, mandate_id: str) -> None:
        """For what the admins of a visible mandate may read."""
        if not self.administers(mandate_id):
            raise Forbidden("Only an admin of this mandate or a sysadmin may see this.")

    def require_sys_admin(self, mandate_id: str | None = None) -> None:
        """For admin changes. A mandate that is not the viewer's answers as if it did not exist."""
        if mandate_id is not None and not self.may_see(mandate_id):
            raise mandate_not_found()
        if not self.is_sys_admin:
            raise Forbidden("Only a sysadmin may do this.")

    def require_gateway(self) -> None:
        """For spending on behalf of users."""
        if not (self.is_service or self.is_sys_admin):
            raise Forbidden("Only a service or a sysadmin may do this.")


OPERATOR = Viewer(user_id="", is_sys_admin=True)
"""Whoever runs the command line on the server."""


def mandate_not_found() -> BillingError:
    return BillingError(UserErrorCode.NOT_FOUND, "There is no such mandate.", "mandate_id")


_VIEWER = Statement(
    select(
        users.c.id,
        users.c.kind,
        users.c.is_sys_admin,
        users.c.enabled,
        memberships.c.role,
        *(mandates.c[name].label(f"mandate_{name}") for name in OwnMandate._fields),
    )
    .outerjoin_from(
        users,
        memberships,
        and_(memberships.c.user_id == users.c.id, memberships.c.left_at.is_(None)),
    )
    .outerjoin(mandates, mandates.c.id == memberships.c.mandate_id)
    .where(users.c.id == bindparam("user_id"))
)


_MANDATE = Statement(select(mandates.c.id).where(mandates.c.id == bindparam("mandate_id")))


async def load_viewer(source: Source, user_id: str) -> Viewer:
    """The user that a token names, with all roles; Unauthenticated when unknown or disabled."""
    rows = await _VIEWER.rows(source, user_id=user_id)
    if not rows or not rows[0].enabled:
        raise Unauthenticated("The token's user is unknown or disabled.")
    own = [row for row in rows if row.role]
    return Viewer(
        user_id=rows[0].id,
        is_sys_admin=rows[0].is_sys_admin,
        is_service=rows[0].kind == UserKind.SERVICE,
        roles={row.mandate_id: MembershipRole(row.role) for row in own},
        mandates={row.mandate_id: OwnMandate(*row[-len(OwnMandate._fields) :]) for row in own},
    )


async def sees(source: Source, viewer: Viewer, mandate_id: str) -> bool:
    """Whether the mandate exists and is the viewer's; asks the database only where it must."""
    if not viewer.may_see(mandate_id):
        return False
    if mandate_id in viewer.roles:
        return True
    return await _MANDATE.first(source, mandate_id=mandate_id) is not None
