"""The store's own record of a history: its audit and its final rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from stores.base import ReadStore, WorkerStore
from stores.rows import RunRow, ThreadRow, Transition, WorkerRow


class AuditedStore(ReadStore, WorkerStore, Protocol):
    """The ports that `collect` needs."""


@dataclass(frozen=True, slots=True)
class Audit:
    """`transitions` are in commit order (by id). The rows are those at the end of the history."""

    transitions: tuple[Transition, ...] = ()
    runs: tuple[RunRow, ...] = ()
    threads: tuple[ThreadRow, ...] = ()
    workers: tuple[WorkerRow, ...] = ()


async def collect(store: AuditedStore, threads: Iterable[str]) -> Audit:
    """Read the audit and the rows of these threads. Call it after the end of the history."""
    runs: list[RunRow] = []
    rows: list[ThreadRow] = []
    for thread_id in sorted(set(threads)):
        runs += await store.runs(thread_id=thread_id, limit=1_000_000)
        row = await store.thread(thread_id)
        rows += [] if row is None else [row]
    transitions = [line for run in runs for line in await store.transitions(run.run_id)]
    workers = await store.workers(alive_only=False)
    transitions.sort(key=lambda line: line.id)
    return Audit(tuple(transitions), tuple(runs), tuple(rows), tuple(workers))
