"""The pages that people look at: the dashboard, and GraphiQL in development; for it the demo people, too.

They are built by `make pages` into static files, hold no data, and need no token.
"""

from pathlib import Path

from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from app.config import Settings
from app.database import Database
from app.demo import people

STATIC = Path(__file__).parent.parent / "static"
DASHBOARD, GRAPHIQL = "/assets", "/graphiql/assets"
"""Where the files lie that a page loads. Their names change with what is in them."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{}; img-src 'self' data:;"
    " font-src 'self'; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
_OF_DASHBOARD = _POLICY.format("").encode()
_OF_GRAPHIQL = _POLICY.format(" 'unsafe-inline'").encode()  # Monaco writes style elements
POLICIES = {
    "/": _OF_DASHBOARD,
    DASHBOARD: _OF_DASHBOARD,
    "/graphql": _OF_GRAPHIQL,
    GRAPHIQL: _OF_GRAPHIQL,
}
"""What a page, and the workers it starts, may load: the Content-Security-Policy by route."""

_MISSING = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{name} is not built</title>
<h1>{name} is not built</h1>
<p>Install Node.js 20.19 or newer, run <code>make pages</code>, and load this page again.
The API at <code>/graphql</code> works without it.</p>
</html>
"""


class _Assets(StaticFiles):
    async def check_config(self) -> None:
        """Pages may be built while the server runs; until then there is nothing to be found."""


def assets(path: str, page: str) -> Mount:
    """The files that a page loads."""
    files = _Assets(directory=STATIC / page / "assets", check_dir=False)
    return Mount(path, GZipMiddleware(files))


def dashboard(_: Request) -> Response:
    return _page("dashboard", "The dashboard")


def graphiql() -> Response:
    return _page("graphiql", "GraphiQL")


def _page(page: str, name: str) -> Response:
    try:
        return HTMLResponse((STATIC / page / "index.html").read_bytes())
    except FileNotFoundError:
        return HTMLResponse(_MISSING.format(name=name), 503)


async def demo_people(_: Request, settings: Settings, database: Database) -> Response:
    """Whom one may sign in as."""
    return JSONResponse(
        [
            {"id": user_id, "role": role, "token": token}
            for user_id, role, token in await people(settings, database)
            if token
        ]
    )
