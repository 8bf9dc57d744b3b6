"""The port that all workers share.

On Linux each slot has its own socket with SO_REUSEPORT, and the kernel distributes connections evenly over
the listening ones. The supervisor keeps the sockets open, so that connections in a socket's backlog survive
the death of its worker and are accepted by the next one. On other systems SO_REUSEPORT does not distribute
(on macOS one socket receives all connections): there all slots share one socket, and any worker accepts.

No socket listens before a worker does. Until then, and if no worker can be started, connections are refused.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from typing import Any

from coordinator.gateway.server.failures import CannotServe

REUSE_PORT = sys.platform == "linux"


class Listening:
    """Bound sockets, one for each slot. Raises CannotServe if the address cannot be bound."""

    def __init__(self, host: str, port: int, slots: int) -> None:
        self._family, self._address = _resolve(host, port)
        if REUSE_PORT:
            # Without SO_REUSEPORT first: else two supervisors of one user could share a port unnoticed.
            self._bind(reuse_port=False).close()
        first = self._bind(reuse_port=REUSE_PORT)
        self.host, self.port = first.getsockname()[:2]
        self._address = (self._address[0], self.port, *self._address[2:])
        self._sockets = [
            first,
            *(self._bind(reuse_port=True) if REUSE_PORT else first for _ in range(slots - 1)),
        ]

    @property
    def loopback(self) -> bool:
        """Whether only clients on this machine can connect."""
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        """The URL for clients on this machine."""
        address = ipaddress.ip_address(self.host)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared with
        return f"http://[{host}]:{self.port}" if address.version == 6 else f"http://{host}:{self.port}"

    def socket(self, slot: int) -> socket.socket:
        return self._sockets[slot]

    def renew(self, slot: int) -> None:
        """Replaces the socket of a slot whose worker is down for a while. Connections in its backlog are
        refused; the kernel sends further ones to the other slots. Does nothing where sockets are shared."""
        if REUSE_PORT:
            self._sockets[slot].close()
            self._sockets[slot] = self._bind(reuse_port=True)

    def close(self) -> None:
        """Idempotent. Closes the sockets, which frees the port when the workers have ended as well."""
        for one in self._sockets:
            one.close()

    def _bind(self, *, reuse_port: bool) -> socket.socket:
        bound = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.setblocking(False)
            bound.bind(self._address)
        except OSError as error:
            bound.close()
            raise _bind_failed(error, self._address[0], self._address[1]) from error
        return bound


def is_loopback(host: str) -> bool:
    """Returns whether `host`, a numeric address, is a loopback address."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


# Any: as socket.getaddrinfo returns it.
def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Resolves `host` to its first address, IPv4 before IPv6, as users expect of `localhost`."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotServe(
            f"--host {host!r} is neither an address of this machine nor a name of one: {_reason(error)}",
            "127.0.0.1 listens on this machine only, 0.0.0.0 on every address",
        ) from None
    family, _, _, _, address = min(addresses, key=lambda one: one[0] != socket.AF_INET)
    return family, address


def _bind_failed(error: OSError, host: str, port: int) -> CannotServe:
    endpoint = f"{host} port {port}"
    return CannotServe(f"cannot listen on {endpoint}: {_reason(error)}", _advice(error))


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "Stop what listens there, or name another port: --port 0 takes any that is free"
    if error.errno == errno.EACCES:
        return "Ports below 1024 need a privilege: name a higher one with --port"
    return "Name an address of this machine: --host 127.0.0.1"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
