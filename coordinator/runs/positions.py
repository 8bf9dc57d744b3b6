"""The positions of runs that wait: for their thread, or for a place of the worker that executes them."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.schemas import Phase
from stores.base import ReadStore
from stores.rows import RunRow


async def positions(store: ReadStore, rows: Iterable[RunRow]) -> dict[str, int]:
    """Returns the position, from 1, of each run that waits. In the queue of a thread it is exact. On a worker
    it is that of an order in which users take turns; which user is next, and the limits of assistants and
    users, only that worker knows. One read for each thread and worker."""
    threads, workers = set[str](), set[int]()
    for row in rows:
        if row.waiting:
            threads.add(row.thread_id)
        elif row.phase is Phase.pending and row.owner_epoch is not None:
            workers.add(row.owner_epoch)
    lines = [await store.waiting_line(thread_id) for thread_id in threads]
    lines += [await store.pending_on(epoch) for epoch in workers]
    return {run_id: position for line in lines for position, run_id in enumerate(line, start=1)}
