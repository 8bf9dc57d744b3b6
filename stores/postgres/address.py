"""Where the server is: a URL as libpq has it, with several hosts if need be."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

_SECRET = frozenset({"password", "sslpassword", "passfile"})


class Address:
    """postgresql://user:password@host:port,host:port/database?target_session_attrs=…&sslmode=…

    Unless the URL says otherwise only a server that takes writes will do. Raises ValueError for what is no
    such URL. `redacted` is for people.
    """

    def __init__(self, url: str) -> None:
        self.redacted = redacted(url)
        parts = urlsplit(url)
        if parts.scheme not in {"postgresql", "postgres"}:
            raise ValueError(f"not a PostgreSQL URL: {self.redacted}")
        if not parts.path.strip("/"):
            raise ValueError(f"name a database, as postgresql://host/database: {self.redacted}")
        self._url = url
        self._any = dict(parse_qsl(parts.query)).get("target_session_attrs")

    def __repr__(self) -> str:
        return f"Address({self.redacted})"

    def servers(self) -> list[dict[str, Any]]:
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


def redacted(url: str) -> str:
    """Without its password, wherever that stands."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://…"
    user, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = user.partition(":")
    query = [(name, "…" if name in _SECRET else value) for name, value in parse_qsl(parts.query)]
    shown = urlencode(query, quote_via=quote, safe="…/,")
    return urlunsplit((parts.scheme, f"{user}{':…' if colon else ''}{at}{hosts}", parts.path, shown, ""))
