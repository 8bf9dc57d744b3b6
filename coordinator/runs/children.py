"""Children: the user that they have from their parent, and hints if they were cancelled because it ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from coordinator.notifier import Notifier, Signal
from coordinator.runs.registry import Registry
from coordinator.runs.users import document_of, user_of
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunSettled
from stores.base import ReadStore
from stores.rows import Decision
from stores.spec import RunSpec


async def with_user_of_parent(spec: RunSpec, registry: Registry, store: ReadStore) -> RunSpec:
    """Returns the spec with the user document of its parent, if it is a run of the same user and has none of
    its own. Reads the store if the parent belongs to another worker."""
    parent = spec.parent_run_id
    if parent is None or spec.user_id is None or spec.user_document is not None:
        return spec
    if (entry := registry.under_way(parent)) is not None:
        user = entry.record.user
    else:
        row = await store.row(parent, user_id=spec.user_id)
        user = None if row is None else user_of(row)
    if user is None or user.user_id != spec.user_id:
        return spec
    return replace(spec, user_document=document_of(user))


def hint_at_children(notifier: Notifier, telemetry: Telemetry, children: Iterable[Decision]) -> None:
    """Notifies the worker of each child (this one too), and of the children of these. If a hint is lost, the
    worker reads the decision at its next tick."""
    for child in children:
        announce_end(telemetry, child)
        if (worker := child.worker) is not None:
            signal = Signal(kind="cancel", thread_id=child.thread_id, run_id=child.run_id)
            notifier.notify_worker(worker, signal)
        hint_at_children(notifier, telemetry, child.children)


def announce_end(telemetry: Telemetry, decision: Decision) -> None:
    """Emits RunSettled if this decision has ended a run that waited in the queue of no worker. Otherwise the
    worker of the run emits it."""
    if decision.won and decision.settled and decision.worker is None:
        telemetry.emit(RunSettled(decision.run_id, decision.thread_id, decision.status.value, decision.error))
