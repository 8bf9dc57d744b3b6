"""The files of a web page that the gateway serves at /page/, beside its API: the page needs neither a server
of its own nor permission as an origin."""

from __future__ import annotations

from mimetypes import guess_type
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse
from starlette.routing import Route

from coordinator.errors import InvalidArgument

INDEX = "index.html"
PATH = "/page/"
_MAX_FILES = 1000
_HEADERS = {
    # Scripts and requests are restricted to this server. Libraries for React set inline styles.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; worker-src 'self'; manifest-src"
    " 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
}


def page_routes(folder: Path) -> tuple[Route, ...]:
    """Returns a route for each file that `folder` has now, hidden ones excepted. `/` and `/page` redirect to
    the page. Raises InvalidArgument if there is no index.html, or if there are more than 1000 files."""
    if not (folder / INDEX).is_file():
        raise InvalidArgument("page", f"{folder} has no {INDEX}: name the folder of the built page")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_hidden(path, folder)]
    if len(files) > _MAX_FILES:
        raise InvalidArgument(
            "page", f"{folder} has more than {_MAX_FILES} files: name the folder of the built page"
        )
    named = [
        _file(PATH + path.relative_to(folder).as_posix(), path) for path in files if "{" not in path.name
    ]
    return (_redirect("/", "page/"), _redirect("/page", "page/"), _file(PATH, folder / INDEX), *named)


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _file(path: str, file: Path) -> Route:
    kind = guess_type(file.name)[0] or "application/octet-stream"

    async def read(_: Request) -> FileResponse:
        return FileResponse(file, media_type=kind, headers=_HEADERS)

    return Route(path, read, methods=["GET"], include_in_schema=False)


def _redirect(path: str, target: str) -> Route:
    """`target` is relative, because the gateway may be mounted below a path."""

    async def redirect(_: Request) -> RedirectResponse:
        return RedirectResponse(target, headers={"cache-control": "no-cache"})

    return Route(path, redirect, methods=["GET"], include_in_schema=False)
