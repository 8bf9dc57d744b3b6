"""How a run ended, or why it has not, from its row and its history."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from coordinator.cli.text import span
from coordinator.schemas import CancelAction, Cause, Phase
from stores.rows import RunRow, Transition


class EndedBy(StrEnum):
    itself = "itself"
    cancel = "cancel"
    """Also a time limit, a disconnect or a shutdown: see `cancel_cause`."""
    force = "force"
    """Its task did not stop within `force_after` of the cancel and may still execute."""
    dead_worker = "dead worker"


def ended_by(row: RunRow, history: Iterable[Transition]) -> EndedBy | None:
    """None if the run has not settled, or its history was pruned and does not decide it."""
    if row.phase is not Phase.done:
        return None
    if row.cancel_cause is Cause.orphaned and row.cancel_action is None:
        return EndedBy.dead_worker
    # An owner takes a newer fence for a run that it holds only to free the thread by force, or to try a
    # failed rollback again.
    fenced = any(step.what == "fenced" for step in history)
    if fenced and row.cancel_action is not CancelAction.rollback:
        return EndedBy.force
    return EndedBy.itself if row.cancel_action is None else EndedBy.cancel


_SENTENCES = {
    EndedBy.itself: "itself",
    EndedBy.cancel: "a cancel",
    EndedBy.force: "force: its task did not stop and may still execute; its writes are refused",
    EndedBy.dead_worker: "other workers: its worker died or lost its lease",
}


def unstopped(row: RunRow, now: int) -> str | None:
    """A sentence for a run that was cancelled and whose task has not stopped; None for others. `now`:
    microseconds since 1970."""
    if not row.cancelling or row.cancel_requested_at is None or row.stopped_at is not None:
        return None
    ago = span((now - row.cancel_requested_at) / 1e6)
    return f"cancelled {ago} ago: its task has not stopped, on worker epoch {row.owner_epoch}"


def forced(row: RunRow, history: Iterable[Transition]) -> str | None:
    """A sentence for a run that was settled by force; None for others."""
    if ended_by(row, history) is not EndedBy.force:
        return None
    return (
        f"its task did not stop and may still execute on worker epoch {row.owner_epoch}; its writes are"
        " refused"
    )


def sentence(end: EndedBy | None) -> str | None:
    return None if end is None else _SENTENCES[end]
