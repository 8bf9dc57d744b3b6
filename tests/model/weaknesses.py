"""The guards of the design. Taking one away must make a check fail, or it is not needed."""

from __future__ import annotations

from typing import NamedTuple


class Weakness(NamedTuple):
    scenario: str
    """Where it shows."""
    what: str


WEAKNESSES = {
    "no_single_holder": Weakness("core", "claim and admit do not look whether the thread is held"),
    "no_owner_guard": Weakness("core", "an owner's write is not guarded by epoch, fence and holding"),
    "success_overwrites": Weakness("core", "finish writes success over an earlier decision"),
    "free_on_cancel": Weakness("core", "a cancel frees the thread before the task has stopped"),
    "no_live_check": Weakness("core", "admit, claim and start do not check that the epoch is live"),
    "no_tick": Weakness("core", "cancels travel by message only, and messages get lost"),
    "no_bury_runs": Weakness("core", "a burial leaves the dead worker's runs as they are"),
    "no_new_fence": Weakness("core", "a run takes the thread with the fence that the last one had"),
    "settle_before_restore": Weakness("rollback", "a rollback frees the thread before its restore"),
    "no_adoption": Weakness("rollback", "a sweep settles a half-done rollback instead of adopting it"),
    "adopt_for_ever": Weakness("rollback", "a rollback whose owners die is adopted without end"),
    "adopt_without_fence": Weakness("rollback", "whoever adopts a rollback keeps the dead owner's fence"),
    "restore_unfenced": Weakness("rollback", "a restore is accepted whatever its fence"),
    "save_unfenced": Weakness("rollback", "a save is accepted whatever its fence"),
    "base_overwritten": Weakness("rollback", "each save keeps the values before it, not before the run"),
    "drain_admits": Weakness("drain", "a draining worker still admits"),
    "drain_keeps_line": Weakness("drain", "a drained worker's waiting runs that are not portable stay"),
    "only_home_claims": Weakness("drain", "a portable run is claimed by its home alone"),
    "drain_leaves_tasks": Weakness("drain", "a draining worker retires before its tasks have stopped"),
    "outbox_dropped": Weakness("outage", "a finish that the store did not take is forgotten"),
    "outbox_unfenced": Weakness("outage", "owed finishes are written without the owner's guard"),
    "retry_blindly": Weakness("outage", "a finish with an unknown outcome is done again, not looked up"),
    "acknowledge_first": Weakness("outage", "a cancel is acknowledged before it is committed"),
    "no_force": Weakness("force", "a task that does not stop keeps its thread for ever"),
    "force_without_fence": Weakness("force", "a forced run settles with the fence that its task has"),
    "force_without_close": Weakness("force", "a forced run's process still lets its writes out"),
}
