"""redis-py's connections, opened to an address that was looked up before, with a TLS context that is shared.

All that is used of redis-py's inside is here: `_connection_arguments`, what is given to
`asyncio.open_connection`, and the two streams that come back. `check_library` refuses a version in which
they are missing."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Connection, SSLConnection

_FILES = ("certfile", "keyfile", "ca_certs", "ca_path")


class TlsContexts:
    """The context of one URL. Made once, because it costs tens of milliseconds, and anew when one of its
    files was changed, as rotated certificates are."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None
        self._made_of: list[tuple[str, int, int]] = []

    def get(self, source: Any) -> ssl.SSLContext:
        """`source` is redis-py's description of a context. Raises OSError for a file that cannot be used."""
        files = [Path(name) for key in _FILES if (name := getattr(source, key, None))]
        stats = [(str(file), file.stat()) for file in files]
        made_of = [(name, found.st_mtime_ns, found.st_ino) for name, found in stats]
        if self._context is None or made_of != self._made_of:
            self._context, self._made_of = cast("ssl.SSLContext", source.get()), made_of
        return self._context


class PlainConnection(Connection):
    """`address`: where to connect instead of looking `host` up."""

    address: str | None = None

    def _connection_arguments(self) -> dict[str, Any]:
        arguments = dict(cast("Any", super())._connection_arguments())
        return arguments if self.address is None else arguments | {"host": self.address}


class TlsConnection(SSLConnection):
    """As `PlainConnection`; certificates are checked against `host`."""

    address: str | None = None
    contexts: TlsContexts | None = None

    def _connection_arguments(self) -> dict[str, Any]:
        inside = cast("Any", self)
        context = (self.contexts or TlsContexts()).get(inside.ssl_context)
        host = inside.host
        return {
            "host": self.address or host,
            "port": inside.port,
            "ssl": context,
            "server_hostname": host,
        }


def check_library(connection: object) -> None:
    """Raises ValueError where the installed redis-py is not built as this package needs it."""
    missing = [name for name in ("_reader", "_writer") if not hasattr(connection, name)]
    if not hasattr(Connection, "_connection_arguments"):
        missing.append("_connection_arguments")
    if missing:
        raise ValueError(f"the installed redis-py has no {', '.join(missing)}: install another version")


def streams_of(connection: object) -> tuple[asyncio.StreamReader, asyncio.Transport]:
    """Of an open connection. Its handshake has read all that it asked for: its buffers are empty."""
    inside = cast("Any", connection)
    return inside._reader, inside._writer.transport
