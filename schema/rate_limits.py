"""What the viewer may still ask for."""

from datetime import datetime
from typing import cast

import strawberry

from schema.context import Info


@strawberry.type(
    description="How often the viewer may call a root field. Each alias is a call; one that was refused is none."
)
class RateLimit:
    field: str = strawberry.field(description="The root field, such as balance.")
    limit: int = strawberry.field(description="Calls allowed in any 60 seconds.")
    remaining: int = strawberry.field(description="Calls allowed right now.")
    resets_at: datetime = strawberry.field(
        description="When the oldest call that counts is a minute old, and one more is allowed; now when none counts."
    )


@strawberry.type
class RateLimitQuery:
    @strawberry.field(
        description="What is left to the viewer of each root field that has a limit, first those of Query; empty where there are no limits. A field that is not listed has none, this one among them."
    )
    async def rate_limit(self, info: Info) -> list[RateLimit]:
        roots = info.schema._schema
        fields = [
            (name, root is roots.mutation_type)
            for root in (roots.query_type, roots.mutation_type)
            for name in (root.fields if root else ())
        ]
        found = await info.context.limiter.allowances(info.context.viewer, fields)
        return cast("list[RateLimit]", found)
