"""What a `langgraph.json` adds to a gateway besides assistants. Imports nothing of LangGraph, so that a
gateway without the extra may import it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.langgraph.access import Handlers
from coordinator.webhooks.policy import UNRESTRICTED, WebhookPolicy

_SECRET = frozenset(
    {"authorization", "cookie", "proxy-authorization", "x-api-key", "x-service-key", "x-tenant-id"}
)
"""Headers that a pattern with `*` does not include: they have to be named."""


@dataclass(frozen=True)
class HeaderPatterns:
    """Which headers of a request runs get in `config.configurable`. `excludes` precede `includes`."""

    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()

    def pick(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
        """Returns the included headers by their names in lower case. The last of several values counts."""
        if not self.includes:
            return {}
        names = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
        return {name: value for name, value in names if self._has(name)}

    def _has(self, name: str) -> bool:
        if any(_matches(pattern, name) for pattern in self.excludes):
            return False
        if name in _SECRET:
            return any(pattern.lower() == name for pattern in self.includes)
        return any(_matches(pattern, name) for pattern in self.includes)


NO_HEADERS = HeaderPatterns()


def _matches(pattern: str, name: str) -> bool:
    parts = [re.escape(part) for part in pattern.lower().split("*")]
    return re.fullmatch(".*".join(parts), name) is not None


@dataclass(frozen=True)
class Cors:
    """Web pages that may call, besides those of the settings. None = the gateway's default."""

    origins: tuple[str, ...] = ()
    origin_regex: str | None = None
    methods: tuple[str, ...] | None = None
    headers: tuple[str, ...] | None = None
    exposed: tuple[str, ...] = ()
    credentials: bool = False
    max_age: int | None = None


NO_CORS = Cors()


@dataclass(frozen=True)
class Extension:
    """`app`: a Starlette app whose routes precede those of the gateway. `disabled`: kinds of routes that are
    not served, of `assistants`, `meta`, `runs` and `threads`."""

    handlers: Handlers | None = None
    app: object = None
    app_after_authentication: bool = False
    """The middleware of the app gets only requests of identified callers."""
    app_needs_caller: bool = False
    """The routes of the app need a caller as those of the API do."""
    mount_prefix: str = ""
    disabled: frozenset[str] = frozenset()
    cors: Cors = NO_CORS
    configurable: HeaderPatterns = NO_HEADERS
    webhooks: WebhookPolicy = UNRESTRICTED


NO_EXTENSION = Extension()
