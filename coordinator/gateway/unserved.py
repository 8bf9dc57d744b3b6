"""Routes of LangGraph's API that this gateway does not serve. A request for one is refused with its name,
which distinguishes it from a request with a wrong path."""

from __future__ import annotations

from starlette.routing import Match, Route
from starlette.types import Scope

from coordinator.gateway.custom_app import OUTSIDE

UNSERVED = (
    ("MCP", "POST", "/mcp"),
    ("A2A", "POST", "/a2a/{assistant_id}"),
)
"""Name in the client, method and path. Served routes are matched before this table."""


async def _unreachable() -> None:
    """Endpoint of routes that are only matched, never called."""


_ROUTES = [(name, Route(path, _unreachable, methods=[method])) for name, method, path in UNSERVED]


def refusal_of(scope: Scope, *, path_exists: bool) -> tuple[int, str]:
    """Returns status and detail for a request that no route matches. `path_exists`: the path is served for
    other methods."""
    method, path = scope["method"], scope.get(OUTSIDE, scope["path"])
    for name, route in _ROUTES:
        if route.matches(scope)[0] is Match.FULL:
            return 404, f"{name} ({method} {route.path}) of LangGraph's API is not served here"
    if path_exists:
        return 405, f"{method} is not served on {path!r:.200}: see /openapi.json"
    return 404, f"no route {method} {path!r:.200} exists: see /openapi.json"
