"""The gateway's debits."""

from datetime import datetime
from decimal import Decimal

import strawberry

from app.billing import usage
from app.billing.usage import UsageEvent, UsageMode, UsageOutcome
from schema.context import Info
from schema.errors import UserError, mutation, user_error, user_errors
from schema.transactions import Transaction


@strawberry.input(description="One AI call and what it cost.")
class UsageEventInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate that pays.")
    user_id: strawberry.ID = strawberry.field(
        description="Who called: a user of the mandate; for RECORD also one who has left it."
    )
    amount: Decimal = strawberry.field(
        description="Cost in the mandate's currency, 0 to 1,000,000; a free or failed call is counted with 0."
    )
    idempotency_key: str = strawberry.field(
        description="1 to 255 characters, for ever unique within the mandate: sent again with the same content, the event is a DUPLICATE."
    )
    mode: UsageMode = strawberry.field(
        description="Whether the debit depends on the payer's funds.", default=UsageMode.RECORD
    )
    description: str = strawberry.field(
        description="What the history shows: 1 to 1,000 characters.", default="AI usage"
    )
    workflow_id: str | None = strawberry.field(
        description="The workflow that called.", default=None
    )
    feature_code: str | None = strawberry.field(
        description="The feature that called.", default=None
    )
    aicore_provider: str | None = strawberry.field(description="The AI provider.", default=None)
    aicore_model: str | None = strawberry.field(description="The AI model.", default=None)
    occurred_at: datetime | None = strawberry.field(
        description="When the call happened: up to 35 days back, 5 minutes ahead. Now, when left out.",
        default=None,
    )


@strawberry.input(description="A batch of usage.")
class RecordUsageInput:
    events: list[UsageEventInput] = strawberry.field(
        description="1 to 1,000 events. Each has its own outcome; a refused one takes no other with it. One that breaks the schema, such as an amount that is no Decimal, refuses the whole request and is named."
    )


@strawberry.type(description="What became of one event.")
class UsageResult:
    outcome: UsageOutcome = strawberry.field(description="Written, known already, or refused.")
    transaction: Transaction | None = strawberry.field(
        description="The first one written under this key, for RECORDED and DUPLICATE."
    )
    error: UserError | None = strawberry.field(description="Why it was REJECTED, else null.")


@strawberry.type(description="What became of a batch.")
class RecordUsagePayload:
    results: list[UsageResult] = strawberry.field(
        description="One for each event, in the order given.", default_factory=list
    )
    user_errors: list[UserError] = user_errors()


@strawberry.type
class UsageMutation:
    @mutation("Service or sysadmin. Debits what AI calls cost, up to 1,000 in one request.")
    async def record_usage(self, info: Info, input: RecordUsageInput) -> RecordUsagePayload:
        context = info.context
        results = await usage.record_usage(
            context.database,
            context.viewer,
            [UsageEvent(**vars(event)) for event in input.events],
            context.providers,
        )
        return RecordUsagePayload(
            results=[
                UsageResult(
                    outcome=result.outcome,
                    transaction=result.transaction,
                    error=user_error(result.error) if result.error else None,
                )
                for result in results
            ]
        )
