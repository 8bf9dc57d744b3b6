"""Hints for children: runs that were cancelled because their parent ended."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.notifier import Notifier, Signal
from stores.rows import Decision


def hint_at_children(notifier: Notifier, children: Iterable[Decision]) -> None:
    """Notifies the worker of each child (this one too), and of the children of these. If a hint is lost, the
    worker reads the decision at its next tick."""
    for child in children:
        if (worker := child.worker) is not None:
            signal = Signal(kind="cancel", thread_id=child.thread_id, run_id=child.run_id)
            notifier.notify_worker(worker, signal)
        hint_at_children(notifier, child.children)
