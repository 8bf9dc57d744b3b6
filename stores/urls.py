"""URLs of stores and of Redis, as people may see them."""

from __future__ import annotations

import re

HIDDEN = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"([\w.%-]*|\[[0-9A-Fa-f:.%\w]*\])(:\d*)?", re.ASCII)
_WITH_CREDENTIALS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*@[^\s'\"]*")


def redact_url(url: str) -> str:
    """The URL without user, password, options and fragment, for logs and messages. Takes any text; a part
    that does not look like what should be there is hidden, because it may belong to a password."""
    scheme, separator, rest = url.partition("://")
    if not separator or _SCHEME.fullmatch(scheme) is None:
        return HIDDEN
    # From the last @: an unescaped / ? # or @ in a password would else end up in the host.
    credentials, at, place = rest.rpartition("@")
    place = place.partition("?")[0].partition("#")[0]
    hosts, slash, path = place.partition("/")
    if not all(_HOST.fullmatch(host) for host in hosts.split(",")):
        return f"{scheme}://{HIDDEN}"
    if scheme in {"redis", "rediss"} and path and not path.isdecimal():  # a database is a number
        path = HIDDEN
    return f"{scheme}://{f'{HIDDEN}@' if credentials or at else ''}{hosts}{slash}{path}"


def redact_urls_in(text: str) -> str:
    """The text with each URL that has credentials redacted. For messages that repeat what was typed."""
    return _WITH_CREDENTIALS.sub(lambda found: redact_url(found[0]), text)
