"""The port for state that threads keep outside of this store, in the storages of assistants.

A storage has a `kind`. The start of a run notes for its thread the kind in its `rollback_ref`. The
transaction that removes a thread leaves its notes as an outbox, with the fence that the thread had: a worker
with a storage of that kind removes the state there, and then the note. So a crash between the two stores
leaves no state for ever.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast, runtime_checkable

from stores.json_values import Json, JsonObject
from stores.rows import Ownership

IN_STORE = "values"
"""The kind of state that this store keeps itself, in `threads.values`: it is removed with the thread."""

RETRY_AFTER = 30_000_000
"""us from a claim of removed state until the next one; each further claim doubles it."""
RETRY_DOUBLINGS = 7
"""At most: about one hour."""


def noted_kind(rollback_ref: Json) -> str | None:
    """Returns the kind of the storage that made a rollback_ref; None for IN_STORE."""
    kind = cast("JsonObject", rollback_ref).get("kind") if isinstance(rollback_ref, dict) else None
    return kind if isinstance(kind, str) and kind != IN_STORE else None


class RemovedState(NamedTuple):
    """State that a removed thread has left in the storage `kind`. `fence`: the last one of that thread; a
    thread that is made again under its id has greater ones. `attempts`: the number of claims."""

    thread_id: str
    kind: str
    fence: int
    attempts: int = 0


@runtime_checkable
class ThreadStatesStore(Protocol):
    async def note_states(self, own: Ownership, kinds: Sequence[str]) -> None:
        """Notes that the thread, which `own` holds, has state of these kinds. `start` notes the kind of its
        rollback reference. Idempotent. Raises StaleFence."""
        ...

    async def claim_removed_states(self, kinds: Sequence[str], *, limit: int) -> list[RemovedState]:
        """Returns at most `limit` that are due and of these kinds, those that have been due longest, in the
        order of their thread ids. Each is due again after RETRY_AFTER, longer with each claim, unless
        `forget_removed_states` comes before."""
        ...

    async def forget_removed_states(self, states: Sequence[RemovedState]) -> None:
        """The storages have removed these. Idempotent; no effect on a note with another fence."""
        ...

    async def removed_state(self, thread_id: str, kind: str) -> RemovedState | None:
        """Returns what an earlier thread with this id has left there and is not removed yet, whether or not
        it is due. A read."""
        ...
