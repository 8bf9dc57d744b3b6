"""/docs: a page with the documentation of the API, which loads nothing from other servers."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

FOLDER = Path(__file__).parents[1] / "docs"

_FILES = {
    "/docs": ("page.html", "text/html"),
    "/docs/page.js": ("page.js", "text/javascript"),
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js", "text/javascript"),
    "/docs/swagger-ui.css": ("swagger-ui.css", "text/css"),
}
_HEADERS = {
    # Swagger UI sets inline styles. Scripts, and all requests of scripts, are restricted to this server.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
}


def _route(path: str, name: str, kind: str) -> Route:
    async def file(_: Request) -> FileResponse:
        return FileResponse(FOLDER / name, media_type=kind, headers=_HEADERS)

    return Route(path, file, methods=["GET"], include_in_schema=False)


routes = tuple(_route(path, name, kind) for path, (name, kind) in _FILES.items())
