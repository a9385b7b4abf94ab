"""Mandates, users and memberships, kept in step with the platform that owns them."""

from app.billing.directory.enrolment import enrol
from app.billing.directory.mandates import (
    NEW_MANDATE,
    check_time_zone,
    find_mandate,
    find_visible_mandate,
    list_mandates,
    mandate_ids,
    mandates_by_id,
    set_time_zone,
    time_zones,
    upsert_mandate,
)
from app.billing.directory.memberships import (
    NEW_MEMBERSHIP,
    Member,
    list_memberships,
    members_by_user,
    memberships_of,
    no_such_member,
    remove_membership,
    require_member,
    upsert_membership,
)
from app.billing.directory.users import NEW_USER, erase_user, upsert_user, users_by_id

__all__ = [
    "NEW_MANDATE",
    "NEW_MEMBERSHIP",
    "NEW_USER",
    "Member",
    "check_time_zone",
    "enrol",
    "erase_user",
    "find_mandate",
    "find_visible_mandate",
    "list_mandates",
    "list_memberships",
    "mandate_ids",
    "mandates_by_id",
    "members_by_user",
    "memberships_of",
    "no_such_member",
    "remove_membership",
    "require_member",
    "set_time_zone",
    "time_zones",
    "upsert_mandate",
    "upsert_membership",
    "upsert_user",
    "users_by_id",
]
