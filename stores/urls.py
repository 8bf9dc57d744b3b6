"""Redaction of URLs of stores and of Redis."""

from __future__ import annotations

import re

HIDDEN = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"([\w.%-]*|\[[0-9A-Fa-f:.%\w]*\])(:\d*)?", re.ASCII)
_WITH_CREDENTIALS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*@[^\s'\"]*")


def redact_url(url: str) -> str:
    """Returns the URL without user, password, options and fragment, for logs and messages. Accepts any text:
    a part with an unexpected format is hidden, because it may belong to a password."""
    scheme, separator, rest = url.partition("://")
    if not separator or _SCHEME.fullmatch(scheme) is None:
        return HIDDEN
    # Split at the last @, because a password may contain an unescaped / ? # or @.
    credentials, at, location = rest.rpartition("@")
    location = location.partition("?")[0].partition("#")[0]
    hosts, slash, path = location.partition("/")
    if not all(_HOST.fullmatch(host) for host in hosts.split(",")):
        return f"{scheme}://{HIDDEN}"
    if scheme in {"redis", "rediss"} and path and not path.isdecimal():  # a database is a number
        path = HIDDEN
    return f"{scheme}://{f'{HIDDEN}@' if credentials or at else ''}{hosts}{slash}{path}"


def redact_urls_in(text: str) -> str:
    """Returns the text with each URL that has credentials redacted, for messages that quote user input."""
    return _WITH_CREDENTIALS.sub(lambda match: redact_url(match[0]), text)
