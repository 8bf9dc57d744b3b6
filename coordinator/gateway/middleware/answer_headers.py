"""Security headers of each response: no content sniffing, no framing."""

from __future__ import annotations

from collections.abc import Iterable

Header = tuple[bytes, bytes]

_ALWAYS = {b"x-content-type-options": b"nosniff", b"x-frame-options": b"DENY"}
_FOR_PAGES = {
    b"content-security-policy": b"default-src 'self'; script-src 'self' 'unsafe-inline';"
    b" style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none';"
    b" form-action 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
}


def with_protection(headers: Iterable[Header]) -> list[Header]:
    """Returns the headers plus the missing security headers. Those that a page sets itself are kept."""
    existing = [(name.lower(), value) for name, value in headers]
    names = dict(existing)
    missing = dict(_ALWAYS)
    if names.get(b"content-type", b"").startswith(b"text/html"):
        missing |= _FOR_PAGES
    return existing + [(name, value) for name, value in missing.items() if name not in names]
