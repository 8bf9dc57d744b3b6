"""Where a gateway may listen: without keys it is for this machine alone."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from coordinator.errors import InvalidArgument
from coordinator.gateway.settings import GatewaySettings


def check_exposure(settings: GatewaySettings, *, authenticated: bool | None = None) -> str:
    """The sentence to print at the start. Raises InvalidArgument where the gateway would be open to
    others without asking who they are.

    `authenticated`: callers are known by other means than `api_keys`.
    """
    known = settings.api_keys is not None if authenticated is None else authenticated
    if known:
        return "callers need an API key"
    if not _is_loopback(settings.host):
        raise InvalidArgument(
            "host",
            f"without API keys only loopback is listened on, and {settings.host!r} is not that:"
            " `coordinator keys create` makes a key, --api-keys (COORDINATOR_API_KEYS) names the file",
        )
    if "*" in settings.allowed_hosts or "*" in settings.cors_origins:
        raise InvalidArgument(
            "allowed_hosts" if "*" in settings.allowed_hosts else "cors_origins",
            "`*` needs API keys: without them any web page could drive this server",
        )
    return "no API keys: anybody on this machine may do everything, nobody else can connect"


def _is_loopback(host: str) -> bool:
    """Also for a name: then all that it stands for is loopback. What cannot be resolved is not."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
    except OSError:
        return False
    return bool(found) and all(ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)
