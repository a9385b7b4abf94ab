"""The public contract: one schema, assembled from a module per noun."""

from typing import Any

import graphql
import strawberry
from graphql import (
    GraphQLError,
    GraphQLID,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
)
from graphql.pyutils import Undefined
from strawberry.execution import optimized_is_awaitable
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionResult
from strawberry.utils.await_maybe import await_maybe

from schema import enums  # noqa: F401  (documents the domain's enums before they are used)
from schema.accounts import AccountMutation, AccountQuery
from schema.context import Context
from schema.corrections import CorrectionMutation
from schema.credits import CreditMutation
from schema.errors import mark
from schema.holds import HoldMutation, HoldQuery
from schema.inputs import build_plainly
from schema.limits import MAX_COST, check_variables, measure
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
from schema.validation import parse_document, select_operation, validate_document


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
                build_plainly(kind)
            elif isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
                for field in kind.fields.values():
                    _without_null_default(field.args)
        guard(self._schema.query_type, self._schema.mutation_type)

    async def execute(
        self,
        query: str | None,
        variable_values: dict[str, Any] | None = None,
        context_value: Any = None,
        root_value: Any = None,
        operation_name: str | None = None,
        *_: Any,
        **__: Any,
    ) -> ExecutionResult:
        """Checks an operation and runs it; `extensions` tell what it costs.

        The stock way has no limits, reads each document anew, and takes longer for a small operation
        than the operation itself.
        """
        context: Context = context_value
        text, variables, extensions = query or "", variable_values or {}, dict[str, Any]()
        result = graphql.ExecutionResult()
        try:
            document = parse_document(text)
            operation = select_operation(document, operation_name)
            check_variables(variables)
            cost = measure(self._schema, document, operation, variables)
            extensions["cost"] = {"requested": cost, "limit": MAX_COST}
            result.errors = [*validate_document(self._schema, text, context.shows_schema)]
            if not result.errors:
                result = await await_maybe(
                    graphql.execute(
                        self._schema,
                        document,
                        root_value,
                        context,
                        variables,
                        operation_name,
                        executor_class=self.execution_context_class,
                        is_awaitable=optimized_is_awaitable,  # type: ignore[arg-type]
                        hide_suggestions=not context.shows_schema,
                    )
                )
        except GraphQLError as error:
            result.errors = [error]
        except Exception as error:
            result.errors = [GraphQLError(str(error), original_error=error)]
        mark(result.errors or (), context.request_id)
        return ExecutionResult(result.data, result.errors or None, extensions)


def _without_null_default(inputs: dict[str, Any]) -> None:
    """Left out is not null: Python's own default stands in for what was not sent."""
    for item in inputs.values():
        if item.default_value is None:
            item.default_value = Undefined


schema = BillingSchema(
    query=Query,
    mutation=Mutation,
    config=StrawberryConfig(scalar_map=SCALARS),
    execution_context_class=PlannedExecution,
)
