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
from typing import Any, NamedTuple, cast
from urllib.parse import SplitResult, urlsplit, urlunsplit

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from coordinator.redis.connections import PlainConnection, TlsConnection, TlsContexts, check_library
from coordinator.redis.credentials import Credentials, Provider
from coordinator.redis.names import Names
from coordinator.redis.sentinels import SENTINEL_LIMIT, Place, Sentinels
from coordinator.urls import redact_url

CONNECT_LIMIT = 1.0
"""Seconds for the whole of one attempt: sentinels, TCP, TLS, AUTH."""

_DEFAULT_SENTINEL_PORT = 26379
_IGNORED = {
    "decode_responses", "encoding", "encoding_errors", "health_check_interval", "legacy_responses",
    "max_connections", "protocol", "retry_on_error", "retry_on_timeout", "socket_connect_timeout",
    "socket_keepalive", "socket_read_size", "socket_timeout", "timeout",
}  # fmt: skip


_FIXED: dict[str, Any] = {
    "protocol": 2,
    "socket_timeout": None,
    "socket_connect_timeout": CONNECT_LIMIT,
    "retry": Retry(NoBackoff(), 0),
}


class Opened(NamedTuple):
    """`place` is what the URL or the `sentinel` named, `address` the IP address it had. None for a Unix
    socket."""

    connection: Connection
    place: Place | None = None
    address: str | None = None
    sentinel: Place | None = None


class Address:
    """A parsed URL. Making one opens no connection; raises ValueError, without secrets, for one that is of
    no use, also where a file that it names for TLS cannot be used. `credentials` take the place of user and
    password."""

    def __init__(self, url: str, credentials: Credentials | None = None) -> None:
        self.redacted = redact_url(url)
        try:
            parts = urlsplit(url)
            sentinels, service, plain = _split_sentinel(parts)
            options = dict(cast("dict[str, Any]", parse_url(urlunsplit(plain))))
            sentinel_options = {
                name.removeprefix("sentinel_"): options.pop(name)
                for name in ("sentinel_username", "sentinel_password")
                if name in options
            }
        except ValueError:
            # Not chained: urllib quotes what it could not read, which may be the password.
            raise ValueError(f"not a usable Redis URL: {self.redacted}") from None
        self._service = service
        # Else what looks like the name of an option may be a part of a password.
        self._names_options = "@" not in parts.query
        self.tls = plain.scheme == "rediss"
        self._make = _maker(options.pop("connection_class", Connection))
        self._options = {name: value for name, value in options.items() if name not in _IGNORED}
        self._take_credentials(credentials)
        self._contexts, self._names = TlsContexts(), Names()
        self._check_options()
        self._sentinels = Sentinels(sentinels, service, self._ask_sentinel) if sentinels else None
        self._sentinel_options = sentinel_options | _tls_options(self._options, plain.scheme)

    def __repr__(self) -> str:
        return f"Address({self.redacted})"

    def _take_credentials(self, credentials: Credentials | None) -> None:
        if credentials is None:
            return
        if "username" in self._options or "password" in self._options:
            raise ValueError(f"not a usable Redis URL: {self.redacted}: it has credentials beside a provider")
        self._options["credential_provider"] = Provider(credentials)

    def _check_options(self) -> None:
        """Raises ValueError."""
        try:
            connection = self._make(**self._options)
        except TypeError as error:  # it names the option that nobody takes
            why = str(error) if self._names_options else "an option that is not known"
            raise ValueError(f"not a usable Redis URL: {self.redacted}: {why}") from None
        except (ValueError, RedisError):
            raise ValueError(f"not a usable Redis URL: {self.redacted}: the value of an option") from None
        check_library(connection)
        if isinstance(connection, TlsConnection):
            try:
                self._contexts.get(connection.ssl_context)
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                why = f"a certificate, key or CA file cannot be used: {error}"
                raise ValueError(f"not a usable Redis URL: {self.redacted}: {why}") from None

    async def connect(self) -> Opened:
        """A new authenticated connection, which the caller must `disconnect`. Bounded by the caller.

        Raises OSError or RedisError, or what credentials raise. Retries nothing, but tries each IP address
        of a name. A sentinel whose answer leads nowhere is asked last next time."""
        if self._sentinels is None:
            host = self._options.get("host", "localhost")
            if "path" in self._options:
                return Opened(await self._open(self._make(**self._options, **_FIXED)))
            return await self._connect_to(Place(host, self._options.get("port", 6379)))
        place, sentinel = await self._sentinels.master()
        try:
            return (await self._connect_to(place))._replace(sentinel=sentinel)
        except BaseException:
            self._sentinels.distrust(sentinel)
            raise

    def distrust(self, opened: Opened) -> None:
        """The server was of no use although it took the connection."""
        if self._sentinels is not None and opened.sentinel is not None:
            self._sentinels.distrust(opened.sentinel)

    async def moved_from(self, opened: Opened) -> str | None:
        """Where a new connection would go, for people, if that is elsewhere. Raises OSError, RedisError."""
        place = opened.place
        if place is None:
            return None
        if self._sentinels is not None:
            other = await self._sentinels.another_than(place)
            return None if other is None else f"the sentinels name {other}"
        addresses = await self._names.addresses(*place)
        if opened.address in addresses:
            return None
        return f"{place.host} is {addresses[0]} and not {opened.address}"

    async def _connect_to(self, place: Place) -> Opened:
        failure: Exception = OSError(f"{place.host} has no address")
        for address in await self._names.addresses(*place):
            options = {**self._options, "host": place.host, "port": place.port, **_FIXED}
            try:
                connection = await self._open(self._make(**options), address)
            except AuthenticationError:
                raise
            except (OSError, RedisError) as error:
                failure = error
            else:
                return Opened(connection, place, address)
        raise failure

    async def _open(self, connection: Connection, address: str | None = None) -> Connection:
        if isinstance(connection, PlainConnection | TlsConnection):
            connection.address = address
        if isinstance(connection, TlsConnection):
            connection.contexts = self._contexts
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _ask_sentinel(self, sentinel: Place) -> Place:
        (address, *_) = await self._names.addresses(*sentinel)
        make = TlsConnection if self.tls else PlainConnection
        limits = {"socket_timeout": SENTINEL_LIMIT, "socket_connect_timeout": SENTINEL_LIMIT}
        options = {**self._sentinel_options, "host": sentinel.host, "port": sentinel.port, **_FIXED, **limits}
        connection = await self._open(cast("Callable[..., Connection]", make)(**options), address)
        try:
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            match cast("object", await connection.read_response()):
                case [bytes(host), bytes(port)]:
                    return Place(host.decode(), int(port))
                case None:
                    raise ValueError("it does not know the service")
                case _:
                    raise ValueError("its answer is none of a sentinel")
        finally:
            await connection.disconnect(nowait=True)


def _maker(given: object) -> Callable[..., Connection]:
    ours = {Connection: PlainConnection, SSLConnection: TlsConnection}
    return cast("Callable[..., Connection]", ours.get(cast("Any", given), given))


def _split_sentinel(parts: SplitResult) -> tuple[list[Place], str, SplitResult]:
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


def _split_host(text: str) -> Place:
    place = urlsplit(f"//{text}")
    if not place.hostname:
        raise ValueError
    return Place(place.hostname, place.port or _DEFAULT_SENTINEL_PORT)


def _tls_options(options: dict[str, Any], scheme: str) -> dict[str, Any]:
    if scheme != "rediss":
        return {}
    return {name: value for name, value in options.items() if name.startswith("ssl_")}
