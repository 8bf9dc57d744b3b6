"""The address of Redis: parses URLs, and opens connections through `redis-py` (names, TLS, AUTH, Sentinel).

redis://[user:password@]host[:port][/db][?client_name=…] rediss://… TLS; ssl_* options of redis-py
redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[/db][?sentinel_username=…&sentinel_password=…]
rediss+sentinel://… TLS to the sentinels and to the master unix://path

Options of redis-py for pools, timeouts and retries have no effect here and are ignored. An unknown option
raises at once, so that a misspelt `ssl_…` cannot go unnoticed.
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
from coordinator.redis.sentinels import SENTINEL_LIMIT, HostPort, Sentinels
from coordinator.urls import redact_url

CONNECT_LIMIT = 1.0
"""Seconds for one attempt as a whole: sentinels, TCP, TLS, AUTH."""

_DEFAULT_SENTINEL_PORT = 26379
_IGNORED = {
    "decode_responses", "encoding", "encoding_errors", "health_check_interval", "legacy_responses",
    "max_connections", "protocol", "retry_on_error", "retry_on_timeout", "socket_connect_timeout",
    "socket_keepalive", "socket_read_size", "socket_timeout", "timeout",
}  # fmt: skip


_FIXED: dict[str, object] = {
    "protocol": 2,
    "socket_timeout": None,
    "socket_connect_timeout": CONNECT_LIMIT,
    "retry": Retry(NoBackoff(), 0),
}


class OpenConnection(NamedTuple):
    """An open connection. `server` is the host and port in the URL, or those that `sentinel` returned;
    `address` is the IP address of that host. All are None for a Unix socket."""

    connection: Connection
    server: HostPort | None = None
    address: str | None = None
    sentinel: HostPort | None = None


class Address:
    """A parsed URL. The constructor opens no connection. It raises ValueError, without secrets in the text,
    for an unusable URL or an unusable TLS file that the URL names. `credentials` replaces user and
    password."""

    def __init__(self, url: str, credentials: Credentials | None = None) -> None:
        self.redacted = redact_url(url)
        try:
            parts = urlsplit(url)
            sentinels, service, plain = _split_sentinel(parts)
            # Any: the stub of parse_url is partially unknown.
            options = dict(cast("dict[str, Any]", parse_url(urlunsplit(plain))))
            sentinel_options = {
                name.removeprefix("sentinel_"): options.pop(name)
                for name in ("sentinel_username", "sentinel_password")
                if name in options
            }
        except ValueError:
            # Not chained: urllib quotes the text that it cannot parse, which may contain the password.
            raise ValueError(f"not a usable Redis URL: {self.redacted}") from None
        self._service = service
        # With an unescaped "@" in the query, the name of an unknown option may be a part of a password.
        self._may_quote_options = "@" not in parts.query
        self.tls = plain.scheme == "rediss"
        self._connection_class = _connection_class(options.pop("connection_class", Connection))
        self._options = {name: value for name, value in options.items() if name not in _IGNORED}
        self._take_credentials(credentials)
        self._contexts, self._names = TlsContexts(), Names()
        self._check_options()
        self._sentinels = Sentinels(sentinels, service, self._query_sentinel) if sentinels else None
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
            connection = self._connection_class(**self._options)
        except TypeError as error:  # its text names the unknown option
            why = str(error) if self._may_quote_options else "an option is unknown"
            raise ValueError(f"not a usable Redis URL: {self.redacted}: {why}") from None
        except (ValueError, RedisError):
            raise ValueError(
                f"not a usable Redis URL: {self.redacted}: an option has a wrong value"
            ) from None
        check_library(connection)
        if isinstance(connection, TlsConnection):
            try:
                self._contexts.get(connection.ssl_context)
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                why = f"a certificate, key or CA file cannot be used: {error}"
                raise ValueError(f"not a usable Redis URL: {self.redacted}: {why}") from None

    async def connect(self) -> OpenConnection:
        """Returns a new authenticated connection, which the caller must `disconnect`. The caller sets the
        timeout.

        Raises OSError, RedisError, or an error of the credentials. Tries each IP address of a name once. A
        sentinel whose server cannot be connected to is queried last from then on."""
        if self._sentinels is None:
            host = self._options.get("host", "localhost")
            if "path" in self._options:
                return OpenConnection(await self._open(self._connection_class(**self._options, **_FIXED)))
            return await self._connect_to(HostPort(host, self._options.get("port", 6379)))
        server, sentinel = await self._sentinels.master()
        try:
            return (await self._connect_to(server))._replace(sentinel=sentinel)
        except BaseException:
            self._sentinels.distrust(sentinel)
            raise

    def distrust(self, opened: OpenConnection) -> None:
        """Queries the sentinel of `opened` last from now on, because the server accepted the connection but
        is unusable."""
        if self._sentinels is not None and opened.sentinel is not None:
            self._sentinels.distrust(opened.sentinel)

    async def moved_from(self, opened: OpenConnection) -> str | None:
        """Returns the server of a new connection, for people, if it differs from that of `opened`; else None.
        Raises OSError, RedisError."""
        server = opened.server
        if server is None:
            return None
        if self._sentinels is not None:
            other = await self._sentinels.other_master(server)
            return None if other is None else f"the sentinels name {other}"
        addresses = await self._names.addresses(*server)
        if opened.address in addresses:
            return None
        return f"{server.host} is {addresses[0]} and not {opened.address}"

    async def _connect_to(self, server: HostPort) -> OpenConnection:
        failure: Exception = OSError(f"{server.host} has no address")
        for address in await self._names.addresses(*server):
            options = {**self._options, "host": server.host, "port": server.port, **_FIXED}
            try:
                connection = await self._open(self._connection_class(**options), address)
            except AuthenticationError:
                raise
            except (OSError, RedisError) as error:
                failure = error
            else:
                return OpenConnection(connection, server, address)
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

    async def _query_sentinel(self, sentinel: HostPort) -> HostPort:
        (address, *_) = await self._names.addresses(*sentinel)
        connection_class = TlsConnection if self.tls else PlainConnection
        limits = {"socket_timeout": SENTINEL_LIMIT, "socket_connect_timeout": SENTINEL_LIMIT}
        options = {**self._sentinel_options, "host": sentinel.host, "port": sentinel.port, **_FIXED, **limits}
        connection = await self._open(cast("Callable[..., Connection]", connection_class)(**options), address)
        try:
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            match cast("object", await connection.read_response()):
                case [bytes(host), bytes(port)]:
                    return HostPort(host.decode(), int(port))
                case None:
                    raise ValueError("it does not know the service")
                case _:
                    raise ValueError("its reply is not that of a sentinel")
        finally:
            await connection.disconnect(nowait=True)


def _connection_class(given: object) -> Callable[..., Connection]:
    replacements = {Connection: PlainConnection, SSLConnection: TlsConnection}
    # Any: a class of connections; its stub is generic.
    return cast("Callable[..., Connection]", replacements.get(cast("Any", given), given))


def _split_sentinel(parts: SplitResult) -> tuple[list[HostPort], str, SplitResult]:
    """Returns the sentinels, the service, and the rest as a URL that `redis-py` parses."""
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


def _split_host(text: str) -> HostPort:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return HostPort(parts.hostname, parts.port or _DEFAULT_SENTINEL_PORT)


def _tls_options(options: dict[str, Any], scheme: str) -> dict[str, Any]:  # Any: of redis-py, by name
    if scheme != "rediss":
        return {}
    return {name: value for name, value in options.items() if name.startswith("ssl_")}
