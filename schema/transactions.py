"""The ledger as it is read: one transaction, and pages of them."""

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Optional

import strawberry

from app.billing import transactions
from app.billing.models import ReferenceType, TransactionType
from app.billing.paging import PageArguments
from app.billing.transactions import TransactionOrderField
from schema.accounts import Account
from schema.context import Info
from schema.enums import SortDirection
from schema.inputs import MandateId, given
from schema.mandates import Mandate
from schema.paging import After, Before, Connection, First, Last
from schema.users import User

if TYPE_CHECKING:
    from schema.holds import Hold


@strawberry.type(
    description="A row of the ledger. It is never changed: a mistake is undone by its opposite."
)
class Transaction:
    mandate_id: strawberry.Private[str]
    account_id: strawberry.Private[str]
    user_id: strawberry.Private[str | None]
    actor_id: strawberry.Private[str | None]
    reverses_id: strawberry.Private[str | None]
    hold_id: strawberry.Private[str | None]
    counterpart_id: strawberry.Private[str | None]
    idempotency_key: strawberry.Private[str | None]

    id: strawberry.ID = strawberry.field(description="A UUID, ordered by writing.")
    transaction_type: TransactionType = strawberry.field(
        description="Which way it moves the balance."
    )
    sequence: int = strawberry.field(
        description="Its place in its account's history, from 1, without gaps."
    )
    amount: Decimal = strawberry.field(
        description="Never negative; transactionType gives the direction."
    )
    balance_after: Decimal = strawberry.field(description="The account's balance right after it.")
    description: str = strawberry.field(description="What the history shows.")
    reference_type: ReferenceType = strawberry.field(description="What it was written for.")
    workflow_id: str | None = strawberry.field(description="The workflow that called, if named.")
    feature_code: str | None = strawberry.field(description="The feature that called, if named.")
    aicore_provider: str | None = strawberry.field(description="The AI provider, if named.")
    aicore_model: str | None = strawberry.field(description="The AI model, if named.")
    occurred_at: datetime = strawberry.field(
        description="When it happened; what statistics count by."
    )
    created_at: datetime = strawberry.field(
        description="When it was written; the order of the ledger."
    )

    @strawberry.field(description="The account's balance right before it.")
    def balance_before(self) -> Decimal:
        if self.transaction_type == TransactionType.CREDIT:
            return self.balance_after - self.amount
        return self.balance_after + self.amount

    @strawberry.field(
        name="idempotencyKey",
        description="The key it was written under; null for those who may not administer the mandate.",
    )
    def readable_key(self, info: Info) -> str | None:
        return self.idempotency_key if info.context.viewer.may_read_keys(self.mandate_id) else None

    @strawberry.field(description="The account it moved.")
    async def account(self, info: Info) -> Account:
        return await info.context.load.account.load((self.mandate_id, self.account_id))

    @strawberry.field(description="The mandate.")
    async def mandate(self, info: Info) -> Mandate:
        return await info.context.load.mandate.load(self.mandate_id)

    @strawberry.field(description="Whose call or credit it is; null where none was named.")
    async def user(self, info: Info) -> User | None:
        return await info.context.load.user.load(self.user_id) if self.user_id else None

    @strawberry.field(
        description="Who wrote it: an admin or a service; null for the system and the operator."
    )
    async def actor(self, info: Info) -> User | None:
        return await info.context.load.user.load(self.actor_id) if self.actor_id else None

    @strawberry.field(description="The transaction that this one undoes.")
    async def reverses(self, info: Info) -> Optional["Transaction"]:
        if self.reverses_id is None:
            return None
        return await info.context.load.transaction.load((self.mandate_id, self.reverses_id))

    @strawberry.field(description="The transaction that undoes this one.")
    async def reversed_by(self, info: Info) -> Optional["Transaction"]:
        return await info.context.load.reversal.load((self.mandate_id, self.id))

    @strawberry.field(
        description="The other leg of a transfer; null for those who may see their own transactions alone."
    )
    async def counterpart(self, info: Info) -> Optional["Transaction"]:
        if self.counterpart_id is None or info.context.viewer.only_user(self.mandate_id):
            return None
        return await info.context.load.transaction.load((self.mandate_id, self.counterpart_id))

    @strawberry.field(description="The hold it settled.")
    async def hold(self, info: Info) -> Annotated["Hold", strawberry.lazy("schema.holds")] | None:
        if self.hold_id is None:
            return None
        return await info.context.load.hold.load((self.mandate_id, self.hold_id))


@strawberry.type(description="Sums over all transactions that match, not over a page.")
class TransactionTotals:
    credits: Decimal = strawberry.field(description="Sum of the credits.")
    debits: Decimal = strawberry.field(description="Sum of the debits.")
    net: Decimal = strawberry.field(description="Credits less debits.")


@strawberry.type(description="Transactions, newest first unless ordered otherwise.")
class TransactionConnection(Connection[Transaction]):
    @strawberry.field(
        description="Sums over all that match the filter; computed only when asked for."
    )
    async def totals(self) -> TransactionTotals:
        return await self.page.totals()


@strawberry.input(description="What must hold for a transaction; all that is given must hold.")
class TransactionFilter:
    transaction_type: TransactionType | None = strawberry.field(
        description="Credits or debits only.", default=None
    )
    reference_type: ReferenceType | None = strawberry.field(
        description="Written for this.", default=None
    )
    user_id: strawberry.ID | None = strawberry.field(
        description="This user's calls and credits.", default=None
    )
    account_id: strawberry.ID | None = strawberry.field(
        description="Of this account.", default=None
    )
    workflow_id: str | None = strawberry.field(description="Of this workflow.", default=None)
    feature_code: str | None = strawberry.field(description="Of this feature.", default=None)
    aicore_provider: str | None = strawberry.field(description="Of this provider.", default=None)
    aicore_model: str | None = strawberry.field(description="Of this model.", default=None)
    min_amount: Decimal | None = strawberry.field(description="Amount at least this.", default=None)
    max_amount: Decimal | None = strawberry.field(description="Amount at most this.", default=None)
    created_from: datetime | None = strawberry.field(
        description="createdAt at or after this.", default=None
    )
    created_to: datetime | None = strawberry.field(
        description="createdAt before this.", default=None
    )
    occurred_from: datetime | None = strawberry.field(
        description="occurredAt at or after this: what statistics count by.", default=None
    )
    occurred_to: datetime | None = strawberry.field(
        description="occurredAt before this.", default=None
    )
    idempotency_key: str | None = strawberry.field(
        description="Written under this key. Finds nothing for those who may not administer the mandate.",
        default=None,
    )
    search: str | None = strawberry.field(
        description="Literal text within the description, whatever its case: 1 to 200 characters.",
        default=None,
    )


@strawberry.input(description="The order of a list of transactions.")
class TransactionOrder:
    field: TransactionOrderField = strawberry.field(description="What to order by.")
    direction: SortDirection = strawberry.field(description="Which end comes first.")


NEWEST_FIRST = TransactionOrder(
    field=TransactionOrderField.CREATED_AT, direction=SortDirection.DESC
)


@strawberry.type
class TransactionQuery:
    @strawberry.field(
        description="The transactions of a mandate: all for its admins, their own for members. Newest first."
    )
    async def transactions(
        self,
        info: Info,
        mandate_id: MandateId,
        filter: Annotated[
            TransactionFilter | None, strawberry.argument(description="What must hold for each.")
        ] = None,
        order_by: Annotated[
            TransactionOrder | None,
            strawberry.argument(description="CREATED_AT, DESC when left out."),
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> TransactionConnection | None:
        order = order_by or NEWEST_FIRST
        page = await transactions.list_transactions(
            info.context.database,
            info.context.viewer,
            mandate_id,
            filter=transactions.TransactionFilter(**given(filter) if filter else {}),
            order_by=order.field,
            descending=order.direction is SortDirection.DESC,
            page=PageArguments(first, after, last, before),
        )
        return TransactionConnection(page=page) if page else None

    @strawberry.field(description="One transaction; null when it is not there or not the viewer's.")
    async def transaction(
        self,
        info: Info,
        mandate_id: MandateId,
        id: Annotated[strawberry.ID, strawberry.argument(description="The transaction's id.")],
    ) -> Transaction | None:
        return await transactions.find_transaction(
            info.context.database, info.context.viewer, mandate_id, id
        )
