"""The routes that most requests are for, which `direct` serves without FastAPI."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.routing import BaseRoute

from coordinator.gateway.lazy import LazyRoute
from coordinator.gateway.routes import runs, stateless, threads

ENDPOINTS: tuple[Callable[..., object], ...] = (
    runs.create_run,
    runs.create_and_stream,
    runs.create_and_wait,
    runs.list_runs,
    runs.get_run,
    runs.join_run,
    runs.join_stream,
    runs.cancel_run,
    stateless.create_run,
    stateless.create_and_stream,
    stateless.create_and_wait,
    stateless.get_run,
    stateless.join_run,
    stateless.join_stream,
    threads.search_threads,
)


def of(routes: Iterable[BaseRoute]) -> list[LazyRoute]:
    return [route for route in routes if isinstance(route, LazyRoute) and route.endpoint in ENDPOINTS]
