"""Determines the client behind a proxy. `X-Forwarded-For` counts only if a trusted proxy has sent it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.gateway.middleware.refusal import values

_SCHEMES = {"http": {"http": "http", "https": "https"}, "websocket": {"http": "ws", "https": "wss"}}


class Proxies:
    """Addresses and networks of trusted proxies. Raises ValueError for an invalid entry."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks = [ip_network(one, strict=False) for one in trusted]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def include(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


class Forwarded:
    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        self._app, self._proxies = app, proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in _SCHEMES and (peer := scope.get("client")) is not None:
            address = _address(str(peer[0]))
            if address is not None and self._proxies.include(address):
                scope = {**scope, **self._client_of(scope)}
        await self._app(scope, receive, send)

    def _client_of(self, scope: Scope) -> Scope:
        forwarded: Scope = {}
        client = None
        for entry in reversed(",".join(values(scope, "x-forwarded-for")).split(",")):
            address = _address(entry.strip())
            if address is None:  # an invalid entry: those before it are not trusted
                break
            client = address
            if not self._proxies.include(address):
                break
        if client is not None:
            forwarded["client"] = (str(client), 0)
        schemes = values(scope, "x-forwarded-proto")
        if len(schemes) == 1 and (scheme := _SCHEMES[scope["type"]].get(schemes[0].strip().lower())):
            forwarded["scheme"] = scheme
        return forwarded


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Parses `192.0.2.7`, `192.0.2.7:443`, `2001:db8::7`, `[2001:db8::7]` and `[2001:db8::7]:443`."""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    if port and not (port.isascii() and port.isdecimal()):
        return None
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
