"""The server's address: a URL as in libpq, with one host or several."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from stores.urls import redact_url

_PORT = re.compile(r"(.*?)(?::(?P<port>[^:\]]*))?", re.DOTALL)
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
_ESCAPE = "in user and password, / ? # @ : and % are written %2F %3F %23 %40 %3A and %25"


class UnusableUrl(ValueError):
    """A URL that leads to no server. The message has no part of the URL that may be secret; raise it
    `from None`, because parsers' messages quote what they could not read."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"not a usable PostgreSQL URL: {redact_url(url)}: {why}")


class Address:
    """postgresql://user:password@host:port,host:port/database?target_session_attrs=…&sslmode=…

    Unless the URL has target_session_attrs, only a server that takes writes is used. Raises UnusableUrl, a
    ValueError. `redacted` is for display.
    """

    def __init__(self, url: str) -> None:
        self.redacted = redact_url(url)
        try:
            parts = urlsplit(url)
            query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError:
            raise UnusableUrl(url, f"it cannot be read: {_ESCAPE}") from None
        if (why := _fault_of(parts, query)) is not None:
            raise UnusableUrl(url, why)
        self._url = url
        self._any = query.get("target_session_attrs")

    def __repr__(self) -> str:
        return f"Address({self.redacted})"

    def refused(self, why: str) -> UnusableUrl:
        """What the driver rejects in the URL, in words that do not quote it."""
        return UnusableUrl(self._url, why)

    def servers(self) -> list[dict[str, Any]]:  # Any: arguments of asyncpg.connect
        """For `asyncpg.connect`, which bounds the time for all servers of a URL together: each by itself.
        Those that a service file or PGHOST names are one."""
        common = {"dsn": self._url, "target_session_attrs": self._any or "read-write"}
        parts = urlsplit(self._url)
        hosts = parts.netloc.rpartition("@")[2]
        if "," in hosts:
            who = parts.netloc[: -len(hosts)]
            return [
                {**common, "dsn": urlunsplit(parts._replace(netloc=f"{who}{host}"))}
                for host in hosts.split(",")
            ]
        query = dict(parse_qsl(parts.query))
        if not hosts and "," in query.get("host", ""):
            each = query.pop("host").split(",")
            ports = query.pop("port", "").split(",")
            ports = ports if len(ports) == len(each) else ports[:1] * len(each)
            return [
                {**common, "dsn": self._with({**query, "host": host, **({"port": port} if port else {})})}
                for host, port in zip(each, ports, strict=True)
            ]
        return [common]

    def _with(self, query: dict[str, str]) -> str:
        return f"{self._url.partition('?')[0]}?{urlencode(query)}"


def _fault_of(parts: SplitResult, query: Mapping[str, str]) -> str | None:
    """What is wrong with a URL, without quoting it."""
    if parts.scheme not in {"postgresql", "postgres"}:
        return "it must begin with postgresql://"
    who, _, hosts = parts.netloc.rpartition("@")
    if "@" in who or "@" in parts.path or parts.fragment:
        return f"a character has to be escaped: {_ESCAPE}"
    written = [_PORT.fullmatch(host) for host in hosts.split(",")]
    ports = [port["port"] for port in written if port is not None and port["port"]]
    ports += [port for port in query.get("port", "").split(",") if port]
    if not all(port.isascii() and port.isdecimal() and 0 < int(port) < 65536 for port in ports):
        return f"a port must be a number from 1 to 65535; and {_ESCAPE}"
    if not parts.path.strip("/"):
        return "name a database, as in postgresql://host/database"
    for name, choices in _CHOICES.items():
        if name in query and query[name] not in choices:
            return f"{name} must be one of {', '.join(choices)}"
    return None
