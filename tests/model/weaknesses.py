"""The guards of the design. Removing one must violate an invariant; otherwise the guard is not needed."""

from __future__ import annotations

from typing import NamedTuple


class Weakness(NamedTuple):
    scenario: str
    """The scenario that shows it."""
    what: str


WEAKNESSES = {
    "no_single_holder": Weakness("core", "claim and admit do not check whether the thread is held"),
    "no_owner_guard": Weakness("core", "an owner's write is not guarded by epoch, fence and holding"),
    "success_overwrites": Weakness("core", "finish writes success over an earlier decision"),
    "free_on_cancel": Weakness("core", "a cancel frees the thread before the task has stopped"),
    "no_live_check": Weakness("core", "admit, claim and start do not check that the epoch is live"),
    "no_tick": Weakness("core", "cancels travel by message only, and messages get lost"),
    "no_sweep": Weakness("core", "the orphaned runs of a dead worker are not ended"),
    "no_new_fence": Weakness("core", "a run takes the thread with the fence of the last one"),
    "settle_before_restore": Weakness("rollback", "a rollback frees the thread before its restore"),
    "no_adoption": Weakness("rollback", "a sweep settles an incomplete rollback instead of adopting it"),
    "adopt_for_ever": Weakness("rollback", "a rollback whose owners die is adopted without end"),
    "adopt_without_fence": Weakness("rollback", "an adopted rollback keeps the dead owner's fence"),
    "restore_unfenced": Weakness("rollback", "a restore is accepted whatever its fence"),
    "save_unfenced": Weakness("rollback", "a save is accepted whatever its fence"),
    "base_overwritten": Weakness("rollback", "each save keeps the values before it, not before the run"),
    "drain_admits": Weakness("drain", "a draining worker still admits"),
    "drain_keeps_queue": Weakness(
        "drain", "queued runs of a drained worker that are not portable are not ended"
    ),
    "only_home_claims": Weakness("drain", "a portable run is claimed only by its home"),
    "drain_leaves_tasks": Weakness("drain", "a draining worker retires before its tasks have stopped"),
    "outbox_dropped": Weakness("outage", "a finish that the store did not acknowledge is dropped"),
    "outbox_unfenced": Weakness("outage", "queued finishes are written without the owner's guard"),
    "retry_blindly": Weakness(
        "outage", "a finish with an unknown outcome is repeated without a check of the run"
    ),
    "acknowledge_first": Weakness("outage", "a cancel is acknowledged before it is committed"),
    "attempt_without_fence": Weakness("attempts", "a run is continued with the fence of its dead worker"),
    "attempt_forgets_base": Weakness("attempts", "the undo reference is that of the last attempt"),
    "adopt_alive": Weakness("attempts", "a run whose worker lives is adopted"),
    "dispatched_keeps_home": Weakness("dispatch", "a dispatched run has the worker that admits as its home"),
    "admitting_worker_takes": Weakness("dispatch", "a worker that only admits takes runs"),
    "lost_run_starts": Weakness("dispatch", "a worker starts a run that another one has taken"),
    "taken_ends_with_taker": Weakness(
        "dispatch", "a run that was taken and has not begun ends with the worker that took it"
    ),
    "no_force": Weakness("force", "a task that does not stop keeps its thread for ever"),
    "force_without_fence": Weakness("force", "a forced run settles with the fence of its task"),
    "force_without_close": Weakness("force", "a forced run's process still lets its writes out"),
}
