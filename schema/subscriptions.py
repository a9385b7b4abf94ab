"""What can be watched: the balances and transactions that the queries of these names show, as they change."""

from collections.abc import AsyncIterator
from typing import Annotated, cast

import strawberry

from app.billing import changes
from schema.accounts import Balance
from schema.context import Info
from schema.inputs import BalanceOwner
from schema.transactions import Transaction

Watched = Annotated[
    strawberry.ID,
    strawberry.argument(
        description="Id of the mandate. Where it does not exist, or is not the viewer's, the stream ends at once."
    ),
]


@strawberry.type(
    description="What can be watched, over graphql-transport-ws or server-sent events. Who asks and what they may see is looked at again for every event; a stream ends, without an error, where the mandate does not exist or is not, or no longer, the viewer's. After UNAVAILABLE, read anew and subscribe again."
)
class Subscription:
    @strawberry.subscription(
        description="The balance that `balance` shows: at once, and again whenever it changes, at most four times a second. What changes by the clock alone, such as a hold whose time is over, is seen within 10 seconds."
    )
    async def balance_changed(
        self, info: Info, mandate_id: Watched, user_id: BalanceOwner = None
    ) -> AsyncIterator[Balance]:
        found = changes.balance_changes(
            info.context.database, info.context.look, mandate_id, user_id
        )
        return cast("AsyncIterator[Balance]", found)

    @strawberry.subscription(
        description="Every transaction that is written from now on and that `transactions` would show, once. Several processes write: `sequence` tells the order within an account. A client that falls 5,000 behind is dropped with UNAVAILABLE."
    )
    async def transaction_added(
        self, info: Info, mandate_id: Watched
    ) -> AsyncIterator[Transaction]:
        found = changes.added_transactions(info.context.database, info.context.look, mandate_id)
        return cast("AsyncIterator[Transaction]", found)
