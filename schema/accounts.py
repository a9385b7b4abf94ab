"""Accounts and balances, and what admins change of an account."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, cast

import strawberry

from app.billing import accounts
from app.billing.enums import AccountType, BillingModel
from app.billing.paging import PageArguments
from schema.context import Info
from schema.errors import UserError, mutation, user_errors
from schema.ids import joined_id
from schema.inputs import BalanceOwner, MandateId, given
from schema.keys import by_key
from schema.mandates import Mandate
from schema.paging import After, Before, Connection, First, Last
from schema.scalars import CurrencyCode
from schema.users import User


@strawberry.type(
    description="What pays. It is opened by the first transaction, hold or credit that needs it."
)
class Account:
    mandate_id: strawberry.Private[str]
    user_id: strawberry.Private[str | None]

    id: strawberry.ID = strawberry.field(description="A UUID, ordered by opening.")
    account_type: AccountType = strawberry.field(description="Whose account it is.")
    currency: CurrencyCode = strawberry.field(description="The mandate's currency.")
    balance: Decimal = strawberry.field(
        description="Sum of its transactions: credits less debits. Negative when money is owed."
    )
    held: Decimal = strawberry.field(description="Set aside by open holds.")
    available: Decimal | None = strawberry.field(
        description="What may still be spent from it; null under UNLIMITED, and under CREDIT_POSTPAY without a limit."
    )
    credit_limit: Decimal | None = strawberry.field(
        description="Its own credit limit under CREDIT_POSTPAY; null where the settings' applies."
    )
    warning_threshold: Decimal = strawberry.field(
        description="warningThresholdPercent of the balance right after the latest credit that is no reversal (of the credit limit under CREDIT_POSTPAY), rounded down to 9 digits and never below 0."
    )
    is_warning: bool = strawberry.field(
        description="Whether available has come down to the threshold; false when available is null."
    )
    enabled: bool = strawberry.field(description="Nothing is spent from a disabled account.")
    created_at: datetime = strawberry.field(description="When it was opened.")

    mandate = by_key(Mandate, "mandate", "mandate_id", description="The mandate it belongs to.")

    user = by_key(
        User | None,
        "user",
        "user_id",
        description="Its owner, for an account of type USER; else null.",
    )

    @strawberry.field(
        description="The balance as it was at that instant: after the last transaction whose createdAt is not later, 0 before the first."
    )
    async def balance_at(
        self,
        info: Info,
        at: Annotated[datetime, strawberry.argument(description="The instant, included.")],
    ) -> Decimal:
        return await info.context.load.balance_at.load((self.mandate_id, self.id, at))


@strawberry.type(description="Accounts of a mandate, newest first.")
class AccountConnection(Connection[Account]):
    @strawberry.field(description="Sum of the balances of all that match, not of this page.")
    async def total_balance(self) -> Decimal:
        return (await self.page.totals()).balance

    @strawberry.field(description="Sum of what is held on all that match, not on this page.")
    async def total_held(self) -> Decimal:
        return (await self.page.totals()).held


@strawberry.type(
    description="How long a balance will last, from the usage of its user under PREPAY_USER, of the whole mandate otherwise, for members too: it is their balance."
)
class Forecast:
    daily_cost_7: Decimal = strawberry.field(
        description="Mean cost of the last 7 days, today left out; rounded half-even to 9 digits."
    )
    daily_cost_30: Decimal = strawberry.field(
        description="Mean cost of the last 30 days, today left out; rounded half-even to 9 digits."
    )
    empty_on: date | None = strawberry.field(
        description="The day on which nothing is left of available at the pace of the last 7 days; today when nothing is left now. Null when available is null, when the last 7 days cost nothing, or when it lasts over a hundred years."
    )


@strawberry.type(
    description="What a user may spend in a mandate, whether the paying account is open yet or not."
)
class Balance:
    mandate_id: strawberry.Private[str]
    user_id: strawberry.Private[str | None]
    account_id: strawberry.Private[str | None]

    billing_model: BillingModel = strawberry.field(
        description="The mandate's; UNLIMITED while it has no settings."
    )
    currency: CurrencyCode = strawberry.field(description="The mandate's currency.")
    balance: Decimal = strawberry.field(
        description="Sum of the account's transactions, 0 while none is open. Negative when money is owed, and under UNLIMITED, where it is the running total of usage."
    )
    held: Decimal = strawberry.field(description="Set aside by open holds.")
    available: Decimal | None = strawberry.field(
        description="What may still be spent, the default credit of an account not yet opened included; null under UNLIMITED, and under CREDIT_POSTPAY without a limit."
    )
    credit_limit: Decimal | None = strawberry.field(
        description="The limit in force; null except under CREDIT_POSTPAY."
    )
    warning_threshold: Decimal = strawberry.field(
        description="warningThresholdPercent of the balance right after the latest credit that is no reversal (of the credit limit under CREDIT_POSTPAY), rounded down to 9 digits and never below 0."
    )
    is_warning: bool = strawberry.field(
        description="Whether available has come down to the threshold; false when available is null."
    )
    as_of: datetime = strawberry.field(description="When this balance was read.")

    @strawberry.field(description="How long it will last; null under UNLIMITED.")
    async def forecast(self, info: Info) -> Forecast | None:
        if self.billing_model == BillingModel.UNLIMITED:
            return None
        pace = await info.context.load.pace.load((self.mandate_id, self.user_id))
        return cast("Forecast", pace.forecast(self.available))

    @strawberry.field(description="The same for the same mandate and user; for client caches.")
    def id(self) -> strawberry.ID:
        return joined_id(self.mandate_id, self.user_id)

    mandate = by_key(Mandate, "mandate", "mandate_id", description="The mandate.")

    account = by_key(
        Account | None,
        "account",
        "mandate_id",
        "account_id",
        description="The account that pays; null while none has been opened.",
    )

    user = by_key(
        User | None,
        "user",
        "user_id",
        description="The user whose balance it is under PREPAY_USER, else null.",
    )


@strawberry.type
class AccountQuery:
    @strawberry.field(
        description="One balance for each mandate the viewer belongs to, by mandate id."
    )
    async def balances(self, info: Info) -> list[Balance]:
        found = await accounts.list_balances(info.context.database, info.context.viewer)
        return cast("list[Balance]", found)

    @strawberry.field(
        description="One balance: the user's under PREPAY_USER, else the mandate's own."
    )
    async def balance(
        self,
        info: Info,
        mandate_id: MandateId,
        user_id: BalanceOwner = None,
    ) -> Balance | None:
        found = await accounts.find_balance(
            info.context.database, info.context.viewer, mandate_id, user_id
        )
        return cast("Balance | None", found)

    @strawberry.field(description="For mandate admins: the accounts of the mandate, newest first.")
    async def accounts(
        self,
        info: Info,
        mandate_id: MandateId,
        user_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Only this user's account.")
        ] = None,
        enabled: Annotated[
            bool | None, strawberry.argument(description="Only enabled or only disabled ones.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> AccountConnection | None:
        page = await accounts.list_accounts(
            info.context.database,
            info.context.viewer,
            mandate_id,
            user_id=user_id,
            enabled=enabled,
            page=PageArguments(first, after, last, before),
        )
        return AccountConnection(page=page) if page else None


@strawberry.input(description="What to change of an account. What is left out stays as it is.")
class UpdateAccountInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate of the account.")
    account_id: strawberry.ID = strawberry.field(description="The account.")
    enabled: bool | None = strawberry.field(
        description="Nothing is spent from a disabled account; null is refused.",
        default=strawberry.UNSET,
    )
    credit_limit: Decimal | None = strawberry.field(
        description="The account's own credit limit under CREDIT_POSTPAY, 0 or more; null clears it, so that the settings' applies.",
        default=strawberry.UNSET,
    )


@strawberry.type(description="The account as it is now.")
class UpdateAccountPayload:
    account: Account | None = strawberry.field(description="Null when refused.", default=None)
    user_errors: list[UserError] = user_errors()


@strawberry.type
class AccountMutation:
    @mutation("Sysadmin. Enables or disables an account, or sets its own credit limit.")
    async def update_account(self, info: Info, input: UpdateAccountInput) -> UpdateAccountPayload:
        context = info.context
        key = await accounts.update_account(
            context.database,
            context.viewer,
            input.mandate_id,
            input.account_id,
            given(input, "mandate_id", "account_id"),
        )
        return UpdateAccountPayload(account=await context.load.account.load(key))
