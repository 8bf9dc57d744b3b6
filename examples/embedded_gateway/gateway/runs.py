"""What the routes of the gateway need of a registry of runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Strategy = Literal["reject", "interrupt", "enqueue"]
Action = Literal["interrupt", "rollback"]


@dataclass(slots=True)
class Run:
    run_id: str
    thread_id: str
    status: str
    error: str | None = None
    stop_reason: str | None = None
    """A field of this gateway's own."""


class Busy(Exception):
    """The thread has a run in flight."""


class Registry(Protocol):
    async def create(self, thread_id: str, request: dict[str, Any], strategy: Strategy) -> Run:
        """Starts the gateway's task for the run. Raises Busy."""
        ...

    async def get(self, run_id: str) -> Run | None: ...
    async def list(self, thread_id: str) -> list[Run]: ...
    async def cancel(self, run_id: str, action: Action) -> bool: ...
    def subscribe(self, run_id: str) -> AsyncIterator[tuple[str, Any]]:
        """All events of the run as (name, data), live, until ("end", status)."""
        ...
