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
    """Other workers freed its thread. It may have been cancelled before: see `cancel_cause`."""


def ended_by(row: RunRow, history: Iterable[Transition]) -> EndedBy | None:
    """None if the run has not settled, or its history was pruned and does not decide it."""
    if row.phase is not Phase.done:
        return None
    if row.cancel_cause is Cause.orphaned and row.cancel_action is None:
        return EndedBy.dead_worker
    history = list(history)
    fenced = any(step.what == "fenced" for step in history)
    # An owner takes a newer fence for a run that it holds only to free the thread by force, or to try a
    # failed rollback again, when its task has stopped.
    forced = fenced and (row.cancel_action is not CancelAction.rollback or row.stopped_at is None)
    # Each owner that settles a run that has started writes when its task stopped, except by force.
    declared_dead = row.cancel_action is not None and row.started_at is not None and row.stopped_at is None
    if adopted_after_cancel(history) or (declared_dead and not forced):
        return EndedBy.dead_worker
    if forced:
        return EndedBy.force
    return EndedBy.itself if row.cancel_action is None else EndedBy.cancel


def adopted_after_cancel(history: Iterable[Transition]) -> bool:
    """Another worker has taken the run over to finish its rollback."""
    decided = False
    for step in history:
        decided = decided or step.what == "decided"
        if decided and step.what == "adopted":
            return True
    return False


_SENTENCES = {
    EndedBy.itself: "itself",
    EndedBy.cancel: "a cancel",
    EndedBy.force: "force: its task did not stop and may still execute; its writes are refused",
    EndedBy.dead_worker: "other workers{after}: its worker died or lost its lease",
}


def unstopped(row: RunRow, now: int, loss: str | None) -> str | None:
    """A sentence for a run that was cancelled and whose task has not stopped; None for others. `now`:
    microseconds since 1970. `loss`: see `Owners.loss`."""
    if not row.cancelling or row.cancel_requested_at is None or row.stopped_at is not None:
        return None
    ago = span((now - row.cancel_requested_at) / 1e6)
    return f"cancelled {ago} ago: {loss or f'its task has not stopped, on worker epoch {row.owner_epoch}'}"


def forced(row: RunRow, history: Iterable[Transition]) -> str | None:
    """A sentence for a run that was settled by force; None for others."""
    if ended_by(row, history) is not EndedBy.force:
        return None
    return (
        f"its task did not stop and may still execute on worker epoch {row.owner_epoch}; its writes are"
        " refused"
    )


def sentence(end: EndedBy | None, row: RunRow) -> str | None:
    after = "" if row.cancel_action is None else ", after a cancel"
    return None if end is None else _SENTENCES[end].format(after=after)
