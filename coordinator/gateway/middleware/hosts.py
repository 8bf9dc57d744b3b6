"""Accepts only requests with an allowed Host header and an unambiguous path.

With DNS rebinding a web page makes its own name resolve to the address of a server on the user's machine, and
the browser treats that server as the page's origin. The page cannot change the Host header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.gateway.authority import Authority, parse_authority
from coordinator.gateway.errors import error_response
from coordinator.gateway.middleware.refusal import refuse, values

_AMBIGUOUS = re.compile(rb"%(?:2f|5c|00)|\\", re.IGNORECASE)
_DOT_SEGMENTS = frozenset({"", ".", ".."})


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
        hosts = values(scope, "host")
        host = parse_authority(hosts[0]) if len(hosts) == 1 else None
        if host is None:
            refusal = error_response(400, "the request needs one Host header with one host in it")
        elif not self._names.include(host):
            refusal = error_response(
                403,
                f"this server does not serve the host {host.host!r}: allowed_hosts"
                " (COORDINATOR_ALLOWED_HOSTS) lists the hosts that it serves",
            )
        elif not _is_unambiguous(scope):
            refusal = error_response(404, "Not Found")
        else:
            await self._app(scope, receive, send)
            return
        await refuse(refusal, scope, receive, send)


def _is_unambiguous(scope: Scope) -> bool:
    """Returns whether a proxy interprets the path as this server does. No route has an ambiguous path."""
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or b""
    if _AMBIGUOUS.search(raw) or not path.isprintable():
        return False
    *folders, last = path.split("/")[1:] or [""]
    return last not in (".", "..") and not _DOT_SEGMENTS.intersection(folders)


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name and not name.startswith("[") else name
