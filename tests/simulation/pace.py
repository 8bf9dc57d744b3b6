"""Latencies in worlds without faults: of a cancel, and of a claim by the head of a queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stores.rows import ANY_WORKER
from tests.simulation.faults import Faults
from tests.simulation.process import SETTINGS, Process
from tests.simulation.truth import Truth
from tests.support.inside import assembly_of


class Pace:
    def __init__(self, now: Callable[[], float], faults: Faults, truth: Truth) -> None:
        self._now, self._faults, self._truth = now, faults, truth
        self._freed: dict[str, tuple[float, int | None]] = {}
        self._decided: dict[str, tuple[float, Process]] = {}

    def cancel_delivered(self, process: Process, run_id: str) -> None:
        """Called when the task of a run receives its cancel."""
        entry = assembly_of(process.manager).shared.registry.entry(run_id)
        unwritten = process.departing or entry is None or entry.elsewhere or entry.unwritten is not None
        if not process.departing:  # a shutdown cancels first and decides later
            self._truth.cancel_delivered(run_id, unwritten=unwritten)
        decided = self._decided.pop(run_id, None)
        if decided is None or not self._truth.quiet:
            return
        hinted = decided[1] is process or self._faults.connected
        bound = 0.1 if hinted else SETTINGS.short_tick * 1.2 + 0.1
        took = self._now() - decided[0]
        if took > bound:
            self._truth.wrong(f"run {run_id} received its cancel after {took:.3f} s")

    def _takers(self, process: Process) -> bool:
        """Whether a worker executes runs of others."""
        return any(not (other.only_admits or other.departing) for other in process.world.up())

    def account(self, process: Process, op: str, args: tuple[Any, ...], answer: Any) -> None:
        """Measures the delay of a cancel from its commit, and of a claim from the release of the thread."""
        if answer is None:
            if op == "claim":  # a worker has tried: the thread is not free, or another worker's
                self._freed.pop(args[0], None)
            return
        if op == "drain":  # the next run may have another home
            self._freed = {thread: freed for thread, freed in self._freed.items() if freed[1] != args[0]}
        elif op == "register":
            self._registered(process)
        elif op == "decide" and answer.won:
            for run_id in (args[0], *(child.run_id for child in answer.children)):
                self._decided[run_id] = (self._now(), process)
            if answer.settled:  # it may have headed a queue: the tick claims for the next run
                self._freed.pop(answer.thread_id, None)
        elif op == "admit":
            for decision in answer.replaced:
                self._decided[decision.run_id] = (self._now(), process)
        elif op in ("finish", "settle") and answer.next_home is not None and not answer.undo:
            hinted = self._faults.connected or answer.next_home in process.epochs
            if answer.next_home == ANY_WORKER and (self._truth.few_places or not self._takers(process)):
                hinted = False
            beside = any(
                not run.fence and not run.waiting for run in self._truth.in_flight(args[0].thread_id)
            )
            if (
                hinted
                and args[0].fence
                and not beside
                and answer.decision is not None
                and answer.decision.settled
            ):
                self._freed[args[0].thread_id] = (self._now(), answer.next_home)
        elif op == "claim":
            freed = self._freed.pop(args[0], None)
            if freed is not None and self._truth.quiet and self._now() - freed[0] > 0.1:
                self._truth.wrong(f"thread {args[0]} was free for {self._now() - freed[0]:.3f} s")

    def _registered(self, process: Process) -> None:
        """A new epoch: no run of the previous one may be in progress."""
        registry = assembly_of(process.manager).shared.registry
        for entry in registry.unsettled():
            if entry.own is not None and entry.own.epoch in process.epochs:
                self._truth.wrong(f"{process} registered anew while run {entry.record.run_id} was not over")
