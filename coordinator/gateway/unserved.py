"""Routes of LangGraph's API that are not served here. A request for one is answered with its name, and told
apart from one whose address is wrong."""

from __future__ import annotations

from starlette.routing import Match, Route
from starlette.types import Scope

UNSERVED = (
    ("assistants.create", "POST", "/assistants"),
    ("assistants.update", "PATCH", "/assistants/{assistant_id}"),
    ("assistants.delete", "DELETE", "/assistants/{assistant_id}"),
    ("assistants.get_subgraphs", "GET", "/assistants/{assistant_id}/subgraphs"),
    ("assistants.get_subgraphs", "GET", "/assistants/{assistant_id}/subgraphs/{namespace}"),
    ("assistants.get_versions", "POST", "/assistants/{assistant_id}/versions"),
    ("assistants.set_latest", "POST", "/assistants/{assistant_id}/latest"),
    ("threads.prune", "POST", "/threads/prune"),
    ("threads.stream", "POST", "/threads/{thread_id}/commands"),
    ("threads.stream", "POST", "/threads/{thread_id}/stream/events"),
    ("store.put_item", "PUT", "/store/items"),
    ("store.get_item", "GET", "/store/items"),
    ("store.delete_item", "DELETE", "/store/items"),
    ("store.search_items", "POST", "/store/items/search"),
    ("store.list_namespaces", "POST", "/store/namespaces"),
    ("MCP", "POST", "/mcp"),
    ("A2A", "POST", "/a2a/{assistant_id}"),
)
"""By what clients call them, and what they ask for. A route that is served is reached before this table."""


async def _nothing() -> None:
    """Routes are only matched here."""


_ROUTES = [(name, Route(path, _nothing, methods=[method])) for name, method, path in UNSERVED]


def refusal_of(scope: Scope, *, known_path: bool) -> tuple[int, str]:
    """Status and text for a request that has come to no route. `known_path`: the path is served for other
    methods."""
    method, path = scope["method"], scope["path"]
    for name, route in _ROUTES:
        if route.matches(scope)[0] is Match.FULL:
            return 404, f"{name} ({method} {route.path}) of LangGraph's API is not served here"
    if known_path:
        return 405, f"{method} is not served on {path!r:.200}: see /openapi.json"
    return 404, f"there is no route {method} {path!r:.200}: see /openapi.json"
