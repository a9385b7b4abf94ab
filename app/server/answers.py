"""How the server answers: JSON, with the status and the headers that follow from its errors."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from strawberry.types import ExecutionResult

from app.logs import request_id
from app.metrics import ERRORS
from schema.errors import explain, shorten

JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"
STATUS = {"UNAUTHENTICATED": 401, "UNAVAILABLE": 503, "RATE_LIMITED": 429}


def shown(result: ExecutionResult) -> dict[str, Any]:
    """The response of GraphQL that tells it; `data` is left out where nothing was run."""
    body: dict[str, Any] = {}
    if result.data is not None or any(error.path for error in result.errors or ()):
        body["data"] = result.data
    if result.errors:
        body["errors"] = [error.formatted for error in result.errors]
    if result.extensions:
        body["extensions"] = result.extensions
    return body


def answer(body: Mapping[str, Any], media_type: str = JSON, status: int | None = None) -> Response:
    """A GraphQL response; its status is that of its errors unless it is given."""
    told = [error.get("extensions") or {} for error in body.get("errors") or ()]
    if status is None:
        status = _status(body, {extensions.get("code") for extensions in told}, media_type)
    response = Response(
        orjson.dumps(body, option=orjson.OPT_UTC_Z),
        status,
        media_type=f"{media_type}; charset=utf-8",
    )
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if waits := [extensions["retryAfter"] for extensions in told if "retryAfter" in extensions]:
        response.headers["Retry-After"] = str(max(waits))
    return response


def _status(body: Mapping[str, Any], codes: set[str | None], media_type: str) -> int:
    """One that answered part of what was asked in spite of a rate limit is no failure, whose data clients drop."""
    answered = any(value is not None for value in (body.get("data") or {}).values())
    for code, status in STATUS.items():
        if code in codes and not (answered and code == "RATE_LIMITED"):
            return status
    # Who accepts application/json alone expects 200 for whatever is GraphQL.
    return 400 if "data" not in body and media_type == GRAPHQL_JSON else 200


def refusal(
    message: str, extensions: Mapping[str, Any], status: int, media_type: str = JSON
) -> Response:
    """One error, and nothing else."""
    ERRORS.labels(extensions["code"]).inc()
    errors = [{"message": message, "extensions": extensions}]
    return answer({"errors": errors}, media_type, status)


def explained(
    error: Exception, statuses: Mapping[str, int] = STATUS, media_type: str = JSON
) -> Response:
    """What an exception is answered with; 500 where its code has no status."""
    message, extensions = explain(error, request_id())
    status = statuses.get(extensions["code"], 500)
    return refusal(shorten(message), extensions, status, media_type)


async def internal_error(_: Request, error: Exception) -> Response:
    """For what nobody has caught."""
    return explained(error)
