"""The routes that are reached without a key. They are known as objects, not by what their paths look like:
no path can be made to resemble one."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute, Match
from starlette.types import Scope


def leads_to(routes: Iterable[BaseRoute], scope: Scope) -> bool:
    """They are looked at first by the router too, so what matches here is what will be reached."""
    return scope["type"] == "http" and any(route.matches(scope)[0] is Match.FULL for route in routes)
