"""Where Redis is: URLs, and connections opened through `redis-py` (addresses, TLS, AUTH, Sentinel).

    redis://[user:password@]host[:port][/db][?client_name=…]
    rediss://…                                                    TLS; ssl_* options as redis-py names them
    redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[/db][?sentinel_username=…&sentinel_password=…]
    rediss+sentinel://…                                           TLS to the sentinels and to the master
    unix://path

Options for pools, timeouts and retries are redis-py's own and mean nothing here: they are ignored. An unknown
one is an error at once, so that nobody runs with a misspelt `ssl_…`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit, urlunsplit

from redis.asyncio import Connection, Sentinel
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from coordinator.urls import redact_url

CONNECT_LIMIT = 1.0
"""Seconds for the whole of one attempt: sentinels, TCP, TLS, AUTH."""

_SENTINEL_LIMIT = 0.3
_DEFAULT_SENTINEL_PORT = 26379
_IGNORED = {
    "decode_responses", "encoding", "encoding_errors", "health_check_interval", "legacy_responses",
    "max_connections", "protocol", "retry_on_error", "retry_on_timeout", "socket_connect_timeout",
    "socket_keepalive", "socket_read_size", "socket_timeout", "timeout",
}  # fmt: skip


class Address:
    """A parsed URL. Making one does no I/O; raises ValueError, without secrets, for one that is of no use."""

    def __init__(self, url: str) -> None:
        self.redacted = redact_url(url)
        try:
            parts = urlsplit(url)
            self._sentinels, self._service, plain = _split_sentinel(parts)
            options = dict(cast("dict[str, Any]", parse_url(urlunsplit(plain))))
            sentinel_options = {
                name.removeprefix("sentinel_"): options.pop(name)
                for name in ("sentinel_username", "sentinel_password")
                if name in options
            }
        except ValueError:
            # Not chained: urllib quotes what it could not read, which may be the password.
            raise ValueError(f"not a usable Redis URL: {self.redacted}") from None
        self._make = cast("Callable[..., Connection]", options.pop("connection_class", Connection))
        self._options = {name: value for name, value in options.items() if name not in _IGNORED}
        self._check_options()
        self._sentinel_options = sentinel_options | _tls_options(self._options, plain.scheme)

    def __repr__(self) -> str:
        return f"Address({self.redacted})"

    def _check_options(self) -> None:
        try:
            self._make(**self._options)
        except TypeError as error:  # it names the option that nobody takes
            raise ValueError(f"not a usable Redis URL: {self.redacted}: {error}") from None
        except (ValueError, RedisError):
            raise ValueError(f"not a usable Redis URL: {self.redacted}: the value of an option") from None

    async def connect(self) -> Connection:
        """A new authenticated connection, which the caller must `disconnect`. Bounded by the caller.

        Raises OSError or RedisError. Retries nothing.
        """
        options = self._options | await self._find_master()
        connection = self._make(
            **options,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=CONNECT_LIMIT,
            retry=_no_retry(),
        )
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _find_master(self) -> dict[str, Any]:
        if not self._sentinels:
            return {}
        sentinel = Sentinel(
            self._sentinels,
            sentinel_kwargs={
                **self._sentinel_options,
                "protocol": 2,
                "retry": _no_retry(),
                "socket_timeout": _SENTINEL_LIMIT,
                "socket_connect_timeout": _SENTINEL_LIMIT,
            },
        )
        try:
            host, port = cast("tuple[str, int]", await cast("Any", sentinel).discover_master(self._service))
        finally:
            # The one that answered is asked first next time: one that is gone costs its limit only once.
            self._sentinels = [_address_of(client) for client in sentinel.sentinels]
            await sentinel.aclose()
        return {"host": host, "port": port}


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)


def _address_of(client: Any) -> tuple[str, int]:
    options = client.connection_pool.connection_kwargs
    return options["host"], options["port"]


def _split_sentinel(parts: SplitResult) -> tuple[list[tuple[str, int]], str, SplitResult]:
    """The sentinels, the service, and the rest as a URL that `redis-py` reads."""
    base, plus, kind = parts.scheme.partition("+")
    if not plus:
        return [], "", parts
    service, _, database = parts.path.lstrip("/").partition("/")
    credentials, at, hosts = parts.netloc.rpartition("@")
    sentinels = [_split_host(host) for host in hosts.split(",")]
    if kind != "sentinel" or not service:
        raise ValueError
    plain = parts._replace(scheme=base, netloc=f"{credentials}{at}master", path=f"/{database}")
    return sentinels, service, plain


def _split_host(text: str) -> tuple[str, int]:
    place = urlsplit(f"//{text}")
    if not place.hostname:
        raise ValueError
    return place.hostname, place.port or _DEFAULT_SENTINEL_PORT


def _tls_options(options: dict[str, Any], scheme: str) -> dict[str, Any]:
    if scheme != "rediss":
        return {}
    return {"ssl": True} | {name: value for name, value in options.items() if name.startswith("ssl_")}
