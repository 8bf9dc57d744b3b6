"""Headers of each answer, by which a browser takes it for what it is and shows it in no frame."""

from __future__ import annotations

from collections.abc import Iterable

Header = tuple[bytes, bytes]

_ALWAYS = {b"x-content-type-options": b"nosniff", b"x-frame-options": b"DENY"}
_OF_PAGES = {
    b"content-security-policy": b"default-src 'self'; script-src 'self' 'unsafe-inline';"
    b" style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none';"
    b" form-action 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
}


def with_protection(headers: Iterable[Header]) -> list[Header]:
    """The headers with those that are missing; a page's own policy stays."""
    given = [(name.lower(), value) for name, value in headers]
    names = dict(given)
    missing = dict(_ALWAYS)
    if names.get(b"content-type", b"").startswith(b"text/html"):
        missing |= _OF_PAGES
    return given + [(name, value) for name, value in missing.items() if name not in names]
