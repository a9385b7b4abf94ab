"""What AI calls cost: totals, their parts, and their course over time."""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, cast

import strawberry

from app.billing import statistics
from app.billing.enums import PeriodType
from app.billing.periods import Granularity
from app.billing.statistics import UsageDimension
from schema.context import Info
from schema.inputs import MandateId, given
from schema.keys import by_key
from schema.scalars import CurrencyCode, TimeZone
from schema.users import User

View = strawberry.Parent[Any]


@strawberry.type(description="The part of the total cost that one key has caused.")
class CostSlice:
    key: str | None = strawberry.field(description="Null for usage that named none.")
    cost: Decimal = strawberry.field(description="In the mandate's currency.")
    transaction_count: int = strawberry.field(description="AI calls, free ones included.")


@strawberry.type(description="The part of the total cost that one user has caused.")
class UserCostSlice:
    key: strawberry.Private[str | None]

    cost: Decimal = strawberry.field(description="In the mandate's currency.")
    transaction_count: int = strawberry.field(description="AI calls, free ones included.")

    user = by_key(
        User | None,
        "user",
        "key",
        description="The user, also one who has left the mandate; null for usage that named none.",
    )


@strawberry.type(description="The part of a cost that falls into [start, end).")
class UsageBucket:
    start: datetime = strawberry.field(
        description="When an hour, day, month or year of the time zone begins; the first is no earlier than the range."
    )
    end: datetime = strawberry.field(
        description="The start of the next one, or the end of the range: excluded. A day has 23 or 25 hours when clocks change."
    )
    cost: Decimal = strawberry.field(description="In the mandate's currency; 0 without usage.")
    transaction_count: int = strawberry.field(description="AI calls, free ones included.")


@strawberry.type(
    description=(
        "What AI calls cost, by when they happened, less what was reversed, on the day of the reversal:"
        " a cost can be below 0. Members see their own usage alone. Late events may still be written"
        " up to 35 days back. Fields asked for together agree with each other."
    )
)
class Statistics:
    period: PeriodType = strawberry.field(description="What was asked for.")
    from_: datetime = strawberry.field(name="from", description="Start of the range, included.")
    to: datetime = strawberry.field(description="End of the range, excluded.")
    time_zone: TimeZone = strawberry.field(
        description="Whose days are counted: the one asked for, else the mandate's."
    )
    currency: CurrencyCode = strawberry.field(description="The mandate's, of every cost here.")

    @strawberry.field(description="Cost of all AI calls in the range, exact.")
    async def total_cost(self, view: View) -> Decimal:
        return await view.total_cost()

    @strawberry.field(description="AI calls in the range, free ones included.")
    async def transaction_count(self, view: View) -> int:
        return await view.transaction_count()

    @strawberry.field(description="totalCost by AI provider, dearest first; adds up to it exactly.")
    async def cost_by_provider(self, view: View) -> Sequence[CostSlice]:
        return await view.cost_by(UsageDimension.PROVIDER)

    @strawberry.field(description="totalCost by feature, dearest first; adds up to it exactly.")
    async def cost_by_feature(self, view: View) -> Sequence[CostSlice]:
        return await view.cost_by(UsageDimension.FEATURE)

    @strawberry.field(description="totalCost by AI model, dearest first; adds up to it exactly.")
    async def cost_by_model(self, view: View) -> Sequence[CostSlice]:
        return await view.cost_by(UsageDimension.MODEL)

    @strawberry.field(description="totalCost by user, dearest first; adds up to it exactly.")
    async def cost_by_user(self, view: View) -> Sequence[UserCostSlice]:
        return await view.cost_by(UsageDimension.USER)

    @strawberry.field(
        description="The range day by day, month by month, or as one year: in order and without gaps. Their costs add up to totalCost exactly."
    )
    async def buckets(self, view: View) -> Sequence[UsageBucket]:
        return await view.buckets()


@strawberry.type(description="One of the values that make a group.")
class UsageKey:
    dimension: UsageDimension = strawberry.field(description="What kind of value it is.")
    value: str | None = strawberry.field(
        description="The provider's, model's or feature's name, the user's or the workflow's id; null for usage that named none."
    )

    @strawberry.field(
        description="For USER: the user, also one who has left the mandate; null for usage that named none, and for other dimensions."
    )
    async def user(self, info: Info) -> User | None:
        if self.dimension is not UsageDimension.USER or self.value is None:
            return None
        return await info.context.load.user.load(self.value)


@strawberry.type(
    description="The part of the total that belongs to one combination of the groupBy dimensions."
)
class UsageGroup:
    keys: list[UsageKey] = strawberry.field(
        description="Its values, in the order of groupBy; empty without groupBy."
    )
    cost: Decimal = strawberry.field(description="In the mandate's currency, exact.")
    transaction_count: int = strawberry.field(description="AI calls, free ones included.")
    buckets: list[UsageBucket] = strawberry.field(
        description="Its course: in order and without gaps. Their costs add up to the group's exactly."
    )


@strawberry.type(
    description="What AI calls cost in any range, by when they happened, less what was reversed, on the day of the reversal: a cost can be below 0. Members see their own usage alone. Late events may still be written up to 35 days back. All figures are of one moment."
)
class UsageReport:
    from_: datetime = strawberry.field(
        name="from", description="The first instant of the first day asked for."
    )
    to: datetime = strawberry.field(
        description="The end of the range, excluded: the first instant of the day that `to` named."
    )
    time_zone: TimeZone = strawberry.field(
        description="Whose days are counted: the one asked for, else the mandate's."
    )
    currency: CurrencyCode = strawberry.field(description="The mandate's, of every cost here.")
    total_cost: Decimal = strawberry.field(
        description="Cost of all AI calls in the range, exact: of all groups, shown or not."
    )
    transaction_count: int = strawberry.field(
        description="AI calls in the range, free ones included: of all groups, shown or not."
    )
    total_groups: int = strawberry.field(description="How many groups there are, shown or not.")
    groups: list[UsageGroup] = strawberry.field(
        description="One for each combination of the groupBy dimensions that has usage, dearest first; without groupBy always one."
    )


@strawberry.input(
    description="Which usage counts: all that is given must hold. Names are case-sensitive."
)
class UsageFilter:
    user_id: strawberry.ID | None = strawberry.field(
        description="Only this user's. One whom the viewer may not see has none.", default=None
    )
    aicore_provider: str | None = strawberry.field(
        description="Only of this AI provider: 1 to 128 characters.", default=None
    )
    aicore_model: str | None = strawberry.field(
        description="Only of this AI model: 1 to 128 characters.", default=None
    )
    feature_code: str | None = strawberry.field(
        description="Only of this feature: 1 to 128 characters.", default=None
    )
    workflow_id: str | None = strawberry.field(
        description="Only of this workflow: 1 to 128 characters.", default=None
    )


Period = Annotated[
    PeriodType,
    strawberry.argument(
        description="DAY: the days of one month. MONTH: the months of a year. YEAR: that year."
    ),
]
Year = Annotated[int, strawberry.argument(description="1970 to 9998.")]
Month = Annotated[
    int | None,
    strawberry.argument(
        description="1 to 12: required with DAY, to be left out with MONTH and YEAR."
    ),
]
Zone = Annotated[
    TimeZone | None,
    strawberry.argument(
        description="Whose days to count; the mandate's own when left out. Another one is limited to 93 days, unless the filter names a workflow."
    ),
]
WhichUsage = Annotated[
    UsageFilter | None,
    strawberry.argument(description="Which usage counts; all of it when left out."),
]


async def find_statistics(
    info: Info,
    mandate_id: str,
    period: PeriodType,
    year: int,
    month: int | None,
    time_zone: str | None,
    filter: UsageFilter | None,
) -> Statistics | None:
    """The statistics of a mandate, for each field that shows them."""
    found = await statistics.find_statistics(
        info.context.database,
        info.context.viewer,
        mandate_id,
        period=period,
        year=year,
        month=month,
        time_zone=time_zone,
        usage_filter=statistics.UsageFilter(**given(filter)),
    )
    return cast("Statistics | None", found)


@strawberry.type
class StatisticsQuery:
    @strawberry.field(
        description="What AI calls cost in one month by day, in one year by month, or in one year."
    )
    async def statistics(
        self,
        info: Info,
        mandate_id: MandateId,
        period: Period,
        year: Year,
        month: Month = None,
        time_zone: Zone = None,
        filter: WhichUsage = None,
    ) -> Statistics | None:
        return await find_statistics(info, mandate_id, period, year, month, time_zone, filter)

    @strawberry.field(
        description="What AI calls cost in any range, in groups, each with its course over time. Groups times buckets stay under 20000, else it is BAD_USER_INPUT: ask for fewer groups with `first`."
    )
    async def usage(
        self,
        info: Info,
        mandate_id: MandateId,
        from_: Annotated[
            date, strawberry.argument(name="from", description="The first day, 1970 to 9998.")
        ],
        to: Annotated[date, strawberry.argument(description="The day after the last.")],
        granularity: Annotated[Granularity, strawberry.argument(description="What a bucket is.")],
        group_by: Annotated[
            list[UsageDimension] | None,
            strawberry.argument(
                description="A group for each combination of these; a single one when left out."
            ),
        ] = None,
        first: Annotated[
            int | None,
            strawberry.argument(
                description="How many groups to show, the dearest: at least 1; all when left out. There is no next page."
            ),
        ] = None,
        time_zone: Zone = None,
        filter: WhichUsage = None,
    ) -> UsageReport | None:
        found = await statistics.find_usage(
            info.context.database,
            info.context.viewer,
            mandate_id,
            from_=from_,
            to=to,
            granularity=granularity,
            group_by=group_by or (),
            first=first,
            time_zone=time_zone,
            usage_filter=statistics.UsageFilter(**given(filter)),
        )
        return cast("UsageReport | None", found)
