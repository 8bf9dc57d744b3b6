"""Optional ports for operators: inspection, migration and grants. Check for them with isinstance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable


class Applied(NamedTuple):
    """A migration that was applied to the store. `at`: ISO 8601, UTC."""

    number: int
    name: str
    at: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """The state of a store at one moment. Sizes are bytes; None = not applicable to this engine.

    `faults`: results of the engine's check of its pages and indexes; empty = no corruption. All counts are
    zero if the schema does not exist (`version` 0).
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
    """Number of the alive workers whose lease has expired."""
    transitions: int
    size: int | None = None
    wal_size: int | None = None
    disk_free: int | None = None
    obstacle: str | None = None
    """The file or folder that this process cannot write, and why. No worker of its user can use the store."""
    workers_draining: int = 0
    """Number of the alive workers that drain: they admit no runs until they are restarted."""
    versions: dict[str, int] = field(default_factory=dict[str, int])
    """Number of alive workers by version."""
    functions: tuple[str, ...] = ()
    """Faults of the schema's functions, one sentence each."""
    missing: tuple[str, ...] = ()
    """Objects of the schema that do not exist, one sentence each."""
    advice: tuple[str, ...] = ()
    """Recommendations for the operator, which are no faults."""


@runtime_checkable
class MigratableStore(Protocol):
    async def migrate(self, *, patience: float = 300.0, report: Callable[[str], None] = ...) -> list[str]:
        """Creates or migrates the schema, and repairs its functions; the store need not be open. Waits for
        locks for `patience` s in total, and reports their holders through `report`. Returns the names of
        migrations and functions that were applied or repaired. Raises StoreRefused, StoreUnavailable."""
        ...


@runtime_checkable
class GrantingStore(Protocol):
    async def grant(self, role: str) -> None:
        """Grants a role the rights that a worker needs, also on objects of later migrations. Must be called
        as the owner of the existing schema. Raises StoreRefused, StoreUnavailable."""
        ...


@runtime_checkable
class InspectableStore(Protocol):
    async def inspect(self) -> Inspection:
        """Returns the state of the store; creates, migrates and locks nothing. Raises StoreUnavailable,
        StoreRefused."""
        ...
