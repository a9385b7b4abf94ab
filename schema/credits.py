"""Money that admins put in and take out by hand."""

from decimal import Decimal
from typing import Any

import strawberry

from app.billing import credits
from app.billing.enums import ReferenceType
from schema.accounts import Account, Balance
from schema.context import Info
from schema.errors import UserError, mutation, user_errors
from schema.inputs import given
from schema.transactions import Transaction


@strawberry.input(description="Money to put on the account that pays.")
class AddCreditInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate.")
    user_id: strawberry.ID | None = strawberry.field(
        description="The member to credit: required under PREPAY_USER, refused under the other models.",
        default=None,
    )
    amount: Decimal = strawberry.field(
        description="More than 0 and at most 1,000,000, in the mandate's currency."
    )
    description: str = strawberry.field(
        description="What the history shows: 1 to 1,000 characters.", default="Manual credit"
    )
    reference_type: ReferenceType = strawberry.field(
        description="ADMIN or PAYMENT.", default=ReferenceType.ADMIN
    )
    idempotency_key: str = strawberry.field(
        description="1 to 255 characters, for ever unique within the mandate: the same key with the same content returns the first result."
    )


@strawberry.type
class _Booked:
    row: strawberry.Private[Any] = None
    user_errors: list[UserError] = user_errors()

    @strawberry.field(description="The first one written under this key; null when refused.")
    def transaction(self) -> Transaction | None:
        return self.row

    @strawberry.field(description="The account it moved; null when refused.")
    async def account(self, info: Info) -> Account | None:
        if self.row is None:
            return None
        return await info.context.load.account.load((self.row.mandate_id, self.row.account_id))

    @strawberry.field(description="The balance as it is now; null when refused.")
    async def balance(self, info: Info) -> Balance | None:
        if self.row is None:
            return None
        return await info.context.load.balance.load((self.row.mandate_id, self.row.user_id))


@strawberry.type(description="The credit and what it made of the balance.")
class AddCreditPayload(_Booked):
    pass


@strawberry.input(description="Money to take from the account that pays.")
class AddDebitInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate.")
    user_id: strawberry.ID | None = strawberry.field(
        description="The member to debit: required under PREPAY_USER, refused under the other models.",
        default=None,
    )
    amount: Decimal = strawberry.field(
        description="More than 0 and at most 1,000,000, and no more than the account has and does not hold."
    )
    description: str = strawberry.field(
        description="What the history shows: 1 to 1,000 characters."
    )
    reference_type: ReferenceType = strawberry.field(
        description="ADMIN or PAYMENT.", default=ReferenceType.ADMIN
    )
    idempotency_key: str = strawberry.field(
        description="1 to 255 characters, for ever unique within the mandate: the same key with the same content returns the first result."
    )


@strawberry.type(description="The debit and what it left of the balance.")
class AddDebitPayload(_Booked):
    pass


@strawberry.type
class CreditMutation:
    @mutation("Sysadmin. Credits a member under PREPAY_USER, else the mandate's own account.")
    async def add_credit(self, info: Info, input: AddCreditInput) -> AddCreditPayload:
        row = await credits.add_credit(info.context.database, info.context.viewer, **given(input))
        return AddCreditPayload(row=row)

    @mutation(
        "Sysadmin. Takes money out by hand: a refund paid, a correction. Never more than the account"
        " has and does not hold."
    )
    async def add_debit(self, info: Info, input: AddDebitInput) -> AddDebitPayload:
        row = await credits.add_debit(info.context.database, info.context.viewer, **given(input))
        return AddDebitPayload(row=row)
