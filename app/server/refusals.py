"""How a request is answered that comes to nothing: JSON with `errors`, and the status of their code."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from app.logs import request_id
from app.metrics import ERRORS
from schema.errors import explain, shorten

STATUS = {"UNAUTHENTICATED": 401, "RATE_LIMITED": 429, "UNAVAILABLE": 503}


def explained(error: Exception, statuses: Mapping[str, int]) -> Response:
    """What an exception is answered with; 500 where its code has no status."""
    message, extensions = explain(error, request_id())
    return refusal(shorten(message), extensions, statuses.get(extensions["code"], 500))


async def internal_error(_: Request, error: Exception) -> Response:
    """For what nobody has caught."""
    return explained(error, STATUS)


def refusal(message: str, extensions: Mapping[str, Any], status: int) -> Response:
    ERRORS.labels(extensions["code"]).inc()
    body = {"errors": [{"message": message, "extensions": extensions}]}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
