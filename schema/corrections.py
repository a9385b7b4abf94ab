"""How admins put mistakes right."""

from decimal import Decimal
from typing import Any

import strawberry

from app.billing import corrections
from schema.context import Info
from schema.errors import UserError, mutation, user_errors
from schema.inputs import given
from schema.transactions import Transaction


@strawberry.input(description="A transaction to undo.")
class ReverseTransactionInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate.")
    transaction_id: strawberry.ID = strawberry.field(
        description="A USAGE, ADMIN or PAYMENT transaction that was not reversed yet."
    )
    reason: str = strawberry.field(
        description="Why, the description of the reversal: 1 to 1,000 characters."
    )
    idempotency_key: str = strawberry.field(
        description="1 to 255 characters, for ever unique within the mandate: the same key with the same content returns the first result."
    )


@strawberry.type(description="The transaction that undoes the other.")
class ReverseTransactionPayload:
    row: strawberry.Private[Any] = None
    user_errors: list[UserError] = user_errors()

    @strawberry.field(description="The reversal; null when refused.")
    def transaction(self) -> Transaction | None:
        return self.row


@strawberry.input(
    description="Money to move within a mandate. A null user stands for the mandate's own account; the receiving account is opened where it is missing."
)
class TransferCreditInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate.")
    from_user_id: strawberry.ID | None = strawberry.field(
        description="Whose account gives: a user who is or was in the mandate.", default=None
    )
    to_user_id: strawberry.ID | None = strawberry.field(
        description="Whose account receives: a user of the mandate, or one who has left, up to what they owe.",
        default=None,
    )
    amount: Decimal = strawberry.field(
        description="More than 0 and at most 1,000,000, and no more than the giving account has and does not hold."
    )
    description: str = strawberry.field(
        description="What the history of both shows: 1 to 1,000 characters.", default="Transfer"
    )
    idempotency_key: str = strawberry.field(
        description="1 to 255 characters, for ever unique within the mandate: the same key with the same content returns the first result."
    )


@strawberry.type(description="The two legs of the transfer.")
class TransferCreditPayload:
    legs: strawberry.Private[tuple[Any, Any]] = (None, None)
    user_errors: list[UserError] = user_errors()

    @strawberry.field(description="What was taken, under the key; null when refused.")
    def debit(self) -> Transaction | None:
        return self.legs[0]

    @strawberry.field(description="What was given; null when refused.")
    def credit(self) -> Transaction | None:
        return self.legs[1]


@strawberry.type
class CorrectionMutation:
    @mutation(
        "Sysadmin. Writes the opposite transaction, once. It works on disabled and unused accounts"
        " and may leave a balance below 0."
    )
    async def reverse_transaction(
        self, info: Info, input: ReverseTransactionInput
    ) -> ReverseTransactionPayload:
        row = await corrections.reverse_transaction(
            info.context.database, info.context.viewer, **given(input)
        )
        return ReverseTransactionPayload(row=row)

    @mutation("Sysadmin. Moves money between two accounts of a mandate, whichever model it has.")
    async def transfer_credit(
        self, info: Info, input: TransferCreditInput
    ) -> TransferCreditPayload:
        legs = await corrections.transfer_credit(
            info.context.database, info.context.viewer, **given(input)
        )
        return TransferCreditPayload(legs=legs)
