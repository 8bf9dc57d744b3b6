"""Accepts only requests with an allowed Host header and an unambiguous path.

With DNS rebinding a web page makes its own name resolve to the address of a server on the user's machine, and
the browser treats that server as the page's origin. The page cannot change the Host header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.gateway.authority import LONGEST, Authority, parse_authority
from coordinator.gateway.errors import error_response
from coordinator.gateway.middleware.head import pick_head
from coordinator.gateway.middleware.refusal import refuse

_AMBIGUOUS = re.compile(rb"%(?:2f|5c|00)|\\", re.IGNORECASE)
_DOT_SEGMENTS = re.compile(r"/\.{0,2}(?=/)|/\.{1,2}\Z")
_REMEMBERED = 256
"""Host headers whose check is remembered, each of at most `LONGEST` characters."""


_NOT_ONE_HOST = 400, "the request needs one Host header with one host in it"


class Names:
    """The allowed hosts: loopback names, those of `allowed`, and with `any_address` every IP address. That is
    safe if callers need a key, because rebinding cannot turn a page's name into an address."""

    def __init__(self, allowed: Iterable[str], *, any_address: bool) -> None:
        names = [name.strip().lower().removesuffix(".") for name in allowed]
        self._any = "*" in names
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))
        # In the canonical form of the hosts that are compared with them.
        self._names = {
            authority.host if (authority := parse_authority(_bracketed(name))) is not None else name
            for name in names
        }
        self._any_address = any_address
        self._remembered = lru_cache(_REMEMBERED)(self._refusal_of)

    def include(self, host: Authority) -> bool:
        if self._any or host.loopback or host.host in self._names:
            return True
        if host.address is not None:
            return self._any_address
        return host.host.endswith(self._endings) if self._endings else False

    def refusal_of(self, host: str) -> tuple[int, str] | None:
        """Returns status and text of the refusal of a Host header, or None if it is allowed."""
        return self._remembered(host) if len(host) <= LONGEST else self._refusal_of(host)

    def _refusal_of(self, host: str) -> tuple[int, str] | None:
        authority = parse_authority(host)
        if authority is None:
            return _NOT_ONE_HOST
        if self.include(authority):
            return None
        return 403, (
            f"this server does not serve the host {authority.host!r}: allowed_hosts"
            " (COORDINATOR_ALLOWED_HOSTS) lists the hosts that it serves"
        )


class Hosts:
    def __init__(self, app: ASGIApp, names: Names) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        hosts = pick_head(scope).get(b"host", ())
        refusal = self._names.refusal_of(hosts[0]) if len(hosts) == 1 else _NOT_ONE_HOST
        if refusal is None and not _is_unambiguous(scope):
            refusal = 404, "Not Found"
        if refusal is None:
            await self._app(scope, receive, send)
            return
        await refuse(error_response(*refusal), scope, receive, send)


def _is_unambiguous(scope: Scope) -> bool:
    """Returns whether a proxy interprets the path as this server does. No route has an ambiguous path."""
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or b""
    return not _AMBIGUOUS.search(raw) and path.isprintable() and not _DOT_SEGMENTS.search(path)


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name and not name.startswith("[") else name
