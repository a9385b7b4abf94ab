"""How a request is checked before anything runs: the rules of GraphQL, with errors that name the argument."""

from collections.abc import Iterator
from typing import Any

from graphql import (
    SKIP,
    ArgumentNode,
    GraphQLError,
    GraphQLInputType,
    ValueNode,
    VariableDefinitionNode,
    VisitorAction,
    specified_rules,
)
from graphql.pyutils import print_path_list
from graphql.utilities import validate_input_literal
from graphql.validation import ValuesOfCorrectTypeRule
from strawberry.extensions import SchemaExtension


class NamedValues(ValuesOfCorrectTypeRule):
    """The stock rule leaves out which argument, and which field of its input, a literal is wrong for."""

    _place = ""

    def enter_argument(self, node: ArgumentNode, *_: Any) -> None:
        self._place = f"Argument '{node.name.value}'"

    def enter_variable_definition(self, node: VariableDefinitionNode, *_: Any) -> None:
        self._place = f"Default of variable '${node.variable.name.value}'"

    def is_valid_value_node(
        self, node: ValueNode, input_type: GraphQLInputType | None
    ) -> VisitorAction:
        def report(error: GraphQLError, path: list[str | int]) -> None:
            cause = error.original_error
            is_refusal = cause is None or isinstance(cause, GraphQLError)
            why = error.message if is_refusal else "it cannot be read."  # 5,000 digits, say
            message = f"{self._place} has invalid value{print_path_list(path)}: {why}"
            self.report_error(GraphQLError(message, error.nodes or node))

        if input_type:
            validate_input_literal(node, input_type, report)
        return SKIP


RULES = tuple(NamedValues if rule is ValuesOfCorrectTypeRule else rule for rule in specified_rules)


class Validation(SchemaExtension):
    """Has requests checked by RULES: one tuple for all, so that what is checked can be cached."""

    def on_operation(self) -> Iterator[None]:
        self.execution_context.validation_rules = RULES
        yield
