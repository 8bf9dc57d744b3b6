"""Ports that some stores have. Their callers check for them with `isinstance`, once: a check takes 5 us, as
much as all else that is done for a run which leaves memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable


@runtime_checkable
class EchoingStore(Protocol):
    """A store that repeats its decisions in a record store beside it."""

    async def echoed(self, run_ids: Iterable[str]) -> None:
        """Return when the decisions over replaced runs are written to the records, or queued for a retry."""
        ...


@runtime_checkable
class ForgettingStore(Protocol):
    """A store that keeps rows in memory."""

    def forget(self, run_id: str) -> None:
        """Free the memory of a finished run that its manager no longer uses."""
        ...


class Heart(Protocol):
    """Renews leases from a thread of its own, over a connection of its own. Blocks; no event loop."""

    def beat(self, epoch: int) -> bool:
        """As `WorkerStore.beat`, and ahead of this process's other writes. Raises StoreUnavailable."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class HeartStore(Protocol):
    """A store that several workers share, and that has a connection to spare for the heartbeat."""

    def heart(self) -> Heart:
        """Called in the one thread that uses the answer; blocks. Raises StoreUnavailable."""
        ...


@runtime_checkable
class VersionedStore(Protocol):
    """A store that a newer program may migrate meanwhile."""

    async def check_version(self) -> object:
        """One small read. Raises SchemaTooNew where programs of this version may not work on it any more."""
        ...
