"""A web page acts for its reader, who may not know of it: only pages of the origins that were named may call.

`fetch` sends a page's origin with all that is not a plain GET, and a browser says of the rest whether it
crosses sites. Programs send neither.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.gateway.authority import parse_authority, parse_origin
from coordinator.gateway.errors import answer
from coordinator.gateway.middleware.public import Public
from coordinator.gateway.middleware.refusal import refuse, values

logger = logging.getLogger("coordinator.serve")

_ACROSS = frozenset({"cross-site", "same-site"})  # another port of one machine is the same "site"
_ENTRY = re.compile(r"(?P<scheme>https?)://(?P<host>[^/?#@\s:]+|\[[0-9a-f:.]+\])(?::(?P<port>\d+|\*))?/?")


class Pages:
    """The origins that may call, besides that of the server's own pages. `*` = all; `http://localhost:*` =
    all ports."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """Raises ValueError for what is no origin."""
        self.origins: list[str] = []
        patterns: list[str] = []
        for entry in allowed:
            text = entry.strip().lower()
            if text == "*":
                self.origins.append(text)
                continue
            found = _ENTRY.fullmatch(text)
            if found is None:
                raise ValueError(f"{entry!r} is no origin: write https://app.example.com or *")
            if found["port"] == "*":
                patterns.append(rf"{re.escape(found['scheme'])}://{re.escape(found['host'])}(:\d+)?")
            else:
                self.origins.append(text.rstrip("/"))
        self.pattern = "|".join(patterns) or None

    def __bool__(self) -> bool:
        return bool(self.origins or self.pattern)

    def include(self, origin: str) -> bool:
        """An opaque origin (`null`) has no name, so nothing names it: any page can have it."""
        if parse_origin(origin) is None:
            return False
        text = origin.lower()
        return (
            "*" in self.origins
            or text in self.origins
            or bool(self.pattern is not None and re.fullmatch(self.pattern, text))
        )


class Refused:
    """One line in the log for each origin that is refused: a browser shows the developer of a page nothing of
    the answer. Bounded, for a page can have any name."""

    LINES = 100
    LONGEST = 200  # characters of an origin

    def __init__(self) -> None:
        self._named: set[str] = set()

    def name(self, origin: str) -> None:
        shown = origin[: self.LONGEST]
        if shown in self._named or len(self._named) >= self.LINES:
            return
        self._named.add(shown)
        named = shown.isprintable() and _ENTRY.fullmatch(shown.lower())
        entry = shown if named else "https://app.example.com"
        logger.warning(
            "refused a call of a web page of origin %r. To let its pages call: --cors-origin %s, or"
            " COORDINATOR_CORS_ORIGINS=%s",
            shown,
            entry,
            entry,
        )
        if len(self._named) == self.LINES:
            logger.warning("more than %d origins were refused: further ones are not logged", self.LINES)


class Origins:
    def __init__(self, app: ASGIApp, pages: Pages, public: Public) -> None:
        self._app, self._pages, self._public = app, pages, public
        self._refused = Refused()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        origins = values(scope, "origin")
        if len(origins) > 1 or (origins and not self._may_call(scope, origins[0])):
            why = "pages of this origin may not call: cors_origins (COORDINATOR_CORS_ORIGINS) say which may"
            self._refused.name(", ".join(origins))
        elif not origins and self._sent_by_another_page(scope):
            why = "a page of another site may not call"
        else:
            await self._app(scope, receive, send)
            return
        await refuse(answer(403, why), scope, receive, send)

    def _may_call(self, scope: Scope, text: str) -> bool:
        origin, host = parse_origin(text), parse_authority(values(scope, "host")[0])
        if origin is not None and host is not None and origin.of_host(host):
            return True
        return self._pages.include(text)

    def _sent_by_another_page(self, scope: Scope) -> bool:
        """An image, a form or a frame. A link that is followed may lead to a public page, no further."""
        if not _ACROSS.intersection(value.lower() for value in values(scope, "sec-fetch-site")):
            return False
        followed = values(scope, "sec-fetch-dest") == ["document"] and scope.get("method") == "GET"
        return not (followed and self._public.leads_to(scope))
