"""How a request is answered that comes to nothing: JSON with `errors`, and the status of their code."""

import uuid
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from schema.errors import explain, shorten

STATUS = {"UNAUTHENTICATED": 401, "RATE_LIMITED": 429, "UNAVAILABLE": 503}


def explained(error: Exception, statuses: Mapping[str, int]) -> Response:
    """What an exception is answered with; 500 where its code has no status."""
    message, extensions = explain(error, uuid.uuid4().hex)
    return refusal(shorten(message), extensions, statuses.get(extensions["code"], 500))


def refusal(message: str, extensions: Mapping[str, Any], status: int) -> Response:
    body = {"errors": [{"message": message, "extensions": extensions}]}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
