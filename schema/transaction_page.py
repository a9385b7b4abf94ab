"""What every list of transactions takes and how it is found, whichever type has the field."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import strawberry

from app.billing import transactions
from app.billing.enums import ReferenceType, TransactionType
from app.billing.paging import PageArguments
from app.billing.transactions import SortDirection, TransactionOrderField
from schema.context import Info
from schema.inputs import given
from schema.paging import Connection
from schema.planning import asked


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


Filter = Annotated[
    TransactionFilter | None, strawberry.argument(description="What must hold for each.")
]
OrderBy = Annotated[
    TransactionOrder | None,
    strawberry.argument(
        description="When left out, newest first: by OCCURRED_AT where the filter bounds occurredAt, else by CREATED_AT."
    ),
]


async def transaction_page(
    info: Info,
    mandate_id: str,
    filter: TransactionFilter | None,
    order: TransactionOrder | None,
    page: PageArguments,
) -> Any:
    """A TransactionConnection, or None where the mandate is not the viewer's."""
    wanted = asked(info, "nodes", "edges.node")
    found = await transactions.list_transactions(
        info.context.database,
        info.context.viewer,
        mandate_id,
        filter=transactions.TransactionFilter(**given(filter)),
        order_by=order.field if order else None,
        descending=order is None or order.direction is SortDirection.DESC,
        page=page,
        columns=wanted.attributes if wanted.are_all else None,
        with_users="user_id" in wanted.attributes,
    )
    if found is None:
        return None
    info.context.load.user.known.update(found.users)
    return Connection(page=found)
