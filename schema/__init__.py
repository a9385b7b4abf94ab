"""The public contract: one schema, assembled from a module per noun."""

from collections.abc import Callable
from typing import Any

import strawberry
from graphql import (
    GraphQLError,
    GraphQLID,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
)
from graphql.pyutils import Undefined
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext

from schema import enums  # noqa: F401  (documents the domain's enums before they are used)
from schema.accounts import AccountMutation, AccountQuery
from schema.context import Context
from schema.corrections import CorrectionMutation
from schema.credits import CreditMutation
from schema.errors import mark
from schema.holds import HoldMutation, HoldQuery
from schema.mandates import MandateMutation, MandateQuery
from schema.memberships import MembershipMutation, MembershipQuery
from schema.planning import PlannedExecution
from schema.proof import ProofQuery
from schema.rate_limits import RateLimitQuery
from schema.root_fields import guard
from schema.scalars import SCALARS, read_id
from schema.settings import SettingsMutation, SettingsQuery
from schema.statistics import StatisticsQuery
from schema.transactions import TransactionQuery
from schema.usage import UsageMutation
from schema.users import UserMutation
from schema.validation import Validation


@strawberry.type(
    description="What can be read. Every field that names a mandate is null, without an error, when that mandate does not exist or is not the viewer's."
)
class Query(
    MembershipQuery,
    MandateQuery,
    AccountQuery,
    TransactionQuery,
    StatisticsQuery,
    SettingsQuery,
    HoldQuery,
    ProofQuery,
    RateLimitQuery,
):
    pass


@strawberry.type(
    description="What can be changed. Each field is one atomic change; what the caller can put right comes as `userErrors`."
)
class Mutation(
    UsageMutation,
    HoldMutation,
    CreditMutation,
    CorrectionMutation,
    AccountMutation,
    SettingsMutation,
    MandateMutation,
    UserMutation,
    MembershipMutation,
):
    pass


class BillingSchema(strawberry.Schema):
    """A schema whose errors carry codes and whose optional arguments have no `= null`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        GraphQLID.coerce_input_value = read_id
        for kind in self._schema.type_map.values():
            if isinstance(kind, GraphQLInputObjectType):
                _without_null_default(kind.fields)
            elif isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
                for field in kind.fields.values():
                    _without_null_default(field.args)
        guard(self._schema.query_type, self._schema.mutation_type)

    def process_errors(
        self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None
    ) -> None:
        mark(errors, execution_context)

    def _get_execute_function(self) -> Callable[..., Any]:
        execute = super()._get_execute_function()

        def execute_here(*arguments: Any, context_value: Context, **options: Any) -> Any:
            options["hide_suggestions"] = not context_value.shows_schema
            return execute(*arguments, context_value=context_value, **options)

        return execute_here


def _without_null_default(inputs: dict[str, Any]) -> None:
    """Left out is not null: Python's own default stands in for what was not sent."""
    for item in inputs.values():
        if item.default_value is None:
            item.default_value = Undefined


schema = BillingSchema(
    query=Query,
    mutation=Mutation,
    config=StrawberryConfig(scalar_map=SCALARS),
    extensions=[Validation],
    execution_context_class=PlannedExecution,
)
