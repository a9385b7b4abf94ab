"""Asking, holding and settling: what the AI gateway does around each call."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, cast

import strawberry

from app.billing import holds, spending
from app.billing.enums import HoldStatus
from app.billing.errors import SpendDenial
from app.billing.holds import NewHold
from app.billing.paging import PageArguments
from schema.accounts import Account, Balance
from schema.context import Info
from schema.errors import UserError, mutation, user_errors
from schema.inputs import MandateId, given
from schema.keys import by_key
from schema.paging import After, Before, Connection, First, Last
from schema.transactions import Transaction
from schema.users import User


@strawberry.type(description="Whether a spend would be allowed now, and if not, why.")
class SpendCheck:
    allowed: bool = strawberry.field(description="Whether a hold of this amount would be granted.")
    denial: SpendDenial | None = strawberry.field(
        description="The first reason against it; null when it is allowed."
    )
    message: str = strawberry.field(
        description="For people: that it is allowed, or the reason and what to do next."
    )
    balance: Balance = strawberry.field(description="The balance it was judged on.")


@strawberry.type(
    description="Money set aside for a call. It counts as spent until it is settled, released or out of time."
)
class Hold:
    mandate_id: strawberry.Private[str]
    account_id: strawberry.Private[str]
    user_id: strawberry.Private[str]

    id: strawberry.ID = strawberry.field(description="A UUID, ordered by creation.")
    amount: Decimal = strawberry.field(description="What was set aside.")
    status: HoldStatus = strawberry.field(description="What it is now, by the database's clock.")
    settled_amount: Decimal | None = strawberry.field(
        description="What the call cost; null unless it is settled."
    )
    aicore_provider: str | None = strawberry.field(description="The AI provider, if named.")
    feature_code: str | None = strawberry.field(description="The feature that calls, if named.")
    workflow_id: str | None = strawberry.field(description="The workflow that calls, if named.")
    expires_at: datetime = strawberry.field(
        description="From then on it counts for nothing; it may still be settled."
    )
    created_at: datetime = strawberry.field(description="When the money was set aside.")

    account = by_key(
        Account,
        "account",
        "mandate_id",
        "account_id",
        description="The account it is set aside on, and will be booked to.",
    )

    user = by_key(User | None, "user", "user_id", description="Whose call it is.")

    transaction = by_key(
        Transaction | None,
        "settlement",
        "mandate_id",
        "id",
        description="The debit that settled it; null unless it is settled.",
    )


@strawberry.type(description="Holds, newest first.")
class HoldConnection(Connection[Hold]):
    pass


@strawberry.type
class HoldQuery:
    @strawberry.field(
        description="Would a spend of this amount be allowed now, and if not, why: the judgement of createHold, without writing anything. An amount of 0 asks whether anything may be spent at all. Null, too, for a user who may not spend in the mandate at all."
    )
    async def spend_check(
        self,
        info: Info,
        mandate_id: MandateId,
        amount: Annotated[
            Decimal,
            strawberry.argument(description="0 to 1,000,000, in the mandate's currency."),
        ],
        user_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(
                description="Who would spend; the viewer when left out. Only services and sysadmins may name another."
            ),
        ] = None,
        provider: Annotated[
            str | None, strawberry.argument(description="The AI provider of the call.")
        ] = None,
    ) -> SpendCheck | None:
        context = info.context
        found = await spending.check_spending(
            context.database,
            context.viewer,
            mandate_id,
            amount=amount,
            user_id=user_id,
            provider=provider,
            registered=context.providers,
        )
        if found is None:
            return None
        return SpendCheck(
            allowed=found.allowed,
            denial=found.denial,
            message=found.message,
            balance=cast("Balance", found.balance),
        )

    @strawberry.field(description="One hold; null when it is not there or not the viewer's.")
    async def hold(
        self,
        info: Info,
        mandate_id: MandateId,
        id: Annotated[strawberry.ID, strawberry.argument(description="The hold's id.")],
    ) -> Hold | None:
        return await holds.find_hold(info.context.database, info.context.viewer, mandate_id, id)

    @strawberry.field(
        description="The holds of a mandate: all for its admins, their own for members. Newest first."
    )
    async def holds(
        self,
        info: Info,
        mandate_id: MandateId,
        status: Annotated[
            HoldStatus | None, strawberry.argument(description="Only those that are so now.")
        ] = None,
        user_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Only this user's.")
        ] = None,
        account_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Only those on this account.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> HoldConnection | None:
        page = await holds.list_holds(
            info.context.database,
            info.context.viewer,
            mandate_id,
            status=status,
            user_id=user_id,
            account_id=account_id,
            page=PageArguments(first, after, last, before),
        )
        return HoldConnection(page=page) if page else None


@strawberry.input(description="Money to set aside before a call.")
class CreateHoldInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate that pays.")
    user_id: strawberry.ID = strawberry.field(description="Who calls: a user of the mandate.")
    amount: Decimal = strawberry.field(
        description="What the call may cost, in the mandate's currency: more than 0 and at most 1,000,000."
    )
    idempotency_key: str = strawberry.field(
        description="1 to 255 characters, for ever unique among the mandate's holds: sent again with the same content, it returns the same hold as it is now."
    )
    ttl_seconds: int = strawberry.field(
        description="For how long, in seconds: 1 to 86,400. Then the hold counts for nothing, and may still be settled.",
        default=900,
    )
    workflow_id: str | None = strawberry.field(description="The workflow that calls.", default=None)
    feature_code: str | None = strawberry.field(description="The feature that calls.", default=None)
    aicore_provider: str | None = strawberry.field(description="The AI provider.", default=None)


@strawberry.input(description="What a call has cost for which money was held.")
class SettleHoldInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate of the hold.")
    hold_id: strawberry.ID = strawberry.field(description="The hold: open or expired.")
    amount: Decimal = strawberry.field(
        description="Cost in the mandate's currency, 0 to 1,000,000. An amount above the hold is debited in full: the call has happened."
    )
    description: str = strawberry.field(
        description="What the history shows: 1 to 1,000 characters.", default="AI usage"
    )
    aicore_provider: str | None = strawberry.field(
        description="The AI provider; the hold's when left out.", default=None
    )
    aicore_model: str | None = strawberry.field(description="The AI model.", default=None)
    occurred_at: datetime | None = strawberry.field(
        description="When the call happened: up to 35 days back, 5 minutes ahead. Now, when left out.",
        default=None,
    )


@strawberry.input(description="A hold that is not needed any more.")
class ReleaseHoldInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate of the hold.")
    hold_id: strawberry.ID = strawberry.field(description="The hold.")


@strawberry.type
class _Held:
    user_errors: list[UserError] = user_errors()
    hold: Hold | None = strawberry.field(
        description="The hold as it is now; null when refused.", default=None
    )

    @strawberry.field(description="The balance as it is now; null when refused.")
    async def balance(self, info: Info) -> Balance | None:
        if self.hold is None:
            return None
        return await info.context.load.balance.load((self.hold.mandate_id, self.hold.user_id))


@strawberry.type(description="The hold and what it left of the balance.")
class CreateHoldPayload(_Held):
    pass


@strawberry.type(description="The hold and what it gave back to the balance.")
class ReleaseHoldPayload(_Held):
    pass


@strawberry.type(description="The settled hold, its debit and what it left of the balance.")
class SettleHoldPayload(_Held):
    transaction: Transaction | None = strawberry.field(
        description="The debit: the first one written for this hold; null when refused.",
        default=None,
    )


@strawberry.type
class HoldMutation:
    @mutation("Service or sysadmin. Sets money aside before a call.")
    async def create_hold(self, info: Info, input: CreateHoldInput) -> CreateHoldPayload:
        context = info.context
        hold = await holds.create_hold(
            context.database, context.viewer, NewHold(**given(input)), context.providers
        )
        return CreateHoldPayload(hold=hold)

    @mutation(
        "Service or sysadmin. Turns the hold into a debit of what the call cost: less gives the"
        " rest back, more is booked in full, and an expired hold is booked too. Sent again with the"
        " same content, it returns the first debit."
    )
    async def settle_hold(self, info: Info, input: SettleHoldInput) -> SettleHoldPayload:
        settled = await holds.settle_hold(
            info.context.database, info.context.viewer, **given(input)
        )
        return SettleHoldPayload(hold=settled.hold, transaction=settled.transaction)

    @mutation(
        "Service or sysadmin. Gives back what was set aside. Sent again it returns the same hold, and"
        " one whose time was over stays EXPIRED."
    )
    async def release_hold(self, info: Info, input: ReleaseHoldInput) -> ReleaseHoldPayload:
        hold = await holds.release_hold(info.context.database, info.context.viewer, **given(input))
        return ReleaseHoldPayload(hold=hold)
