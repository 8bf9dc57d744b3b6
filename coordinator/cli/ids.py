"""Ids given as arguments: complete, or as a unique prefix."""

from __future__ import annotations

from coordinator.arguments import check_id
from coordinator.cli.failures import CommandFailed
from stores.finding import FindingStore, IdKind

_MAX_CANDIDATES = 5
"""Maximum number of candidates in an error."""


async def whole_id(store: FindingStore, kind: IdKind, given: str, *, argument: str) -> str:
    """Return the id with the prefix `given`; `given` itself if it is an id, or no id has this prefix. One
    index read. Raises InvalidArgument for an invalid id, CommandFailed for an ambiguous prefix."""
    check_id(argument, given)
    candidates = await store.ids_from(kind, given, limit=_MAX_CANDIDATES + 1)
    if not candidates or candidates[0] == given:
        return given
    if len(candidates) > 1:
        number = f"more than {_MAX_CANDIDATES}" if len(candidates) > _MAX_CANDIDATES else len(candidates)
        raise CommandFailed(
            "AmbiguousId",
            f"{number} {kind}s begin with {given!r}, for example {', '.join(candidates[:_MAX_CANDIDATES])}",
            "Give more characters of the id.",
            argument=argument,
        )
    return candidates[0]


async def optional_id(store: FindingStore, kind: IdKind, given: str | None, *, argument: str) -> str | None:
    return None if given is None else await whole_id(store, kind, given, argument=argument)
