"""How the contenders serve, but for ours: with the options of our own server."""

import sys

import uvicorn
from starlette.applications import Starlette


def serve(app: Starlette) -> None:
    """Serves on the port that the command names, until a signal ends it."""
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        server_header=False,
        log_level="warning",
    )
