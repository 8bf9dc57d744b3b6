"""Connections of redis-py that connect to a resolved address, with a shared TLS context.

This module contains all uses of redis-py's internals: `_connection_arguments` (the arguments of
`asyncio.open_connection`) and the two streams of a connection. `check_library` refuses a version without
them."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Connection, SSLConnection

_FILES = ("certfile", "keyfile", "ca_certs", "ca_path")


class TlsContexts:
    """Caches the TLS context of one URL, because making one takes tens of milliseconds. It is made again when
    one of its files changes, for example by a rotation of certificates."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None
        self._versions: list[tuple[str, int, int]] = []

    def get(self, source: Any) -> ssl.SSLContext:  # Any: a connection of either kind
        """Returns the context for `source`, which is redis-py's description of it. Raises OSError for an
        unusable file."""
        files = [Path(name) for key in _FILES if (name := getattr(source, key, None))]
        stats = [(str(file), file.stat()) for file in files]
        versions = [(name, stat.st_mtime_ns, stat.st_ino) for name, stat in stats]
        if self._context is None or versions != self._versions:
            self._context, self._versions = cast("ssl.SSLContext", source.get()), versions
        return self._context


class PlainConnection(Connection):
    """`address`: the IP address to connect to, instead of resolving `host`."""

    address: str | None = None

    def _connection_arguments(self) -> dict[str, Any]:  # Any: as redis-py has it
        arguments = dict(cast("Any", super())._connection_arguments())  # Any: not in the stub
        return arguments if self.address is None else arguments | {"host": self.address}


class TlsConnection(SSLConnection):
    """As `PlainConnection`; certificates are checked against `host`."""

    address: str | None = None
    contexts: TlsContexts | None = None

    def _connection_arguments(self) -> dict[str, Any]:  # Any: as redis-py has it
        inside = cast("Any", self)  # Any: not in the stub
        context = (self.contexts or TlsContexts()).get(inside.ssl_context)
        host = inside.host
        return {
            "host": self.address or host,
            "port": inside.port,
            "ssl": context,
            "server_hostname": host,
        }


def check_library(connection: object) -> None:
    """Raises ValueError if the installed redis-py lacks the internals that this module uses."""
    missing = [name for name in ("_reader", "_writer") if not hasattr(connection, name)]
    if not hasattr(Connection, "_connection_arguments"):
        missing.append("_connection_arguments")
    if missing:
        raise ValueError(f"the installed redis-py has no {', '.join(missing)}: install another version")


def streams_of(connection: object) -> tuple[asyncio.StreamReader, asyncio.Transport]:
    """Returns the streams of an open connection. Its buffers are empty, because the handshake has read all
    its replies."""
    inside = cast("Any", connection)  # Any: not in the stub
    return inside._reader, inside._writer.transport
