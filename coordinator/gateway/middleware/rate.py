"""How many requests a second one caller may make, of each worker for itself."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.gateway.caller import Caller, payer
from coordinator.gateway.errors import answer
from coordinator.gateway.middleware.refusal import refuse

MOST_CALLERS = 10_000
"""How many are remembered. Who was quiet longest is forgotten, and has a full bucket again."""


class Buckets:
    """A token bucket for each caller: it holds one second's worth, at least one."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._size, self._clock = rate, max(1.0, rate), clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> float | None:
        """None = taken; else the seconds until there is a token."""
        now = self._clock()
        level, then = self._levels.pop(caller, (self._size, now))
        level = min(self._size, level + (now - then) * self._rate)
        missing = 1.0 - level
        self._levels[caller] = (level if missing > 0 else level - 1.0, now)
        if len(self._levels) > MOST_CALLERS:
            self._levels.popitem(last=False)
        return missing / self._rate if missing > 0 else None


class Rate:
    """Behind authentication. What is public is not limited: a probe must have its answer."""

    def __init__(self, app: ASGIApp, buckets: Buckets) -> None:
        self._app, self._buckets = app, buckets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get("state", {}).get("caller")
        wait = None if caller is None else self._buckets.take(payer(caller, scope))
        if wait is None:
            await self._app(scope, receive, send)
            return
        no = answer(429, "too many requests", {"Retry-After": str(math.ceil(wait))})
        await refuse(no, scope, receive, send)
