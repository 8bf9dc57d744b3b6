"""Parses authorities (`host:port`) of Host and Origin headers into a canonical form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_PORTS = {"http": 80, "https": 443}
LONGEST = 253 + 6
"""Characters of an authority: a name and a port."""

LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost"})


@dataclass(frozen=True, slots=True)
class Authority:
    """`host` is in lower case without a trailing dot, an address in its shortest form. `port` None = the
    default port of the scheme."""

    host: str
    port: int | None

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def loopback(self) -> bool:
        address = self.address
        return self.host in LOOPBACK_NAMES if address is None else address.is_loopback

    def port_for(self, scheme: str) -> int | None:
        return self.port if self.port is not None else _PORTS.get(scheme)


@dataclass(frozen=True, slots=True)
class Origin:
    scheme: str
    authority: Authority

    def of_host(self, host: Authority) -> bool:
        """Returns whether the page was loaded from `host`. Schemes are not compared, because a proxy may
        terminate TLS."""
        return self.authority.host == host.host and self.authority.port_for(self.scheme) == host.port_for(
            self.scheme
        )


def parse_authority(text: str) -> Authority | None:
    """Returns None if `text` is not `host` or `host:port`, for example because it contains user info."""
    if len(text) > LONGEST or not text.isascii():
        return None
    text = text.lower()
    if text.startswith("["):
        literal, bracket, rest = text[1:].partition("]")
        host = _ipv6_host(literal)
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    else:
        name, _, port = text.partition(":")
        host = _host(name)
    if host is None or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        return None
    return Authority(host, int(port) if port else None)


def parse_origin(text: str) -> Origin | None:
    """Returns None for `null` and for every text that is not `scheme://host[:port]`."""
    scheme, separator, rest = text.partition("://")
    authority = parse_authority(rest)
    scheme = scheme.lower()
    if not separator or scheme not in _PORTS or authority is None:
        return None
    return Origin(scheme, authority)


def _host(name: str) -> str | None:
    name = name.removesuffix(".")
    try:
        return str(IPv4Address(name))
    except ValueError:
        # Other spellings of addresses (127.1, 0x7f.0.0.1, 2130706433) are addresses to some parsers and names
        # to others: they are refused.
        last = name.rpartition(".")[2]
        numeric = last.isdigit() or last.startswith("0x")
        return name if not numeric and _NAME.fullmatch(name) else None


def _ipv6_host(text: str) -> str | None:
    try:
        address = IPv6Address(text)
    except ValueError:
        return None
    if address.scope_id is not None:
        return None
    return str(address.ipv4_mapped or address)
