"""Connections: the GraphQL form of a page of the domain."""

from typing import Annotated, Generic, TypeVar

import strawberry

from app.billing.paging import Page

Node = TypeVar("Node")

First = Annotated[
    int | None,
    strawberry.argument(
        description="How many, from the start of the list: 1 to 500, 50 when neither first nor last is given."
    ),
]
After = Annotated[
    str | None,
    strawberry.argument(description="Only what comes after this cursor of the same list."),
]
Last = Annotated[
    int | None,
    strawberry.argument(
        description="How many, from the end of the list: 1 to 500. Not together with first."
    ),
]
Before = Annotated[
    str | None,
    strawberry.argument(description="Only what comes before this cursor of the same list."),
]


@strawberry.type(description="Where a page stands in its list.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="Whether more follow behind this page.")
    has_previous_page: bool = strawberry.field(
        description="Whether there are some before this page."
    )
    start_cursor: str | None = strawberry.field(
        description="Cursor of the first node; null on an empty page."
    )
    end_cursor: str | None = strawberry.field(
        description="Cursor of the last node, for `after` of the next page; null on an empty page."
    )


@strawberry.type(description="A node and its place in the list.")
class Edge(Generic[Node]):
    node: Node = strawberry.field(description="The node itself.")
    cursor: str = strawberry.field(
        description="Opaque place of the node, valid for this filter and order only."
    )


@strawberry.type(
    description="One page of a list. A walk neither skips nor repeats what was there when it began, while others write. To follow what is written, begin at the newest end anew: rows become visible when they are committed, which may be a little after their createdAt."
)
class Connection(Generic[Node]):
    page: strawberry.Private[Page]

    @strawberry.field(description="The nodes with their cursors.")
    def edges(self) -> list[Edge[Node]]:
        cursor = self.page.cursor
        return [Edge(node=node, cursor=cursor(node)) for node in self.page.nodes]

    @strawberry.field(description="The nodes alone.")
    def nodes(self) -> list[Node]:
        return list(self.page.nodes)

    @strawberry.field(description="Where this page stands in the list.")
    def page_info(self) -> PageInfo:
        page = self.page
        return PageInfo(
            has_next_page=page.has_next_page,
            has_previous_page=page.has_previous_page,
            start_cursor=page.cursor(page.nodes[0]) if page.nodes else None,
            end_cursor=page.cursor(page.nodes[-1]) if page.nodes else None,
        )

    @strawberry.field(
        description="How many match in all, not on this page; counted only when asked for."
    )
    async def total_count(self) -> int:
        return await self.page.count()
