"""Mandates, and the directory mutation that keeps them."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import strawberry

from app.billing import directory
from app.billing.paging import PageArguments
from schema.context import Info
from schema.errors import UserError, mutation, user_errors
from schema.inputs import BalanceOwner, given
from schema.paging import After, Before, Connection, First, Last
from schema.scalars import CurrencyCode, TimeZone
from schema.statistics import Month, Period, Statistics, WhichUsage, Year, Zone, find_statistics
from schema.transaction_page import Filter, OrderBy, transaction_page

if TYPE_CHECKING:
    from schema.accounts import Balance
    from schema.transactions import TransactionConnection


@strawberry.type(description="A tenant of the platform.")
class Mandate:
    id: strawberry.ID = strawberry.field(description="The platform's own id.")
    name: str = strawberry.field(description="What people call it.")
    currency: CurrencyCode = strawberry.field(
        description="Of every amount of the mandate; fixed once an account exists."
    )
    time_zone: TimeZone = strawberry.field(
        description="Whose days, months and years its statistics count; once an account exists, only the operator changes it."
    )
    created_at: datetime = strawberry.field(description="When the mandate was created here.")

    @strawberry.field(description="As the root field `statistics`.")
    async def statistics(
        self,
        info: Info,
        period: Period,
        year: Year,
        month: Month = None,
        time_zone: Zone = None,
        filter: WhichUsage = None,
    ) -> Statistics | None:
        return await find_statistics(info, self.id, period, year, month, time_zone, filter)

    @strawberry.field(
        description="As the root field `balance`; null, too, where nobody is named and the viewer has no balance of their own."
    )
    async def balance(
        self, info: Info, user_id: BalanceOwner = None
    ) -> Annotated["Balance", strawberry.lazy("schema.accounts")] | None:
        return await info.context.load.visible_balance.load((self.id, user_id))

    @strawberry.field(description="As the root field `transactions`.")
    async def transactions(
        self,
        info: Info,
        filter: Filter = None,
        order_by: OrderBy = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Annotated["TransactionConnection", strawberry.lazy("schema.transactions")] | None:
        page = PageArguments(first, after, last, before)
        return await transaction_page(info, self.id, filter, order_by, page)


@strawberry.type(description="Mandates, newest first.")
class MandateConnection(Connection[Mandate]):
    pass


@strawberry.type
class MandateQuery:
    @strawberry.field(
        description="One mandate; null when it does not exist or is not the viewer's."
    )
    async def mandate(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The mandate's id.")],
    ) -> Mandate | None:
        return await directory.find_mandate(info.context.database, info.context.viewer, id)

    @strawberry.field(
        description="The mandates the viewer may see: their own, or all for services and sysadmins. Newest first."
    )
    async def mandates(
        self,
        info: Info,
        search: Annotated[
            str | None,
            strawberry.argument(description="Literal text within id or name, whatever its case."),
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> MandateConnection:
        page = await directory.list_mandates(
            info.context.database,
            info.context.viewer,
            search=search,
            page=PageArguments(first, after, last, before),
        )
        return MandateConnection(page=page)


@strawberry.input(description="A mandate to create or change. What is left out stays as it is.")
class UpsertMandateInput:
    id: strawberry.ID = strawberry.field(
        description="The platform's id: 1 to 128 printable characters. Creates the mandate where it is new."
    )
    name: str = strawberry.field(description="What people call it: 1 to 200 characters.")
    currency: CurrencyCode | None = strawberry.field(
        description="ISO 4217 code; CHF when a new mandate leaves it out. Fixed once an account exists.",
        default=strawberry.UNSET,
    )
    time_zone: TimeZone | None = strawberry.field(
        description="IANA name; UTC when a new mandate leaves it out. Fixed once an account exists.",
        default=strawberry.UNSET,
    )


@strawberry.type(description="The mandate as it is now.")
class UpsertMandatePayload:
    mandate: Mandate | None = strawberry.field(description="Null when refused.", default=None)
    user_errors: list[UserError] = user_errors()


@strawberry.type
class MandateMutation:
    @mutation("Sysadmin. Creates a mandate or changes what is given.")
    async def upsert_mandate(self, info: Info, input: UpsertMandateInput) -> UpsertMandatePayload:
        context = info.context
        mandate_id = await directory.upsert_mandate(
            context.database, context.viewer, input.id, given(input, "id")
        )
        return UpsertMandatePayload(mandate=await context.load.mandate.load(mandate_id))
