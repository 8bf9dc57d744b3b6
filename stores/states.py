"""The state machine of a run, as data. Every store derives its guards from these tables.

status        pending --start--> running --> success | error | timeout | interrupted
holds_thread  false --claim--> true --settle--> false

A run may end without having started (`pending -> error`). A terminal status is final.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Stored(StrEnum):
    """Values of a column to which a newer version may add others."""

    @classmethod
    def stored(cls, text: str) -> Self:
        """Returns the member with that value. An unknown value becomes an object with that text and the name
        "unknown", which equals no member and is not listed among the members."""
        known = cls._value2member_map_.get(text)
        if isinstance(known, cls):
            return known
        unknown = str.__new__(cls, text)
        unknown._name_, unknown._value_ = "unknown", text
        return unknown


class RunStatus(Stored):
    pending = "pending"
    running = "running"
    success = "success"
    error = "error"
    timeout = "timeout"
    interrupted = "interrupted"


class DisconnectMode(Stored):
    cancel = "cancel"
    continue_ = "continue"


class Strategy(StrEnum):
    """The action of admission if the thread has a run in flight (multitask strategy)."""

    reject = "reject"
    interrupt = "interrupt"
    rollback = "rollback"
    enqueue = "enqueue"


class CancelAction(Stored):
    interrupt = "interrupt"  # keep the changes of the run
    rollback = "rollback"  # restore the thread to its state before the run


class Cause(Stored):
    """Why a run was decided otherwise than by its own code."""

    user = "user"
    superseded = "superseded"
    timeout = "timeout"
    idle = "idle"
    queue_timeout = "queue_timeout"
    disconnect = "disconnect"
    shutdown = "shutdown"
    lease_lost = "lease_lost"
    orphaned = "orphaned"
    parent = "parent"
    budget = "budget"
    admin = "admin"


class Phase(StrEnum):
    """Derived from status and holds_thread, for people."""

    waiting = "waiting"
    pending = "pending"
    running = "running"
    cancelling = "cancelling"
    rolling_back = "rolling back"
    done = "done"


class WorkerState(Stored):
    live = "live"
    draining = "draining"
    dead = "dead"


class WebhookState(Stored):
    waiting = "waiting"  # its run has not settled
    due = "due"
    delivered = "delivered"
    dead = "dead"  # its last attempt failed; an operator may revive it


OPEN = frozenset({RunStatus.pending, RunStatus.running})
TERMINAL = frozenset(RunStatus) - OPEN
FAILED = frozenset({RunStatus.error, RunStatus.timeout})
"""Statuses for which `wait` raises, and a stream ends with an error."""
TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.pending: frozenset(RunStatus) - {RunStatus.pending},
    RunStatus.running: TERMINAL,
    **{status: frozenset[RunStatus]() for status in TERMINAL},
}


def may_become(old: RunStatus, new: RunStatus) -> bool:
    return new in TRANSITIONS.get(old, frozenset())


def phase_of(status: RunStatus, *, holds_thread: bool, rollback: bool) -> Phase:
    if status in OPEN:
        return Phase(status) if holds_thread or status is RunStatus.running else Phase.waiting
    if not holds_thread:
        return Phase.done
    return Phase.rolling_back if rollback else Phase.cancelling
