"""What an operator wants to know of a store as a whole. An optional ability: ask by isinstance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable


class Applied(NamedTuple):
    """A migration that the store has. `at` is ISO 8601, UTC."""

    number: int
    name: str
    at: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """A store looked over at one moment. Sizes are bytes; None = the store has no such thing.

    `faults` is what the engine's own check of its pages and indexes found; empty = sound. The counts
    are zero while the schema is not there yet (`version` 0).
    """

    version: int
    newest: int
    applied: tuple[Applied, ...]
    faults: tuple[str, ...]
    runs: dict[str, int]
    """By status."""
    in_flight: int
    waiting: int
    threads: int
    workers_alive: int
    workers_expired: int
    """Of those alive, how many have let their lease run out."""
    transitions: int
    size: int | None = None
    wal_size: int | None = None
    disk_free: int | None = None
    versions: dict[str, int] = field(default_factory=dict[str, int])
    """How many workers alive are of each version."""
    functions: tuple[str, ...] = ()
    """What is wrong with the functions of the schema, one sentence each."""
    advice: tuple[str, ...] = ()
    """What the operator should know of this engine; no fault."""


@runtime_checkable
class MigratableStore(Protocol):
    async def migrate(self, *, patience: float = 300.0, tell: Callable[[str], None] = ...) -> list[str]:
        """Create the schema or bring it up to date, and repair its functions; the store need not be open.
        Waits for the locks of others for `patience` s in all, and tells who holds them. Returns the names of
        what was applied or repaired. Raises StoreRefused, StoreUnavailable."""
        ...


@runtime_checkable
class GrantingStore(Protocol):
    async def grant(self, role: str) -> None:
        """Give a role what a worker needs, and no more; also on what later migrations make. Called as the
        owner of the schema, which is there. Raises StoreRefused, StoreUnavailable."""
        ...


@runtime_checkable
class InspectableStore(Protocol):
    async def inspect(self) -> Inspection:
        """Creates, migrates and locks nothing. Raises StoreUnavailable, StoreRefused."""
        ...
