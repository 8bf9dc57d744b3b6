"""The routes that are reached without a key. They are known as objects, not by what their paths look like:
no path can be made to resemble one."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope


class Public:
    """Routes of fixed paths. The router looks at them first too, so what matches here is what is reached.
    Raises ValueError for a path that varies."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = tuple(routes)
        paths = [route.path for route in self._routes if isinstance(route, Route) and "{" not in route.path]
        if len(paths) < len(self._routes):
            raise ValueError(f"only routes of fixed paths can be public, not all of {self._routes}")
        self._last = frozenset(map(_last, paths))
        """Parts of their paths: a request that ends otherwise need not be matched, which costs 3 us each."""

    def leads_to(self, scope: Scope) -> bool:
        if scope["type"] != "http" or _last(scope["path"]) not in self._last:
            return False
        return any(route.matches(scope)[0] is Match.FULL for route in self._routes)


def _last(path: str) -> str:
    return path.rpartition("/")[2]
