"""The routes that need no key. They are identified as objects and not by patterns of paths, so that no other
path can be mistaken for one."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from coordinator.gateway.custom_app import CustomApp


class Public:
    """Routes with fixed paths. The router matches them first as well, so a match here is the route that is
    called. The routes of the user's app precede all others; they are public unless they need a caller. Raises
    ValueError for a path with parameters."""

    def __init__(self, routes: Iterable[BaseRoute], custom: CustomApp | None = None) -> None:
        self._custom = custom
        self._routes = tuple(routes)
        paths = [route.path for route in self._routes if isinstance(route, Route) and "{" not in route.path]
        if len(paths) < len(self._routes):
            raise ValueError(f"only routes of fixed paths can be public, not all of {self._routes}")
        self._by_last_segment: dict[str, list[BaseRoute]] = {}
        for route, path in zip(self._routes, paths, strict=True):
            self._by_last_segment.setdefault(_last_segment(path), []).append(route)
        # A match takes 3 us, and few requests have such a last segment.

    def __contains__(self, route: object) -> bool:
        return any(route is one for one in self._routes)

    def leads_to(self, scope: Scope) -> bool:
        if self._custom is not None and self._custom.serves(scope):
            return not self._custom.needs_caller
        if scope["type"] != "http":
            return False
        routes = self._by_last_segment.get(_last_segment(scope["path"]), ())
        return any(route.matches(scope)[0] is Match.FULL for route in routes)


def _last_segment(path: str) -> str:
    return path.rpartition("/")[2]
