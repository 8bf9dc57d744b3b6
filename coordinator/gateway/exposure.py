"""Checks where a gateway may listen: without keys, on loopback only."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from coordinator.errors import InvalidArgument
from coordinator.gateway.settings import GatewaySettings
from coordinator.langgraph.extension import NO_EXTENSION, Extension


def check_exposure(
    settings: GatewaySettings, extension: Extension = NO_EXTENSION, *, authenticated: bool | None = None
) -> str:
    """Returns a sentence about access for the banner. Raises InvalidArgument if the gateway would be
    reachable from other machines or web pages without authentication.

    `authenticated`: callers are authenticated by other means than `api_keys` and `extension`.
    """
    if extension.handlers is not None:
        return "callers are identified by auth.path of the configuration"
    has_keys = settings.api_keys is not None if authenticated is None else authenticated
    if has_keys:
        return "callers need an API key"
    if not _is_loopback(settings.host):
        raise InvalidArgument(
            "host",
            f"without API keys the gateway listens on loopback only, and {settings.host!r} is not loopback:"
            " `coordinator keys create` creates a key, --api-keys (COORDINATOR_API_KEYS) names the file",
        )
    if "*" in settings.allowed_hosts or "*" in settings.cors_origins:
        raise InvalidArgument(
            "allowed_hosts" if "*" in settings.allowed_hosts else "cors_origins",
            "`*` needs API keys: without them any web page could drive this server",
        )
    if extension.cors.origin_regex is not None:
        raise InvalidArgument(
            "http.cors.allow_origin_regex",
            "needs API keys or auth.path: without them web pages could drive this server",
        )
    return "no API keys: every user of this machine has all permissions; other machines cannot connect"


def _is_loopback(host: str) -> bool:
    """Returns whether `host` is a loopback address, or a name all of whose addresses are. False if it cannot
    be resolved."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        pass
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
    except OSError:
        return False
    return bool(addresses) and all(
        ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in addresses
    )
