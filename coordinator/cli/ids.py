"""Ids as people give them: whole, or how they begin, as far as that is one id."""

from __future__ import annotations

from coordinator.arguments import check_id
from coordinator.cli.failures import CommandFailed
from stores.finding import FindingStore, IdKind

_NAMED = 5
"""Candidates that an error names."""


async def whole_id(store: FindingStore, kind: IdKind, given: str, *, argument: str) -> str:
    """The id that begins so; `given` itself where it is one, or where none begins so. One read of an index.
    Raises InvalidArgument for what can be no id, CommandFailed where several begin so."""
    check_id(argument, given)
    found = await store.ids_from(kind, given, limit=_NAMED + 1)
    if not found or found[0] == given:
        return given
    if len(found) > 1:
        number = f"more than {_NAMED}" if len(found) > _NAMED else len(found)
        raise CommandFailed(
            "AmbiguousId",
            f"{number} {kind}s begin with {given!r}, among them {', '.join(found[:_NAMED])}",
            "Give more of the id.",
            argument=argument,
        )
    return found[0]


async def optional_id(store: FindingStore, kind: IdKind, given: str | None, *, argument: str) -> str | None:
    return None if given is None else await whole_id(store, kind, given, argument=argument)
