"""URLs as people may see them."""

from __future__ import annotations


def redact_url(url: str) -> str:
    """The URL without user, password and options, for logs. Takes any text; what it cannot read it hides."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***"
    # From the last @: an unescaped / ? # or @ in a password would else end up in the host.
    credentials, at, place = rest.rpartition("@")
    place = place.partition("?")[0].partition("#")[0]
    return f"{scheme}://{'***@' if credentials or at else ''}{place}"
