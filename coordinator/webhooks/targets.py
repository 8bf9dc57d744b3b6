"""Checks of webhook targets: of the URL before a run is admitted, and of the resolved addresses before each
attempt.

They prevent requests to systems that this server can reach and its callers cannot: loopback, private
networks, metadata services of clouds. The client connects to one of the checked addresses, so a name that
resolves differently a moment later (DNS rebinding) has no effect. An admission resolves no names, because the
result would reveal which names exist in the server's network.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from coordinator.arguments import MAX_URL
from coordinator.errors import CoordinatorError, InvalidArgument
from coordinator.webhooks.lookups import Lookups, nothing
from coordinator.webhooks.policy import UNRESTRICTED, WebhookPolicy

IPAddress = IPv4Address | IPv6Address


class TargetRefused(InvalidArgument):
    """The policy forbids this target. The message omits the URL, which may contain a secret."""

    def __init__(self, why: str) -> None:
        super().__init__("webhook", why)


class NameUnknown(CoordinatorError):
    """The host name could not be resolved; this may be temporary."""


class NotReached(CoordinatorError):
    """The receiver sent no HTTP response: a failed connection, an invalid certificate, or a timeout."""


class Target(NamedTuple):
    """The parts of a URL. `path` includes the query; the fragment is dropped."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """Scheme, host and port, for logs and limits."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        default = _DEFAULT_PORTS[self.scheme]
        return self.origin.partition("://")[2].removesuffix(f":{default}")


_DEFAULT_PORTS = {"https": 443, "http": 80}
_VISIBLE = re.compile(r"[\x21-\x5b\x5d-\x7e]+")  # ASCII without blanks, control characters and the backslash
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_LOCAL_ENDS = (
    *("localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "corp", "private"),
    *("home.arpa", "in-addr.arpa", "ip6.arpa"),
)

# From the special-purpose registries of IANA, not from `ipaddress`, whose `is_global` differs between
# releases of Python.
_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_PRIVATE = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("100.64.0.0/10"),  # of a provider
    IPv6Network("fc00::/7"),
)
_METADATA = (  # of clouds: credentials, outside the link-local range
    IPv4Network("100.100.100.200/32"),  # Alibaba
    IPv6Network("fd00:100::100:200/128"),
    IPv6Network("fd00:ec2::/32"),  # AWS
    IPv6Network("fd20:ce::254/128"),  # Google
    IPv6Network("fd00:c1::a9fe:a9fe/128"),  # Oracle
    IPv6Network("fd00:42::42/128"),  # Scaleway
    IPv6Network("fd00:a9fe:a9fe::1/128"),  # Akamai
)
_NOWHERE = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("169.254.0.0/16"),  # link-local, and where clouds keep credentials
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.0.2.0/24"),
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("198.18.0.0/15"),
    IPv4Network("198.51.100.0/24"),
    IPv4Network("203.0.113.0/24"),
    IPv4Network("168.63.129.16/32"),  # a public address that is the host of every virtual machine on Azure
    IPv4Network("224.0.0.0/3"),  # multicast, reserved, broadcast
    IPv6Network("2001::/23"),  # Teredo and other protocols
    IPv6Network("2001:db8::/32"),
    IPv6Network("2002::/16"),  # 6to4: an IPv4 address in disguise
    IPv6Network("3fff::/20"),
)
_UNICAST = IPv6Network("2000::/3")
"""The global IPv6 addresses: none that is unspecified, mapped or translated IPv4, link-local or multicast."""


class Targets:
    """The policy for targets. `allow_private` (for development) allows http, any port, names without a dot,
    loopback and private networks. Link-local addresses, metadata services of clouds and unusual spellings of
    an address are never allowed. `policy` restricts them further. Raises InvalidArgument if no port
    remains."""

    def __init__(
        self,
        *,
        allow_private: bool = False,
        ports: frozenset[int] = frozenset({443, 8443}),
        policy: WebhookPolicy = UNRESTRICTED,
        lookups: Lookups | None = None,
    ) -> None:
        self._private, self._policy = allow_private, policy
        self._ports = ports & policy.ports if policy.ports and not allow_private else policy.ports or ports
        if not self._ports:
            raise InvalidArgument(
                "webhooks.url.allowed_ports", f"has none of the ports of webhook_ports: {sorted(ports)}"
            )
        self._max_url = min(MAX_URL, policy.max_url_length or MAX_URL)
        self._lookups = lookups or Lookups()

    def parse(self, url: str) -> Target:
        """Checks the URL without any I/O. Raises TargetRefused."""
        if len(url) > self._max_url:
            raise TargetRefused(f"must have at most {self._max_url} characters")
        if _VISIBLE.fullmatch(url) is None:
            raise TargetRefused(
                "must be a URL of visible ASCII characters: write names in their xn-- form, escape the rest"
            )
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError:
            raise TargetRefused("must be a URL with a host and, if any, a port") from None
        if scheme != "https" and not (scheme == "http" and self._private and not self._policy.https):
            raise TargetRefused("must begin with https://")
        if not host:
            raise TargetRefused("must name a host")
        if "@" in parts.netloc:
            raise TargetRefused("must not carry a user name or password")
        if "[" in parts.netloc and ":" not in host:
            raise TargetRefused("must write an address in its usual form")
        port = self._port(scheme, port)
        if not self._policy.allows_host(host):
            raise TargetRefused("must go to one of the domains of webhooks.url.allowed_domains")
        path = parts.path or "/"
        return Target(scheme, self._host(host), port, f"{path}?{parts.query}" if parts.query else path)

    def _port(self, scheme: str, given: int | None) -> int:
        """The default port is allowed unless the policy names ports."""
        port = _DEFAULT_PORTS[scheme] if given is None else given
        any_port = not self._policy.ports and (self._private or given is None)
        if port == 0 or not (any_port or port in self._ports):
            raise TargetRefused(f"must use one of these ports: {', '.join(map(str, sorted(self._ports)))}")
        return port

    def _host(self, host: str) -> str:
        if ":" in host:
            return str(self._literal(host))
        host = host.removesuffix(".")
        labels = host.split(".")
        if _NUMBER.fullmatch(labels[-1]):
            return str(self._literal(host))
        if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
            raise TargetRefused("must name a host by letters, digits, hyphens and dots")
        if not self._private:
            if len(labels) == 1:
                raise TargetRefused("must name its host in full, with a domain")
            if any(host == end or host.endswith(f".{end}") for end in _LOCAL_ENDS):
                raise TargetRefused("must not go to a name of a local network")
        return host

    def _literal(self, text: str) -> IPAddress:
        try:
            address = ip_address(text)
        except ValueError:
            raise TargetRefused("must write an address in its usual form") from None
        self._allow(address)
        return address

    def _allow(self, address: IPAddress) -> None:
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            raise TargetRefused("must not name a network interface")
        if any(address in network for network in _METADATA):
            raise TargetRefused("must not go to a metadata service")
        policy = self._policy
        for networks, excluded in ((_LOOPBACK, policy.without_loopback), (_PRIVATE, policy.without_private)):
            if any(address in network for network in networks):
                if self._private and not excluded:
                    return
                raise TargetRefused("must not go to a loopback or private address")
        outside = isinstance(address, IPv6Address) and address not in _UNICAST
        if outside or any(address in network for network in _NOWHERE):
            raise TargetRefused("must go to a public unicast address")

    async def addresses(
        self, target: Target, *, user_id: str | None = None, begun: Callable[[], object] = nothing
    ) -> list[IPAddress]:
        """Returns the addresses to connect to. One forbidden address refuses the target, because the name's
        owner could return it alone at the next look-up. `begun` is called when the look-up starts, which may
        have to wait for other look-ups of the same user. Raises TargetRefused, NameUnknown, Full."""
        try:
            literal = ip_address(target.host)
        except ValueError:
            pass
        else:
            begun()
            return [literal]  # checked by `parse`
        # The final dot disables search domains, which could resolve `db.prod` to a host of this network.
        name = target.host if self._private else f"{target.host}."
        try:
            texts = await self._lookups.addresses(name, target.port, user_id=user_id, begun=begun)
        except (OSError, UnicodeError) as error:
            raise NameUnknown(f"{target.host} does not resolve: {error}") from None
        addresses = [ip_address(text) for text in dict.fromkeys(texts)]
        if not addresses:
            raise NameUnknown(f"{target.host} has no address")
        for address in addresses:
            self._allow(address)
        return addresses
