"""Who belongs to which mandate: the viewer's own memberships, a mandate's users, and their changes."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

import strawberry

from app.billing import directory
from app.billing.enums import MembershipRole, PeriodType
from app.billing.paging import PageArguments
from schema.accounts import Balance
from schema.context import Info
from schema.errors import UserError, mutation, user_errors
from schema.ids import joined_id
from schema.inputs import MandateId, given
from schema.keys import by_key
from schema.mandates import Mandate
from schema.paging import After, Before, Connection, First, Last
from schema.users import User


@strawberry.type(
    description="What one member may spend in each period of the mandate's time zone, and what has become of it in the current one."
)
class SpendLimit:
    amount: Decimal = strawberry.field(description="The limit, in the mandate's currency.")
    period: PeriodType = strawberry.field(description="Whether it is for each day, month or year.")
    spent: Decimal = strawberry.field(
        description="The member's cost in the current period, as statistics count it."
    )
    held: Decimal = strawberry.field(description="Set aside by the member's open holds.")
    remaining: Decimal = strawberry.field(
        description="What may still be spent: the limit less what is spent and held; never below 0, and never above the limit where reversals have taken back more than was spent."
    )
    resets_at: datetime = strawberry.field(
        description="When the next period begins: a midnight of the mandate's time zone."
    )


@strawberry.type(description="A user of a mandate.")
class Membership:
    mandate_id: strawberry.Private[str]
    user_id: strawberry.Private[str]

    role: MembershipRole = strawberry.field(description="What the user may see of the mandate.")

    @strawberry.field(description="The same for the same mandate and user.")
    def id(self) -> strawberry.ID:
        return joined_id(self.mandate_id, self.user_id)

    mandate = by_key(Mandate, "mandate", "mandate_id", description="The mandate.")

    user = by_key(User, "user", "user_id", description="The user.")

    @strawberry.field(description="The user's own balance under PREPAY_USER, else null.")
    async def balance(self, info: Info) -> Balance | None:
        balance = await info.context.load.balance.load((self.mandate_id, self.user_id))
        return balance if balance and balance.user_id else None

    spend_limit = by_key(
        SpendLimit | None,
        "spend_limit",
        "mandate_id",
        "user_id",
        description="What the user may spend in each period, whichever account pays; null where there is no limit.",
    )


@strawberry.type(description="Users of a mandate, newest first.")
class MembershipConnection(Connection[Membership]):
    pass


@strawberry.type(description="Who is asking, as the database knows them now.")
class Viewer:
    user_id: strawberry.Private[str]

    is_sys_admin: bool = strawberry.field(description="Whether they administer every mandate.")

    user = by_key(User, "user", "user_id", description="The user that the token names.")

    @strawberry.field(description="The mandates they belong to, by mandate id.")
    async def memberships(self, info: Info) -> list[Membership]:
        return list(await directory.memberships_of(info.context.database, self.user_id))


@strawberry.type
class MembershipQuery:
    @strawberry.field(description="Who is asking.")
    async def viewer(self, info: Info) -> Viewer:
        viewer = info.context.viewer
        return Viewer(user_id=viewer.user_id, is_sys_admin=viewer.is_sys_admin)

    @strawberry.field(description="For mandate admins: the users of the mandate, newest first.")
    async def mandate_users(
        self,
        info: Info,
        mandate_id: MandateId,
        search: Annotated[
            str | None,
            strawberry.argument(
                description="Literal text within id, names or e-mail address, whatever its case."
            ),
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> MembershipConnection | None:
        page = await directory.list_memberships(
            info.context.database,
            info.context.viewer,
            mandate_id,
            search=search,
            page=PageArguments(first, after, last, before),
        )
        return MembershipConnection(page=page) if page else None


@strawberry.input(description="A limit to what one member spends.")
class SpendLimitInput:
    amount: Decimal = strawberry.field(
        description="0 to 1,000,000,000 in the mandate's currency; 0 lets nothing be spent."
    )
    period: PeriodType = strawberry.field(
        description="For each day, month or year of the mandate's time zone."
    )


@strawberry.input(description="A membership to create or change.")
class UpsertMembershipInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate.")
    user_id: strawberry.ID = strawberry.field(description="The user, who must exist.")
    role: MembershipRole | None = strawberry.field(
        description="MEMBER when a new membership leaves it out.", default=strawberry.UNSET
    )
    spend_limit: SpendLimitInput | None = strawberry.field(
        description="What the member may spend in each period; null lifts it.",
        default=strawberry.UNSET,
    )


@strawberry.type(description="The membership as it is now.")
class UpsertMembershipPayload:
    membership: Membership | None = strawberry.field(description="Null when refused.", default=None)
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="A membership to end.")
class RemoveMembershipInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate.")
    user_id: strawberry.ID = strawberry.field(description="The user who leaves it.")


@strawberry.type(description="Whether there was a membership to end.")
class RemoveMembershipPayload:
    removed: bool = strawberry.field(
        description="False when the user was no member, and when refused.", default=False
    )
    user_errors: list[UserError] = user_errors()


@strawberry.type
class MembershipMutation:
    @mutation(
        "Sysadmin. Makes a user a member of a mandate, or changes the role or the spend limit."
    )
    async def upsert_membership(
        self, info: Info, input: UpsertMembershipInput
    ) -> UpsertMembershipPayload:
        membership = await directory.upsert_membership(
            info.context.database,
            info.context.viewer,
            input.mandate_id,
            input.user_id,
            given(input, "mandate_id", "user_id"),
        )
        return UpsertMembershipPayload(membership=membership)

    @mutation(
        "Sysadmin. The user leaves the mandate: account, balance and history stay, and joining"
        " again restores them."
    )
    async def remove_membership(
        self, info: Info, input: RemoveMembershipInput
    ) -> RemoveMembershipPayload:
        removed = await directory.remove_membership(
            info.context.database, info.context.viewer, input.mandate_id, input.user_id
        )
        return RemoveMembershipPayload(removed=removed)
