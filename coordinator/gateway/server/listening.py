"""The port that all workers share.

On Linux every slot has a socket of its own with SO_REUSEPORT: the kernel spreads connections over those
that listen, evenly. The supervisor keeps the sockets, so that what has queued up at one outlives its
worker and is met by the next. Elsewhere SO_REUSEPORT does not spread (on macOS one socket gets
everything): there the slots share one socket, and whoever is quickest accepts.

Nothing listens before a worker does: until then, and where none can be started, connections are refused.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from typing import Any

from coordinator.gateway.server.failures import CannotServe

SPREADS = sys.platform == "linux"


class Listening:
    """Bound sockets, one for each slot. Raises CannotServe where that address cannot be had."""

    def __init__(self, host: str, port: int, slots: int) -> None:
        self._family, self._address = _resolve(host, port)
        if SPREADS:
            # Two supervisors of one user could else share a port without noticing.
            self._bind(reuse_port=False).close()
        first = self._bind(reuse_port=SPREADS)
        self.host, self.port = first.getsockname()[:2]
        self._address = (self._address[0], self.port, *self._address[2:])
        self._sockets = [
            first,
            *(self._bind(reuse_port=True) if SPREADS else first for _ in range(slots - 1)),
        ]

    @property
    def loopback(self) -> bool:
        """Only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        address = ipaddress.ip_address(self.host)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared with
        return f"http://[{host}]:{self.port}" if address.version == 6 else f"http://{host}:{self.port}"

    def socket(self, slot: int) -> socket.socket:
        return self._sockets[slot]

    def renew(self, slot: int) -> None:
        """Refuse what waits at a slot where nobody will serve for a while; connections then go to others."""
        if SPREADS:
            self._sockets[slot].close()
            self._sockets[slot] = self._bind(reuse_port=True)

    def close(self) -> None:
        """Idempotent. From here on, another server may have the port."""
        for one in self._sockets:
            one.close()

    def _bind(self, *, reuse_port: bool) -> socket.socket:
        made = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.setblocking(False)
            made.bind(self._address)
        except OSError as error:
            made.close()
            raise _refused(error, self._address[0], self._address[1]) from error
        return made


def is_loopback(host: str) -> bool:
    """`host` is a numeric address."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """The first address of a name; IPv4 before IPv6, which is what people mean by `localhost`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotServe(
            f"--host {host!r} is neither an address of this machine nor a name of one: {_why(error)}",
            "127.0.0.1 listens on this machine only, 0.0.0.0 on every address",
        ) from None
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, address


def _refused(error: OSError, host: str, port: int) -> CannotServe:
    place = f"{host} port {port}"
    return CannotServe(f"cannot listen on {place}: {_why(error)}", _advice(error))


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "Stop what listens there, or name another port: --port 0 takes any that is free"
    if error.errno == errno.EACCES:
        return "Ports below 1024 need a privilege: name a higher one with --port"
    return "Name an address of this machine: --host 127.0.0.1"


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
