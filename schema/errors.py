"""How a refusal reaches the client: `userErrors` of a mutation, or a top-level error with a code."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import strawberry
from graphql import GraphQLError
from strawberry.types.execution import PreExecutionError
from strawberry.utils.str_converters import to_camel_case

from app.billing.errors import BillingError, RequestError, Unavailable, UserErrorCode
from app.database import DatabaseUnavailable
from app.faults import reason_of
from app.metrics import ERRORS

P = ParamSpec("P")
Payload = TypeVar("Payload")

MAX_MESSAGE = 500

logger = logging.getLogger("billing.schema")


@strawberry.type(
    description="Something the caller can put right. What it is about was not written."
)
class UserError:
    code: UserErrorCode = strawberry.field(
        description="What kind of fault it is; programs branch on it."
    )
    field: list[str] | None = strawberry.field(
        description="Path of the input field at fault, such as [events, 3, amount]; null when it is none in particular."
    )
    message: str = strawberry.field(description="What is wrong and what to do next, for people.")


def user_error(error: BillingError) -> UserError:
    """A refusal of the domain in the words of the schema."""
    field = [to_camel_case(name) for name in error.field]
    message = error.message
    for name in error.field:
        message = message.replace(name, to_camel_case(name))
    return UserError(code=error.code, field=field or None, message=message)


def mutation(
    description: str,
) -> Callable[[Callable[P, Awaitable[Payload]]], Any]:
    """A mutation field: its payload holds `userErrors`, and a BillingError becomes one of them."""

    def decorate(resolver: Callable[P, Awaitable[Payload]]) -> Any:
        payload: type[Any] = resolver.__annotations__["return"]

        @wraps(resolver)
        async def resolve(*args: P.args, **kwargs: P.kwargs) -> Any:
            info: Any = kwargs["info"]
            info.context.forget()
            try:
                return await resolver(*args, **kwargs)
            except BillingError as error:
                return payload(user_errors=[user_error(error)])

        field = strawberry.mutation(resolve, description=description)
        for argument in field.arguments:
            argument.description = "What to change; its type says what each field means."
        return field

    return decorate


def user_errors() -> Any:
    """The field that every payload has."""
    return strawberry.field(
        description="Why nothing was written; empty when the mutation succeeded.",
        default_factory=list,
    )


def shorten(message: str) -> str:
    """A message that quotes what was sent, at a length that people read."""
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 1]}…"


def explain(cause: BaseException, request_id: str) -> tuple[str, dict[str, Any]]:
    """What a client is told of an exception: a message and `extensions`. The unexpected is logged."""
    if isinstance(cause, RequestError):
        return str(cause), cause.extensions
    if isinstance(cause, DatabaseUnavailable):
        logger.warning("the database is unavailable: %s", reason_of(cause))
        absence = Unavailable("The database cannot be reached at the moment: try again.")
        return str(absence), absence.extensions
    logger.error("request %s failed", request_id, exc_info=cause)
    message = f"Something went wrong on our side. Quote request {request_id}."
    return message, {"code": "INTERNAL", "requestId": request_id}


def mark(found: Sequence[GraphQLError], request_id: str) -> None:
    """Gives each error its `extensions.code` and hides the words of what was not expected."""
    for error in found:
        cause = error.original_error
        while isinstance(cause, GraphQLError):
            cause = cause.original_error
        if cause is None:
            error.message = shorten(error.message)
            told: dict[str, Any] = {"code": "BAD_USER_INPUT"}
        else:
            message, told = explain(cause, request_id)
            error.message = shorten(message)
        ERRORS.labels(told["code"]).inc()
        error.extensions = {**(error.extensions or {}), **told}


def rejected(cause: Exception, request_id: str) -> PreExecutionError:
    """The result of an operation that was not begun."""
    error = GraphQLError(str(cause), original_error=cause)
    mark([error], request_id)
    return PreExecutionError(data=None, errors=[error])
