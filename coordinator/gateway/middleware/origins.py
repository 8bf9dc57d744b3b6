"""Refuses requests of web pages whose origin is not allowed (cross-site request forgery).

Browsers send `Origin` with every request of `fetch` except plain GETs, and `Sec-Fetch-Site` with all others.
Other programs send neither.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.gateway.authority import parse_authority, parse_origin
from coordinator.gateway.errors import error_response
from coordinator.gateway.middleware.head import Head, head_of
from coordinator.gateway.middleware.public import Public
from coordinator.gateway.middleware.refusal import refuse

logger = logging.getLogger("coordinator.serve")

_CROSS_SITE = frozenset({"cross-site", "same-site"})  # another port of one machine is the same "site"
_ENTRY = re.compile(r"(?P<scheme>https?)://(?P<host>[^/?#@\s:]+|\[[0-9a-f:.]+\])(?::(?P<port>\d+|\*))?/?")


class Pages:
    """The allowed origins, in addition to the server's own. `*` = all; `http://localhost:*` = all ports.
    `pattern`: a regular expression of further ones."""

    def __init__(self, allowed: Iterable[str], pattern: str | None = None) -> None:
        """Raises ValueError if an entry is not an origin."""
        self.origins: list[str] = []
        patterns: list[str] = [] if pattern is None else [f"(?:{pattern})"]
        for entry in allowed:
            text = entry.strip().lower()
            if text == "*":
                self.origins.append(text)
                continue
            match = _ENTRY.fullmatch(text)
            if match is None:
                raise ValueError(f"{entry!r} is not an origin: write https://app.example.com or *")
            if match["port"] == "*":
                patterns.append(rf"{re.escape(match['scheme'])}://{re.escape(match['host'])}(:\d+)?")
            else:
                self.origins.append(text.rstrip("/"))
        self.pattern = "|".join(patterns) or None

    def __bool__(self) -> bool:
        return bool(self.origins or self.pattern)

    def include(self, origin: str) -> bool:
        """Returns whether `origin` is allowed. An opaque origin (`null`) never is, because any page can have
        it."""
        if parse_origin(origin) is None:
            return False
        text = origin.lower()
        return (
            "*" in self.origins
            or text in self.origins
            or bool(self.pattern is not None and re.fullmatch(self.pattern, text))
        )


class RefusedOrigins:
    """Logs each refused origin once, because browsers hide the response from the developer of a page. At most
    `LINES`, because a client can send any origin."""

    LINES = 100
    LONGEST = 200  # characters of an origin

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def log(self, origin: str) -> None:
        shown = origin[: self.LONGEST]
        if shown in self._logged or len(self._logged) >= self.LINES:
            return
        self._logged.add(shown)
        is_origin = shown.isprintable() and _ENTRY.fullmatch(shown.lower())
        entry = shown if is_origin else "https://app.example.com"
        logger.warning(
            "refused a request of a web page of origin %r. To allow its pages: --cors-origin %s, or"
            " COORDINATOR_CORS_ORIGINS=%s",
            shown,
            entry,
            entry,
        )
        if len(self._logged) == self.LINES:
            logger.warning("more than %d origins were refused: further ones are not logged", self.LINES)


class Origins:
    def __init__(self, app: ASGIApp, pages: Pages, public: Public) -> None:
        self._app, self._pages, self._public = app, pages, public
        self._refused = RefusedOrigins()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        head = head_of(scope)
        origins = head.get(b"origin", ())
        if len(origins) > 1 or (origins and not self._may_call(head, origins[0])):
            reason = (
                "the origin is not allowed: cors_origins (COORDINATOR_CORS_ORIGINS) lists the allowed ones"
            )
            self._refused.log(", ".join(origins))
        elif not origins and self._sent_by_another_page(head, scope):
            reason = "requests of pages of another site are not allowed"
        else:
            await self._app(scope, receive, send)
            return
        await refuse(error_response(403, reason), scope, receive, send)

    def _may_call(self, head: Head, text: str) -> bool:
        origin, host = parse_origin(text), parse_authority(head[b"host"][0])
        if origin is not None and host is not None and origin.of_host(host):
            return True
        return self._pages.include(text)

    def _sent_by_another_page(self, head: Head, scope: Scope) -> bool:
        """Returns whether a page of another site sent the request, as an image, a form or a frame. A followed
        link is allowed to public pages."""
        if not _CROSS_SITE.intersection(map(str.lower, head.get(b"sec-fetch-site", ()))):
            return False
        followed = head.get(b"sec-fetch-dest") == ["document"] and scope.get("method") == "GET"
        return not (followed and self._public.leads_to(scope))
