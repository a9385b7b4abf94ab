"""What the domain refuses, and how it says so. No other module invents an error code."""

from enum import StrEnum
from typing import Any

RETRY_SECONDS = 2
"""When it is worth trying again after UNAVAILABLE."""


class UserErrorCode(StrEnum):
    """What a caller can put right. A mutation returns it in `userErrors`."""

    INVALID = "INVALID"
    NOT_FOUND = "NOT_FOUND"
    ACCOUNT_DISABLED = "ACCOUNT_DISABLED"
    PROVIDER_NOT_ALLOWED = "PROVIDER_NOT_ALLOWED"
    SPEND_LIMIT_EXCEEDED = "SPEND_LIMIT_EXCEEDED"
    CREDIT_LIMIT_EXCEEDED = "CREDIT_LIMIT_EXCEEDED"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    BILLING_MODEL_MISMATCH = "BILLING_MODEL_MISMATCH"
    BALANCE_NOT_ZERO = "BALANCE_NOT_ZERO"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    VERSION_CONFLICT = "VERSION_CONFLICT"
    ALREADY_REVERSED = "ALREADY_REVERSED"
    HOLD_NOT_OPEN = "HOLD_NOT_OPEN"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"


class SpendDenial(StrEnum):
    """Why a spend is refused: those codes that a judgement may give, the first reason first."""

    ACCOUNT_DISABLED = "ACCOUNT_DISABLED"
    PROVIDER_NOT_ALLOWED = "PROVIDER_NOT_ALLOWED"
    SPEND_LIMIT_EXCEEDED = "SPEND_LIMIT_EXCEEDED"
    CREDIT_LIMIT_EXCEEDED = "CREDIT_LIMIT_EXCEEDED"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"


class BillingError(Exception):
    """A rule of the business refused a change; nothing was written.

    `field` is the path of the input field at fault in the domain's own (snake case) names.
    """

    def __init__(self, code: UserErrorCode, message: str, *field: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class RequestError(Exception):
    """The request as a whole is refused; `code` is the `extensions.code` of a top-level error."""

    code = "INTERNAL"

    @property
    def extensions(self) -> dict[str, Any]:
        """What programs are told."""
        return {"code": self.code}


class Unauthenticated(RequestError):
    """Nobody, or nobody known, is asking."""

    code = "UNAUTHENTICATED"

    def __init__(self, message: str = "Send a token: Authorization: Bearer …") -> None:
        super().__init__(message)


class Forbidden(RequestError):
    """The viewer is known and may not do this."""

    code = "FORBIDDEN"


class BadInput(RequestError):
    """An argument of a query is out of range; the message names it."""

    code = "BAD_USER_INPUT"


class Unavailable(RequestError):
    """Something that the answer needs cannot be reached; the same request may succeed later."""

    code = "UNAVAILABLE"

    @property
    def extensions(self) -> dict[str, Any]:
        return {**super().extensions, "retryAfter": RETRY_SECONDS}


class RateLimited(RequestError):
    """One call more of a root field than the viewer may make a minute."""

    code = "RATE_LIMITED"

    def __init__(self, field: str, limit: int, retry_after: int) -> None:
        super().__init__(
            f"You may ask for {field} {limit} times a minute: try again in {retry_after} s."
        )
        self.retry_after = retry_after

    @property
    def extensions(self) -> dict[str, Any]:
        return {**super().extensions, "retryAfter": self.retry_after}
