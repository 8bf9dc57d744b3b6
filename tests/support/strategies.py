"""The multitask strategies, as a reference: what becomes of a thread on which a run is admitted.

The model of the store's conformance (`tests.conformance.run_store.model`) and the checker of histories
(`tests.histories.sequential`) both use this module. The explicit-state model (`tests.model.store`) and the
truth of the simulation (`tests.simulation.truth`) state the rules themselves, on purpose: they must not share
a mistake with this module, so that a wrong rule here contradicts them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

STRATEGIES = ("reject", "enqueue", "interrupt", "rollback")


class InFlight(NamedTuple):
    """A run that is pending or running, or that holds the thread. `delayed`: its time to join the queue has
    not come."""

    holds: bool
    delayed: bool = False


class Placement(NamedTuple):
    """What the admission does. `refused`: nothing is written. `action`: runs in flight without a decision are
    interrupted with it, if there is one. `holds`: the new run takes the thread at once; else it waits."""

    refused: bool
    action: str | None
    holds: bool


def placement(strategy: str, in_flight: Iterable[InFlight], *, delayed: bool = False) -> Placement:
    """What an admission does on a thread with these runs in flight. `delayed`: the new run waits for its
    time."""
    others = tuple(in_flight)
    if strategy == "reject" and others:
        return Placement(refused=True, action=None, holds=False)
    if strategy in ("interrupt", "rollback"):
        free = not any(run.holds for run in others)
        return Placement(refused=False, action=strategy, holds=free and not delayed)
    free = all(run.delayed for run in others)
    return Placement(refused=False, action=None, holds=free and not delayed)


def keeps_last_save(status: str, action: str | None) -> bool:
    """The run was stopped, and what it saves while it stops stays: only a rollback takes saves back."""
    return status in ("interrupted", "timeout") and action == "interrupt"
