"""The ledger as it is read: one transaction, and pages of them."""

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Optional

import strawberry

from app.billing import transactions
from app.billing.enums import ReferenceType, TransactionType
from app.billing.paging import PageArguments
from schema.accounts import Account
from schema.context import Info
from schema.inputs import MandateId
from schema.keys import by_key
from schema.mandates import Mandate
from schema.paging import After, Before, Connection, First, Last
from schema.transaction_page import Filter, OrderBy, transaction_page
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
        return transactions.balance_before(self)

    @strawberry.field(
        name="idempotencyKey",
        description="The key it was written under; null for those who may not administer the mandate.",
    )
    def readable_key(self, info: Info) -> str | None:
        return self.idempotency_key if info.context.viewer.may_read_keys(self.mandate_id) else None

    account = by_key(
        Account, "account", "mandate_id", "account_id", description="The account it moved."
    )

    mandate = by_key(Mandate, "mandate", "mandate_id", description="The mandate.")

    user = by_key(
        User | None,
        "user",
        "user_id",
        description="Whose call or credit it is; null where none was named.",
    )

    actor = by_key(
        User | None,
        "user",
        "actor_id",
        description="Who wrote it: an admin or a service; null for the system and the operator.",
    )

    reverses = by_key(
        Optional["Transaction"],
        "transaction",
        "mandate_id",
        "reverses_id",
        description="The transaction that this one undoes.",
    )

    reversed_by = by_key(
        Optional["Transaction"],
        "reversal",
        "mandate_id",
        "id",
        description="The transaction that undoes this one.",
    )

    @strawberry.field(
        description="The other leg of a transfer; null for those who may see their own transactions alone."
    )
    async def counterpart(self, info: Info) -> Optional["Transaction"]:
        if self.counterpart_id is None or info.context.viewer.only_user(self.mandate_id):
            return None
        return await info.context.load.transaction.load((self.mandate_id, self.counterpart_id))

    hold = by_key(
        Annotated["Hold", strawberry.lazy("schema.holds")] | None,
        "hold",
        "mandate_id",
        "hold_id",
        description="The hold it settled.",
    )


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


@strawberry.type
class TransactionQuery:
    @strawberry.field(
        description="The transactions of a mandate: all for its admins, their own for members. Newest first."
    )
    async def transactions(
        self,
        info: Info,
        mandate_id: MandateId,
        filter: Filter = None,
        order_by: OrderBy = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> TransactionConnection | None:
        page = PageArguments(first, after, last, before)
        return await transaction_page(info, mandate_id, filter, order_by, page)

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
