"""Limits the requests per second of each caller. Each worker counts by itself."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.gateway.caller import Caller, quota_key
from coordinator.gateway.errors import error_response
from coordinator.gateway.middleware.refusal import refuse

MAX_CALLERS = 10_000
"""Number of remembered callers. The least recently used one is evicted and starts with a full bucket
again."""


class Buckets:
    """A token bucket for each caller, with a capacity of one second's tokens and at least one."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._size, self._clock = rate, max(1.0, rate), clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> float | None:
        """Takes a token. Returns None, or the seconds until a token is available."""
        now = self._clock()
        level, updated_at = self._levels.pop(caller, (self._size, now))
        level = min(self._size, level + (now - updated_at) * self._rate)
        missing = 1.0 - level
        self._levels[caller] = (level if missing > 0 else level - 1.0, now)
        if len(self._levels) > MAX_CALLERS:
            self._levels.popitem(last=False)
        return missing / self._rate if missing > 0 else None


class Rate:
    """Runs after authentication. Public routes are not limited, so that probes are always served."""

    def __init__(self, app: ASGIApp, buckets: Buckets) -> None:
        self._app, self._buckets = app, buckets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get("state", {}).get("caller")
        take = partial(self._buckets.take, quota_key(caller, scope))
        wait = None if caller is None else take()
        if wait is None:
            if scope["type"] == "websocket" and caller is not None:
                scope["state"]["take"] = take  # each command of the socket is a request
            await self._app(scope, receive, send)
            return
        refusal = error_response(429, "too many requests", {"Retry-After": str(math.ceil(wait))})
        await refuse(refusal, scope, receive, send)
