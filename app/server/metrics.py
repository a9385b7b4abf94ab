"""GET /metrics: the figures for Prometheus, which ask the database nothing."""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from app.database import Database
from app.metrics import exposition, observe_pools


async def metrics(_: Request, *, database: Database) -> Response:
    observe_pools(database.engines, database.connections_in_use)
    return Response(exposition(), media_type=CONTENT_TYPE_LATEST)
