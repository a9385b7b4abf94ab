"""How a document is read and checked before anything of it runs.

What was parsed and validated once is kept, by its text, for the next request with it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from graphql import (
    SKIP,
    ArgumentNode,
    DocumentNode,
    GraphQLError,
    GraphQLInputType,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    ValueNode,
    VariableDefinitionNode,
    VisitorAction,
    parse,
    recommended_rules,
    specified_rules,
    validate,
)
from graphql.pyutils import print_path_list
from graphql.utilities import validate_input_literal
from graphql.validation import ValuesOfCorrectTypeRule
from graphql.validation.rules import overlapping_fields_can_be_merged
from graphql.validation.validate import ValidationAbortedError

from app.billing.errors import BadInput
from schema.limits import MAX_LENGTH, MAX_TOKENS, TooComplex

KEPT_DOCUMENTS = 128
"""Each takes up to 1.5 MB, at 2,000 tokens; usually a tenth of that."""

# The stock budget lets one request of 2,000 tokens compare repeated fields for half a second.
overlapping_fields_can_be_merged.MAX_COMPLEXITY_BUDGET = 50_000


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
            hide_suggestions = self.context.hide_suggestions
            validate_input_literal(node, input_type, report, hide_suggestions=hide_suggestions)
        return SKIP


RULES = (
    *(NamedValues if rule is ValuesOfCorrectTypeRule else rule for rule in specified_rules),
    *recommended_rules,
)


@lru_cache(KEPT_DOCUMENTS)
def parse_document(text: str) -> DocumentNode:
    """The document of this text; a GraphQLError where it is none, TooComplex where it is too long."""
    try:
        return parse(
            text,
            max_source_length=MAX_LENGTH,
            max_lexical_tokens=MAX_TOKENS,
            max_comments=MAX_TOKENS,
        )
    except GraphQLSyntaxError as error:
        if error.message.endswith("Parsing aborted."):
            raise TooComplex(error.description) from None
        raise


@lru_cache(KEPT_DOCUMENTS)
def validate_document(
    schema: GraphQLSchema, text: str, shows_schema: bool
) -> Sequence[GraphQLError]:
    """What is wrong with the document of this text; with suggestions only where the schema is shown."""
    rules = RULES if shows_schema else (*RULES, NoSchemaIntrospectionCustomRule)
    errors = validate(schema, parse_document(text), rules, hide_suggestions=not shows_schema)
    if any(type(error) is ValidationAbortedError for error in errors[:1]):
        raise TooComplex("The document repeats too many fields or fragments.")
    return errors


def select_operation(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    """The operation to run; BadInput unless there is exactly one of that name, or one in all."""
    found = [
        definition
        for definition in document.definitions
        if isinstance(definition, OperationDefinitionNode)
        and (name is None or (definition.name and definition.name.value == name))
    ]
    if not found:
        raise BadInput("The document has no operation" + ("." if name is None else f" {name!r}."))
    if len(found) > 1:
        raise BadInput("The document has several operations: name the one to run in operationName.")
    return found[0]
