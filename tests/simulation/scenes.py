"""Courses of events that random seeds meet too rarely: each leads a seed to where a guard is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.simulation.faults import Faults
from tests.simulation.workload import SHORT_MEMORY

Aim = tuple[str, str, str, str]
"""Await point, operation, "before" or "after" its commit, and what is to strike there."""


@dataclass(frozen=True)
class Scene:
    course: str
    """Times (s) with a call of a client or a fault of `Trouble.strike`, separated by commas."""
    processes: int = 2
    features: Mapping[str, Any] = field(default_factory=dict[str, Any])
    faults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    habits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Habits of its runs."""
    aims: tuple[Aim, ...] = ()
    """One of these may strike."""
    helps: tuple[Aim, ...] = ()
    """All of these may strike, because the scene needs them."""

    aimed: bool = False
    """Only seeds that are aimed at one of its points come to it: so all other seeds keep their scenes."""

    @property
    def plan(self) -> list[tuple[float, str]]:
        steps = (step.strip().partition(" ") for step in self.course.split(","))
        return [(float(when), what) for when, _, what in steps]


NOTHING: Mapping[str, Any] = {
    name: value for name, value in vars(Faults()).items() if name not in ("connected", "proofs", "disordered")
}
"""Goes wrong."""
HANGS: Mapping[str, Any] = {"ends": "hangs"}
SHORT: Mapping[str, Any] = {"ends": "value", "steps": 0, "tracks": None}
SAVES: Mapping[str, Any] = {"ends": "hangs", "saves": 1.0, "pace": 0.01, "steps": 2}
UNWINDS: Mapping[str, Any] = {**SAVES, "stops": "late", "deaf": 1.5}

MOSTLY_LATE_CLAIMS: tuple[Aim, ...] = (("ThreadQueue._claim", "claim", "after", "slow"),) * 3
MOSTLY_LATE_SAVES: tuple[Aim, ...] = (("StoredValues.save", "save", "after", "slow"),) * 3
"""Each that is named strikes one time in two."""

REMOVED_AND_FINISHED = Scene(
    "0 reject, 0 remove, 0.1 remove, 0.1 remove, 0.2 remove, 0.2 remove, 0.7 reject, 0.7 remove,"
    " 0.8 remove, 0.8 remove, 0.9 remove, 1.5 reject, 1.5 remove, 1.6 remove, 1.6 remove, 1.7 remove",
    habits={**SHORT, "pace": 0.0},
    helps=(
        ("Endings._finish", "finish", "after", "fail"),
        ("Outbox._attempt", "finish", "before", "slow"),
    ),
)

CONTINUED: Mapping[str, Any] = {
    "portable": True,
    "retries": 2,
    "families": False,
    "old_style": False,
    "delays": False,
    "limits": False,
    "threads": 1,
}

SCENES: Mapping[str, Scene] = {
    "its home leaves": Scene(
        "0 enqueue, 0 enqueue, 0.1 enqueue, 0.1 enqueue, 0.5 leave, 1.5 cancel",
        features={"portable": True},
        habits={"tracks": None},
        aims=(
            ("ThreadQueue._claim", "claim", "after", "fail"),
            ("Takeover._take", "row", "before", "fail"),
            ("Drain._record", "drain", "after", "fail"),
        ),
    ),
    "its home leaves without an answer": Scene(
        "0 enqueue, 0 enqueue, 0.1 enqueue, 0.1 enqueue, 0.5 leave",
        features={"portable": True},
        habits=HANGS,
        helps=(
            ("Drain._record", "drain", "after", "fail"),
            *(("Delivery.read_decision", "standing", "before", "fail"),) * 3,
        ),
    ),
    "a drain is requested": Scene(
        "0 enqueue, 0 enqueue, 0.1 enqueue, 0.1 enqueue, 0.4 request drain, 0.8 enqueue, 1.5 cancel",
        processes=2,
        features={"portable": True},
        habits={"tracks": None},
    ),
    "two homes leave": Scene(
        "0 enqueue, 0 enqueue, 0 enqueue, 0.1 enqueue, 0.4 leave, 0.4 leave",
        processes=3,
        features={"portable": True},
    ),
    "its home dies": Scene(
        "0 enqueue, 0 enqueue, 0.1 enqueue, 0.1 enqueue, 0.4 crash, 0.7 enqueue",
        processes=3,
        features={"portable": True},
        faults={"proofs": True},
        aims=(("ThreadQueue._claim", "claim", "after", "fail"),),
    ),
    "a restart": Scene(
        "0 reject, 0.4 crash of owner, 0.7 restart, 0.7 reject, 0.8 reject",
        processes=1,
        faults={"proofs": True},
        habits=HANGS,
    ),
    "a restart and an operator": Scene(
        "0 reject, 0.4 crash of owner, 0.7 restart, 0.7 reconcile, 0.8 reconcile",
        processes=1,
        faults={"proofs": True},
        habits=HANGS,
    ),
    "half of the runs recovered": Scene(
        "0 enqueue, 0 enqueue, 0.1 enqueue, 0.1 enqueue, 0.4 crash, 0.5 enqueue, 0.7 enqueue, "
        "0.9 enqueue, 1.2 enqueue, 1.4 enqueue",
        processes=3,
        faults={"proofs": True},
        habits=SHORT,
        aims=(("Reaper._sweep", "sweep", "before", "fail"), ("Reaper._sweep", "sweep", "before", "slow")),
    ),
    "an orphaned rollback": Scene(
        "0 reject, 0.3 rollback, 0.6 crash of owner, 0.8 cancel",
        processes=3,
        faults={"proofs": True},
        habits=UNWINDS,
        aims=(
            ("Reaper._sweep", "sweep", "after", "fail"),
            ("Reaper._undo", "settle", "after", "fail"),
            ("Reaper._undo", "settle", "before", "fail"),
        ),
    ),
    "an orphaned rollback fails": Scene(
        "0 reject, 0.3 rollback, 0.6 crash of owner",
        processes=2,
        faults={"proofs": True, "broken": 0.6},
        habits=UNWINDS,
    ),
    "zombies look for the dead": Scene(
        "0 reject, 0.3 rollback, 0.6 crash of owner, 0.6 declare dead, 0.9 declare dead, 1.2 declare dead",
        processes=3,
        faults={"proofs": True},
        habits=UNWINDS,
    ),
    "declared dead alive": Scene(
        "0 reject, 0 enqueue, 0.1 enqueue, 0.4 declare dead of owner, 0.5 cancel, 0.6 reject, 0.8 enqueue",
    ),
    "cut off": Scene(
        "0 reject, 0.1 enqueue, 0.5 cut off of owner, 0.9 cancel, 1.5 interrupt",
        habits={"ends": "hangs", "silent": False},
        aims=(("LoopPacemaker._beat", "beat", "after", "slow"),),
    ),
    "cut off late": Scene(
        "0 reject, 0.1 enqueue, 2 cut off of owner, 3 cut off of owner",
        habits={"ends": "hangs", "silent": False},
        aims=(("LoopPacemaker._beat", "beat", "after", "slow"),),
    ),
    "beside the slot": Scene(
        "0 create, 0 create, 0.1 create, 0.3 cancel, 0.4 cancel, 0.5 crash of owner",
        faults={"proofs": True},
        habits=UNWINDS,
    ),
    "leaving": Scene(
        "0 reject, 0.1 enqueue, 0.1 enqueue, 0.4 leave, 0.3 enqueue, 0.4 completion, "
        "0.5 completion, 0.5 cancel, 0.5 enqueue",
        processes=1,
        habits={"tracks": None},
        aims=(
            ("Drain._record", "drain", "before", "fail"),
            ("Admissions._admit", "admit", "after", "slow"),
            ("Lifecycle._complete", "update_run_completion", "before", "fail"),
            ("Lifecycle._complete", "update_run_completion", "before", "slow"),
            ("Drain._decide", "decide", "before", "fail"),
        ),
    ),
    "leaving what is deaf": Scene(
        "0 reject, 0 reject, 0 enqueue, 0.4 leave, 0.6 cancel",
        processes=1,
        habits={"ends": "hangs", "stops": "late", "deaf": 4.0, "tracks": None},
    ),
    "a deleted thread": Scene(
        "0 reject, 0.1 enqueue, 0.4 delete, 0.6 completion, 0.6 completion, 0.8 reject, "
        "1.1 delete, 1.3 completion, 1.5 reject, 1.7 copy",
        habits=SHORT,
        aims=(
            ("Endings._finish", "finish", "after", "fail"),
            ("Operations._remove", "delete_thread", "after", "fail"),
        ),
    ),
    "a family": Scene(
        "0 reject, 0.1 enqueue, 0.1 enqueue, 0.2 enqueue, 0.2 create, 0.4 cancel, 0.5 enqueue, 0.7 enqueue",
        features={"families": True},
    ),
    "a family on several threads": Scene(
        "0 reject, 0.1 reject, 0.2 reject, 0.3 reject, 0.4 reject, 0.6 cancel, 0.7 cancel, 0.8 cancel",
        features={"families": True, "threads": 4},
        faults=NOTHING,
        habits=HANGS,
    ),
    "a family of failures": Scene(
        "0 reject, 0 enqueue, 0.1 enqueue, 0.1 enqueue, 0.2 enqueue",
        features={"families": True},
        habits={"ends": "fails", "steps": 2, "pace": 0.1, "tracks": None},
    ),
    "a family loses its head": Scene(
        "0 reject, 0.1 enqueue, 0.1 enqueue, 0.2 enqueue, 0.4 crash of owner",
        features={"families": True},
        faults={"proofs": True},
        habits=HANGS,
    ),
    "limits": Scene(
        "0 reject, 0 enqueue, 0.1 enqueue, 0.1 enqueue, 0.2 enqueue, 0.3 enqueue",
        features={"limits": True},
        aims=(
            ("Timeouts.end", "decide", "before", "fail"),
            ("Timeouts.end", "decide", "before", "slow"),
            ("ThreadQueue._claim", "claim", "after", "slow"),
        ),
    ),
    "limits without a home": Scene(
        "0 enqueue, 0 enqueue, 0.1 enqueue, 0.1 enqueue, 0.4 leave, 0.5 leave",
        features={"limits": True, "portable": True},
        habits={"ends": "hangs", "silent": False},
    ),
    "a full outbox": Scene(
        "0 reject, 0 reject, 0.3 outage, 0.3 cancel, 0.4 cancel, 0.7 reject, 0.8 enqueue, "
        "1 enqueue, 1.2 reject",
        processes=1,
        features={"settings": {"outbox_limit": 1}},
        habits=SHORT,
    ),
    "a short memory": Scene(
        "0 reject, 0.2 enqueue, 0.4 keyed, 0.8 reject, 1.5 enqueue, 2 reject, 2.5 wait, 3 keyed",
        features={"settings": SHORT_MEMORY},
        habits={"tracks": None},
    ),
    "a short memory of the dead": Scene(
        "0 reject, 0.1 enqueue, 0.2 create, 0.4 crash of owner, 0.8 reject, 1.4 reject",
        features={"settings": SHORT_MEMORY, "portable": True},
        faults={"proofs": True},
    ),
    "keys": Scene("0 keyed, 0 keyed, 0.3 keyed, 0.6 keyed, 0.9 keyed, 1.2 keyed"),
    "the curious": Scene(
        "0 enqueue, 0 enqueue, 0.1 enqueue, 0.3 read, 0.4 read, 0.5 read, 0.3 look, 0.4 follow, "
        "0.4 wait, 0.5 disconnect, 0.6 cancel",
        features={"users": True},
        habits=HANGS,
    ),
    "busy": Scene(
        "0 reject, 0.2 reject, 0.3 reject, 0.4 reject, 0.5 reject, 0.6 reject",
        features={"users": True},
        faults={"connected": True, "lose": 0.0, "late": 0.0},
        habits=HANGS,
    ),
    "forgotten": Scene(
        "0 reject, 0 enqueue, 0 enqueue, 0.1 enqueue, 0.2 status, 0.3 cleanup, 0.3 cleanup, "
        "0.4 status, 0.5 cleanup",
        processes=1,
        habits={"ends": "value", "steps": 2, "pace": 0.1, "tracks": None},
        aims=(("Lifecycle._write_end.<locals>.unless_lost", "update_status", "before", "fail"),),
    ),
    "undoing": Scene(
        "0 reject, 0.2 rollback, 0.5 rollback, 0.9 rollback, 1.2 cancel",
        habits=SAVES,
        aims=(
            ("Endings._undo", "settle", "before", "fail"),
            ("Endings._undo", "settle", "after", "fail"),
        ),
    ),
    "undoing fails": Scene(
        "0 reject, 0.2 rollback, 0.6 rollback, 1.2 cancel",
        faults={"broken": 0.7},
        habits=SAVES,
    ),
    "deaf": Scene(
        "0 reject, 0.2 cancel, 0.3 enqueue, 0.3 rollback, 0.5 cancel",
        habits={"ends": "hangs", "stops": "late", "deaf": 4.0},
        aims=(
            ("Endings._refence", "refence", "before", "fail"),
            ("Endings._refence", "refence", "after", "fail"),
        ),
    ),
    "operations": Scene(
        "0 reject, 0.3 update, 0.4 copy, 0.5 update, 0.7 copy, 0.8 delete, 1 update, 1.1 copy, "
        "1.2 delete, 1.4 delete",
        habits=SHORT,
    ),
    "threads that expire": Scene(
        "0 make, 0 make, 0.1 reject, 0.3 change, 0.4 list, 0.6 change, 0.8 enqueue, 0.9 remove, 1.0 list,"
        " 1.2 list, 1.5 make, 1.6 reject, 1.8 change, 2.2 enqueue",
        habits=SHORT,
    ),
    "state elsewhere": Scene(
        "0 enqueue, 0.1 enqueue, 0.3 change, 0.5 delete, 0.55 enqueue, 0.7 copy, 0.9 delete, 0.95 copy,"
        " 1.2 enqueue, 1.3 change, 1.6 delete, 1.65 enqueue, 1.8 copy, 2.0 delete, 2.05 copy, 2.4 enqueue,"
        " 2.6 delete, 2.65 enqueue, 3.0 copy, 3.4 delete, 3.45 copy, 3.5 enqueue, 4.0 change, 4.2 enqueue",
        features={"portable": True, "elsewhere": True, "old_style": False, "threads": 2},
        habits={**SHORT, "pace": 0.0},
        aimed=True,
        aims=(
            ("Operations._remove", "delete_thread", "after", "crash"),
            ("Expiry.sweep", "expire_threads", "after", "crash"),
            ("StateRemoval._remove", "forget_removed_states", "before", "crash"),
            ("StateRemoval._claim", "claim_removed_states", "after", "fail"),
        ),
    ),
    "removed without a notification": Scene(
        "0 enqueue, 0 enqueue, 0.1 enqueue, 0.3 cancel, 0.4 cancel, 0.5 remove, 0.6 remove, 0.7 cancel,"
        " 0.7 remove, 0.8 remove, 0.9 remove, 1.0 remove, 1.1 remove",
        features={"delays": True},
        faults={"connected": True, "lose": 1.0},
        habits=HANGS,
    ),
    "removed and finished again": REMOVED_AND_FINISHED,
    "removed, and written again later": replace(
        REMOVED_AND_FINISHED,
        helps=(*REMOVED_AND_FINISHED.helps, ("Endings._recreate", "put", "before", "fail")),
    ),
    "an operation is finished again": Scene(
        "0 update, 0.1 delete, 0.2 delete, 0.3 delete, 0.5 update, 0.6 delete, 0.7 delete, 0.8 delete,"
        " 1.2 update, 1.3 delete, 1.4 delete, 1.5 delete",
        helps=(
            ("Endings._finish", "finish", "after", "cancel"),
            ("Endings._finish", "finish", "before", "slow"),
        ),
    ),
    "a rollback is pending": Scene(
        "0 reject, 0.2 rollback, 0.5 rollback, 0.9 rollback, 1.2 cancel",
        habits={**SAVES, "tracks": None},
        helps=(("Endings._undo", "settle", "before", "fail"),),
    ),
    "another try is pending": Scene(
        "0 reject, 0.2 rollback, 0.6 rollback, 1.2 cancel",
        faults={"broken": 0.8},
        habits={**SAVES, "tracks": None},
        helps=(("Endings._try_again", "readopt", "before", "fail"),),
    ),
    "a newer fence is pending": Scene(
        "0 reject, 0.2 cancel, 0.3 enqueue, 0.3 rollback, 0.5 cancel",
        habits={"ends": "hangs", "stops": "late", "deaf": 4.0, "tracks": None},
        helps=(("Endings._refence", "refence", "before", "fail"),),
    ),
    "a start is pending": Scene(
        "0 reject, 0.3 reject, 0.6 reject, 0.9 reject, 1.2 cancel, 1.5 reject, 1.8 reject",
        processes=1,
        habits={"ends": "value", "tracks": None},
        helps=(("Lifecycle.start", "start", "before", "fail"),),
    ),
    "never launched": Scene(
        "0 forget, 0 forget, 0.1 enqueue, 1.7 forget, 1.8 enqueue, 1.8 forget, 2.3 cancel, 3.2 forget",
        features={"threads": 2, "settings": {"launch_timeout": 0.3}},
        habits={"ends": "value", "steps": 3, "pace": 0.4, "tracks": None},
    ),
    "limits of what is tracked": Scene(
        "0 reject, 0 reject, 0.1 enqueue, 0.1 enqueue, 0.2 enqueue, 0.2 enqueue",
        features={"limits": True, "threads": 2},
        faults=NOTHING,
        habits={"ends": "value", "steps": 1, "pace": 0.01, "tracks": 4.0},
    ),
    "a cancel is pending": Scene(
        "0 reject, 0.3 cancel, 0.6 reject, 0.9 cancel, 1.2 reject, 1.5 cancel, 1.8 reject, 2.1 cancel",
        processes=1,
        habits={"ends": "hangs", "stops": "with_success", "tracks": None},
        helps=(
            ("Cancellations._decide", "decide", "before", "fail"),
            ("Endings._write_unwritten", "decide", "before", "fail"),
        ),
    ),
    "operations cancelled": Scene(
        "0 update, 0.1 cancel, 0.2 cancel, 0.3 update, 0.3 cancel, 0.4 cancel, 0.5 cancel, 0.8 update,"
        " 0.9 cancel, 1.0 cancel, 1.1 cancel, 1.2 update, 1.3 cancel, 1.4 cancel",
        faults={"connected": False},
        helps=(("Lifecycle.start", "start", "before", "slow"),),
    ),
    "operations rolled back": Scene(
        "0 update, 0 update, 0 update, 0.1 cancel, 0.1 cancel, 0.1 cancel, 0.1 cancel, 0.1 cancel,"
        " 0.1 cancel, 0.2 cancel, 0.2 cancel, 1.2 update, 1.2 update, 1.2 update, 1.3 cancel,"
        " 1.3 cancel, 1.3 cancel, 1.3 cancel, 1.3 cancel, 1.3 cancel, 1.4 cancel, 1.4 cancel",
        features={"threads": 3},
        faults={"broken": 0.8, "connected": False},
        helps=MOSTLY_LATE_SAVES,
    ),
    "behind an operation": Scene(
        "0 update, 0 update, 0 update, 0.2 enqueue, 0.2 enqueue, 0.2 enqueue, 0.2 enqueue, 0.5 cleanup,"
        " 0.6 cleanup, 0.7 cleanup, 0.8 cleanup, 2.1 cleanup, 2.2 cleanup, 2.3 cleanup, 2.4 cleanup,"
        " 2.6 cleanup, 2.6 cleanup, 2.8 cleanup, 2.8 cleanup",
        processes=1,
        features={"portable": True, "threads": 2, "delays": False, "families": False},
        faults={"disordered": True},
        habits={"ends": "value", "steps": 1, "pace": 0.0, "tracks": None},
        helps=MOSTLY_LATE_CLAIMS + MOSTLY_LATE_SAVES,
    ),
    "forgotten and claimed": Scene(
        "0 reject, 0.2 enqueue, 0.2 enqueue, 0.3 cleanup, 0.3 cleanup, 0.4 cleanup, 0.4 cleanup, 0.5 cleanup,"
        " 0.6 cleanup, 1 enqueue, 1 enqueue, 1.1 cleanup, 1.2 cleanup, 1.3 cleanup, 1.4 cleanup",
        processes=1,
        features={"portable": False, "threads": 1, "delays": False, "families": False},
        faults={"disordered": True},
        habits={"ends": "value", "steps": 2, "pace": 0.1, "tracks": None},
        helps=MOSTLY_LATE_CLAIMS,
    ),
    "words of who was removed": Scene(
        "0 reject, 0.1 reject, 0.4 remove, 0.5 remove, 0.5 remove, 0.8 completion, 0.8 completion,"
        " 0.9 completion, 1.0 completion, 1.1 completion, 1.2 completion, 1.3 completion",
        habits=SHORT,
    ),
    "old style": Scene(
        "0 reject, 0 enqueue, 0.1 interrupt, 0.3 cancel, 0.6 enqueue, 0.8 leave",
        features={"old_style": True},
    ),
    "dispatched": Scene(
        "0 reject, 0 enqueue, 0.1 interrupt, 0.2 enqueue, 0.3 cancel, 0.4 crash of owner, 0.5 rollback,"
        " 0.7 enqueue, 0.8 reject, 1 cancel, 1.2 restart, 1.4 interrupt, 1.6 enqueue, 2 leave, 2.4 enqueue",
        processes=3,
        features={
            "portable": True,
            "dispatch": True,
            "families": False,
            "old_style": False,
            "settings": {"max_running": 1},
        },
        faults={"proofs": True},
        habits=SHORT,
        aims=(
            ("Admissions._admit", "admit", "after", "fail"),
            ("Admissions._admit", "admit", "after", "slow"),
            ("ThreadQueue._claim", "claim", "after", "fail"),
            ("Takeover._take", "row", "before", "fail"),
        ),
        aimed=True,
    ),
    "a run outlives its worker": Scene(
        "0 reject, 0.2 enqueue, 0.4 crash of owner, 0.9 restart, 1.2 crash of owner, 1.6 restart, 2 enqueue",
        processes=3,
        features=CONTINUED,
        faults={"proofs": True},
        habits=SHORT,
        aims=(
            ("Reaper._sweep", "sweep", "after", "fail"),
            ("Takeover._take", "row", "before", "fail"),
            ("Lifecycle.start", "start", "after", "fail"),
            ("Lifecycle.start", "start", "before", "crash"),
        ),
        aimed=True,
    ),
    "its retries are used up": Scene(
        "0 reject, 0.3 crash of owner, 1.9 crash of owner, 2 restart, 3.2 crash of owner",
        processes=3,
        features={**CONTINUED, "retries": 1},
        faults={**NOTHING, "proofs": True},
        habits=SHORT,
        aimed=True,
    ),
    "handed over, then orphaned": Scene(
        "0 reject, 0.2 leave, 0.3 leave, 1.9 crash of owner, 2 restart",
        processes=3,
        features={**CONTINUED, "retries": 1},
        faults={**NOTHING, "proofs": True},
        habits=SHORT,
        aimed=True,
    ),
    "an attempt is cancelled": Scene(
        "0 reject, 0.3 crash of owner, 0.5 cancel, 0.7 rollback, 1.1 crash of owner, 1.3 cancel, 1.5 enqueue",
        processes=3,
        features=CONTINUED,
        faults={"proofs": True},
        habits=SHORT,
        aims=(
            ("Reaper._sweep", "sweep", "after", "fail"),
            ("Lifecycle.start", "start", "before", "slow"),
            ("Takeover._take", "row", "before", "slow"),
        ),
        aimed=True,
    ),
    "a run is handed over": Scene(
        "0 reject, 0.1 reject, 0.2 enqueue, 0.3 leave, 0.6 leave, 1 enqueue, 1.4 cancel",
        processes=3,
        features={**CONTINUED, "threads": 2},
        habits=SHORT,
        aims=(
            ("Settlement._write_hand_over", "hand_over", "after", "fail"),
            ("Settlement._write_hand_over", "hand_over", "before", "fail"),
            ("Settlement._write_hand_over", "hand_over", "before", "slow"),
            ("Settlement._write_hand_over", "hand_over", "before", "crash"),
            ("Settlement._write_hand_over", "hand_over", "after", "crash"),
            ("HandOvers._hint", "workers", "before", "fail"),
        ),
        aimed=True,
    ),
    "a hand-over is pending": Scene(
        "0 reject, 0.1 reject, 0.4 leave, 1.5 leave",
        processes=3,
        features={**CONTINUED, "threads": 2},
        habits=SHORT,
        helps=(("Settlement._write_hand_over", "hand_over", "before", "fail"),),
        aimed=True,
    ),
    "a run between two attempts is cancelled": Scene(
        "0 reject, 0.1 enqueue, 0.4 request drain, 0.5 cancel, 0.6 rollback, 0.7 cancel, 0.8 interrupt",
        processes=2,
        features=CONTINUED,
        habits=SHORT,
        aims=(("Settlement._write_hand_over", "hand_over", "before", "slow"),),
        aimed=True,
    ),
    "a live worker's run is continued": Scene(
        "0 reject, 0.3 declare dead of owner, 0.6 cancel, 0.8 enqueue, 1 declare dead of owner",
        processes=3,
        features=CONTINUED,
        habits=SHORT,
        aimed=True,
    ),
    "cancels": Scene(
        "0 reject, 0 enqueue, 0.2 cancel, 0.3 cancel, 0.4 cancel, 0.5 cancel",
        habits={"ends": "hangs", "stops": "with_success"},
        aims=(
            ("Cancellations._decide", "decide", "before", "fail"),
            ("Endings._write_unwritten", "decide", "before", "fail"),
        ),
    ),
    "words of runs": Scene(
        "0 reject, 0.1 counters, 0.2 counters, 0.2 completion, 0.4 completion, 0.5 counters",
        habits={"ends": "hangs", "steps": 3, "pace": 0.1},
    ),
    "former states": Scene(
        "0 reject, 0.3 update, 0.4 keep latest, 0.5 keep latest, 0.6 reject, 0.9 keep latest, 1 update,"
        " 1.1 keep latest, 1.2 cancel, 1.3 keep latest",
        habits=SHORT,
        aimed=True,
    ),
}

OF_ATTEMPTS = tuple(name for name, scene in SCENES.items() if scene.features.get("retries"))
"""Scenes to which one of so many other seeds comes."""
EVERY_ATTEMPT, FIRST_ATTEMPT = 15, 4
