"""Requests are for this server by a name that it knows, and for a path that reads one way only.

A web page can give a name of its own the address of a server on the reader's machine (DNS rebinding);
its browser then takes that server for the page's own. What it cannot do is change the Host header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.gateway.authority import Authority, parse_authority
from coordinator.gateway.errors import answer
from coordinator.gateway.middleware.refusal import refuse, values

_TWO_WAYS = re.compile(rb"%(?:2f|5c|00)|\\", re.IGNORECASE)
_DOT_SEGMENTS = frozenset({"", ".", ".."})


class Names:
    """The hosts that requests may be for: loopback always, those that are named, and, where callers
    show a key, every address: no rebinding makes a page's name an address."""

    def __init__(self, allowed: Iterable[str], *, any_address: bool) -> None:
        names = [name.strip().lower().removesuffix(".") for name in allowed]
        self._any = "*" in names
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))
        # The same spelling as what is compared with them.
        self._names = {
            authority.host if (authority := parse_authority(_bracketed(name))) is not None else name
            for name in names
        }
        self._any_address = any_address

    def include(self, host: Authority) -> bool:
        if self._any or host.loopback or host.host in self._names:
            return True
        if host.address is not None:
            return self._any_address
        return host.host.endswith(self._endings) if self._endings else False


class Hosts:
    def __init__(self, app: ASGIApp, names: Names) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = values(scope, "host")
        host = parse_authority(given[0]) if len(given) == 1 else None
        if host is None:
            no = answer(400, "the request needs one Host header with one host in it")
        elif not self._names.include(host):
            no = answer(
                403,
                f"this server does not answer for the host {host.host!r}: its allowed_hosts"
                " (COORDINATOR_ALLOWED_HOSTS) say for which",
            )
        elif not _reads_one_way(scope):
            no = answer(404, "Not Found")
        else:
            await self._app(scope, receive, send)
            return
        await refuse(no, scope, receive, send)


def _reads_one_way(scope: Scope) -> bool:
    """No part of the path is one thing here and another in a proxy before us. No route has such a path."""
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or b""
    if _TWO_WAYS.search(raw) or not path.isprintable():
        return False
    *folders, last = path.split("/")[1:] or [""]
    return last not in (".", "..") and not _DOT_SEGMENTS.intersection(folders)


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name and not name.startswith("[") else name
