"""Head: what the guards check of a request's headers, from one walk over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.types import Scope

Head = Mapping[bytes, Sequence[str]]
"""All values of each checked header, by its name in lower case; a header that is absent has no entry. Guards
must handle several values: proxies and servers may choose different ones."""

_CHECKED = frozenset(
    {b"host", b"origin", b"sec-fetch-site", b"sec-fetch-dest", b"content-length", b"content-encoding"}
)


def pick_head(scope: Scope) -> Head:
    """Picks the head and keeps it for the guards behind this one. Middleware before it may change headers."""
    head: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        if name in _CHECKED:
            head.setdefault(name, []).append(value.decode("latin-1"))
    scope.setdefault("state", {})["head"] = head
    return head


def head_of(scope: Scope) -> Head:
    """Returns the head that `Hosts`, the first guard, has picked."""
    head: Head | None = scope.get("state", {}).get("head")
    return pick_head(scope) if head is None else head
