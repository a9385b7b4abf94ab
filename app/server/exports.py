"""GET /export/…: a list as one file, however long."""

import logging

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from app.billing.errors import BillingError, Unauthenticated
from app.database import Database
from app.export import Export, ExportKind, open_export
from app.logs import request_id
from app.metrics import ERRORS
from app.server.answers import STATUS, explained, refusal
from app.server.door import Doorkeeper
from schema.errors import explain

_STATUS = {**STATUS, "BAD_USER_INPUT": 400, "FORBIDDEN": 403}

logger = logging.getLogger("billing.server")


class ExportResponse(StreamingResponse):
    """A file to save. One that breaks off ends the connection: nobody takes the part for the whole."""

    def __init__(self, export: Export, with_body: bool) -> None:
        super().__init__(
            export.chunks() if with_body else (),
            media_type="text/csv",
            headers={"Content-Disposition": f'attachment; filename="{export.name}"'},
        )
        self._name = export.name

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except Exception as error:
            message, extensions = explain(error, request_id())  # which logs what is unexpected
            ERRORS.labels(extensions["code"]).inc()
            logger.error("the export %s broke off: %s", self._name, message)  # noqa: TRY400


async def export(
    request: Request, *, kind: ExportKind, database: Database, door: Doorkeeper
) -> Response:
    """The file, or why there is none."""
    try:
        viewer = await door.viewer(request.headers.get("authorization"))
        if viewer is None:
            raise Unauthenticated
        parameters = request.query_params.multi_items()
        wanted = await open_export(database, viewer, kind, parameters)
    except BillingError as error:
        return refusal(error.message, {"code": error.code}, 404)
    except Exception as error:
        return explained(error, _STATUS)
    return ExportResponse(wanted, with_body=request.method != "HEAD")
