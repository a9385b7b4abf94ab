"""What proves the books: the ledger computed again, and the trail of who changed what."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, cast

import orjson
import strawberry

from app.billing import audit, verify
from app.billing.paging import PageArguments
from schema.accounts import Account
from schema.context import Info
from schema.inputs import MandateId
from schema.keys import by_key
from schema.paging import After, Before, Connection, First, Last
from schema.users import User

Row = strawberry.Parent[Any]


@strawberry.type(description="An account of which something does not follow from the transactions.")
class LedgerMismatch:
    mandate_id: strawberry.Private[str]
    account_id: strawberry.Private[str]

    stored_balance: Decimal = strawberry.field(description="The balance that the account carries.")
    ledger_balance: Decimal = strawberry.field(
        description="The sum of its transactions: credits less debits. The same as storedBalance where something else is wrong."
    )
    problems: list[str] = strawberry.field(
        description="What is stored and what it must be, a sentence for each figure: the first 100 and how many more."
    )

    account = by_key(
        Account, "account", "mandate_id", "account_id", description="The account, as it is now."
    )


@strawberry.type(
    description="The proof of a mandate's books at one moment: every balance, sum, sequence and warning base of its accounts, each balance after a transaction, the daily costs that statistics show, and both ends of every settled hold, reversal and transfer."
)
class LedgerCheck:
    ok: bool = strawberry.field(description="Whether every figure follows from the transactions.")
    accounts_checked: int = strawberry.field(description="How many accounts were computed again.")
    transactions_checked: int = strawberry.field(
        description="How many transactions they were computed from."
    )
    mismatches: list[LedgerMismatch] = strawberry.field(
        description="Each account of which something is wrong, once, by id. Not listed, though ok is false: an account that is missing altogether, and a daily total of the mandate; `billing verify-ledger` names them."
    )
    checked_at: datetime = strawberry.field(
        description="The moment all figures are of; what was committed later is not in them."
    )


@strawberry.type(
    description="Who changed what. It is written together with the change, or not at all."
)
class AuditEvent:
    actor_id: strawberry.Private[str | None]

    id: strawberry.ID = strawberry.field(description="A UUID, ordered by writing.")
    action: str = strawberry.field(
        description='What was done, such as "settings.updated" or "credit.added".'
    )
    subject: str = strawberry.field(
        description='What was changed: "user:ID" (also for memberships), "mandate:ID" (also for settings and imports), "account:ID" or "transaction:ID".'
    )
    created_at: datetime = strawberry.field(description="When it was changed.")

    actor = by_key(
        User | None,
        "user",
        "actor_id",
        description="Who changed it; null for the operator on the command line.",
    )

    @strawberry.field(
        description="The values before, of what was changed alone: a JSON object in its shortest form, names sorted. Null where there were none."
    )
    def before(self, row: Row) -> str | None:
        return _as_json(row.before)

    @strawberry.field(description="The values after, as in before. Null where there are none.")
    def after(self, row: Row) -> str | None:
        return _as_json(row.after)


def _as_json(document: Mapping[str, Any] | None) -> str | None:
    if document is None:
        return None
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS).decode()


@strawberry.type(description="Audit events, newest first.")
class AuditEventConnection(Connection[AuditEvent]):
    pass


@strawberry.type
class ProofQuery:
    @strawberry.field(
        description="For mandate admins: computes every stored figure of the mandate again from its transactions, in one snapshot while others write. It reads the whole history: minutes for ten million transactions."
    )
    async def ledger_check(self, info: Info, mandate_id: MandateId) -> LedgerCheck | None:
        context = info.context
        found = await verify.check_ledger(context.database, context.viewer, mandate_id)
        if found is None:
            return None
        check, wrong = found
        return LedgerCheck(
            ok=check.ok,
            accounts_checked=check.accounts_checked,
            transactions_checked=check.transactions_checked,
            mismatches=cast("list[LedgerMismatch]", wrong),
            checked_at=check.checked_at,
        )

    @strawberry.field(
        description="For mandate admins: who changed what, newest first. Without mandateId, for sysadmins: what concerns no mandate, such as users."
    )
    async def audit_log(
        self,
        info: Info,
        mandate_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(
                description="Id of the mandate. One that does not exist, or is not the viewer's, answers null. Left out: what concerns no mandate."
            ),
        ] = None,
        actor_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Only changes made by this user.")
        ] = None,
        subject: Annotated[
            str | None,
            strawberry.argument(
                description='Only changes of this, written in full: "user:ID", "mandate:ID", "account:ID" or "transaction:ID".'
            ),
        ] = None,
        from_: Annotated[
            datetime | None,
            strawberry.argument(name="from", description="createdAt at or after this."),
        ] = None,
        to: Annotated[
            datetime | None, strawberry.argument(description="createdAt before this.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> AuditEventConnection | None:
        page = await audit.list_audit_events(
            info.context.database,
            info.context.viewer,
            mandate_id,
            actor_id=actor_id,
            subject=subject,
            created_from=from_,
            created_to=to,
            page=PageArguments(first, after, last, before),
        )
        return AuditEventConnection(page=page) if page else None
