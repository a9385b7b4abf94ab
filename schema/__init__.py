"""The public contract: one schema, assembled from a module per noun."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import graphql
import strawberry
from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLID,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    OperationDefinitionNode,
    OperationType,
)
from graphql.pyutils import Undefined
from strawberry.execution import optimized_is_awaitable
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.utils.await_maybe import await_maybe

from app.billing.errors import BadInput
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
from schema.subscriptions import Subscription
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
        guard(self._schema.query_type, self._schema.mutation_type, self._schema.subscription_type)

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
        variables, extensions = variable_values or {}, dict[str, Any]()
        result = graphql.ExecutionResult()
        try:
            document, operation = self._checked(
                query, variables, operation_name, context, extensions
            )
            if operation.operation is OperationType.SUBSCRIPTION:
                raise BadInput(
                    "Subscribe over WebSocket (graphql-transport-ws), or accept text/event-stream."
                )
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
        except Exception as error:
            result.errors = _errors(error)
        mark(result.errors or (), context.request_id)
        return ExecutionResult(result.data, result.errors or None, extensions)

    async def results(
        self,
        query: str,
        variables: dict[str, Any] | None,
        context: Context,
        operation_name: str | None = None,
    ) -> AsyncGenerator[ExecutionResult, None]:
        """The results of a subscription, or the one of another operation.

        A PreExecutionError is the last: nothing was run, or nothing more can be.
        """
        variables = variables or {}
        try:
            document, operation = self._checked(query, variables, operation_name, context, {})
            if operation.operation is not OperationType.SUBSCRIPTION:
                # As over POST: whoever leaves does not break it off.
                work = self.execute(query, variables, context, None, operation_name)
                yield await context.database.unbroken(work)
                return
            found: Any = await await_maybe(
                graphql.subscribe(
                    self._schema,
                    document,
                    None,
                    context,
                    variables,
                    operation_name,
                    executor_class=self.execution_context_class,
                    hide_suggestions=not context.shows_schema,
                )
            )
            if isinstance(found, graphql.ExecutionResult):
                errors = found.errors or []
            else:
                async with aclosing(found):
                    async for event in found:
                        mark(event.errors or (), context.request_id)
                        yield ExecutionResult(event.data, event.errors)
                return
        except Exception as error:
            errors = _errors(error)
        mark(errors, context.request_id)
        yield PreExecutionError(None, errors)

    def _checked(
        self,
        query: str | None,
        variables: dict[str, Any],
        operation_name: str | None,
        context: Context,
        extensions: dict[str, Any],
    ) -> tuple[DocumentNode, OperationDefinitionNode]:
        """The document and the operation to run; `extensions` are told what it costs."""
        text = query or ""
        document = parse_document(text)
        operation = select_operation(document, operation_name)
        check_variables(variables)
        cost = measure(self._schema, document, operation, variables)
        extensions["cost"] = {"requested": cost, "limit": MAX_COST}
        if errors := validate_document(self._schema, text, context.shows_schema):
            raise _Invalid(errors)
        return document, operation


class _Invalid(Exception):
    """The document does not fit the schema."""

    def __init__(self, errors: Sequence[GraphQLError]) -> None:
        self.errors = errors


def _errors(cause: Exception) -> list[GraphQLError]:
    if isinstance(cause, _Invalid):
        return [*cause.errors]
    if isinstance(cause, GraphQLError):
        return [cause]
    return [GraphQLError(str(cause), original_error=cause)]


def _without_null_default(inputs: dict[str, Any]) -> None:
    """Left out is not null: Python's own default stands in for what was not sent."""
    for item in inputs.values():
        if item.default_value is None:
            item.default_value = Undefined


schema = BillingSchema(
    query=Query,
    mutation=Mutation,
    subscription=Subscription,
    config=StrawberryConfig(scalar_map=SCALARS),
    execution_context_class=PlannedExecution,
)
