"""A state machine over the store port: random sequences of calls, compared with the model call by call.

    machine = machine_over(open_store)     # an async context manager factory: clock -> store
    run_state_machine_as_test(machine)

Every call may be repeated at any time with the same ids, and the store must again answer as the model does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stores.base import CoordinationStore
from stores.errors import (
    ConflictError,
    EpochDead,
    IdempotencyConflict,
    StaleFence,
    ThreadExists,
    ThreadNotFound,
)
from stores.pruning import PruneCursor, PruningStore, Retention
from stores.rows import Limits, NewWorker, Outcome, Ownership, WorkerRow
from stores.states import CancelAction, Cause, RunStatus
from tests.conformance.run_store.model import Model, Own, Run
from tests.support.builders import StoreClock, created, new_run, new_worker
from tests.support.strategies import STRATEGIES

OpenStore = Callable[[StoreClock], AbstractAsyncContextManager[CoordinationStore]]
THREADS = ("a", "b")
TTL = 15_000_000  # us
KEY_AGE = 50.0  # s
ASSISTANT = "agent"
LONGEST = 500_000_000
"""us. Shorter than the time for which runs wait for a worker that knows their assistant."""
Call = tuple[str, Callable[[], Awaitable[Any]], Callable[[], Any]]

threads = st.sampled_from(THREADS)
strategies = st.sampled_from(STRATEGIES)
terminal = st.sampled_from(("success", "error", "timeout", "interrupted"))
actions = st.sampled_from(("interrupt", "rollback"))
picks = st.integers(min_value=0, max_value=10_000)


def machine_over(open_store: OpenStore) -> type[RuleBasedStateMachine]:
    return type("StoreMachine", (StoreMachine,), {"open_store": staticmethod(open_store)})


async def _answer(call: Awaitable[Any]) -> Any:
    """Returns the answer, or an error as the model represents it."""
    try:
        return await call
    except IdempotencyConflict as error:
        return ("IdempotencyConflict", error.active_run_id)
    except ThreadExists:
        return "ThreadExists"
    except ConflictError as error:
        return ("ConflictError", error.active_run_id)
    except (EpochDead, StaleFence, ThreadNotFound) as error:
        return type(error).__name__


class StoreMachine(RuleBasedStateMachine):
    open_store: OpenStore

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.clock = StoreClock()
        self.clock.advance(1000)  # past the times of creation that the machine hands out
        self.began = self.clock.micros
        self.calls: list[Call] = []
        self.owns: list[Own] = []
        self.admitted = 0
        self.epochs: list[int] = []

    @initialize()
    def open(self) -> None:
        self.model = Model(self.clock.micros)
        self.store = self.runner.run(self.stack.enter_async_context(type(self).open_store(self.clock)))
        self.new_worker()
        self.new_worker()

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    def call(self, what: str, store: Callable[[], Awaitable[Any]], model: Callable[[], Any]) -> Any:
        """Make a call on both, compare, and remember it for `again`."""
        self.calls.append((what, store, model))
        return self.compare(what, store, model)

    def compare(self, what: str, store: Callable[[], Awaitable[Any]], model: Callable[[], Any]) -> Any:
        self.model.now = self.clock.micros
        expected, answer = model(), self.runner.run(_answer(store()))
        assert answer == expected, f"{what}: the store answers {answer}, the model {expected}"
        return answer

    def pick(self, pool: list[Any], number: int) -> Any:
        return pool[-1 - number % len(pool)]

    # -- admission

    @rule(
        thread=threads,
        strategy=strategies,
        worker=picks,
        portable=st.booleans(),
        retries=st.sampled_from((0, 0, 1, 2)),
        key=st.sampled_from((None, None, "k")),
        delay=st.sampled_from((None, None, None, 1, 10)),
    )
    def admit(
        self,
        *,
        thread: str,
        strategy: str,
        worker: int,
        portable: bool,
        retries: int,
        key: str | None,
        delay: int | None,
    ) -> None:
        epoch, run, modelled = self._new(
            thread, worker, portable=portable, retries=retries, key=key, strategy=strategy, delay=delay
        )

        async def admit() -> Any:
            return admission_of(await self.store.admit(run, epoch=epoch, limits=Limits()))

        self._admitted(self.call("admit", admit, lambda: self.model.admit(modelled, strategy, epoch)), epoch)

    @rule(thread=threads, worker=picks)
    def insert(self, thread: str, worker: int) -> None:
        epoch, run, modelled = self._new(thread, worker)

        async def insert() -> Any:
            return admission_of(await self.store.insert(run, epoch=epoch))

        self._admitted(self.call("insert", insert, lambda: self.model.insert(modelled, epoch)), epoch)

    def _new(
        self,
        thread: str,
        worker: int,
        *,
        portable: bool = False,
        retries: int = 0,
        key: str | None = None,
        strategy: str = "reject",
        delay: int | None = None,
    ) -> Any:
        self.admitted += 1
        run = new_run(
            thread,
            run_id=f"r{self.admitted:04}",
            created_at=created(self.admitted),
            multitask_strategy=strategy,
            portable=portable,
            retries=retries,
            assistant_id=ASSISTANT,
            idempotency_key=key,
            request_hash=key and "h",
            delay_ms=None if delay is None else delay * 1000,
        )
        epoch = self.pick(self.epochs, worker)
        delayed = None if delay is None else delay * 1_000_000
        modelled = Run(run.run_id, thread, self.admitted, key, portable=portable, delay=delayed)
        return epoch, run, replace(modelled, retries=retries)

    def _admitted(self, answer: Any, epoch: int) -> None:
        if answer[0] == "admitted":
            run = self.model.runs[answer[1]]
            self.owns.append(Own(run.run_id, run.thread, epoch, run.fence))

    @rule(thread=threads, worker=picks)
    def claim(self, thread: str, worker: int) -> None:
        epoch = self.pick(self.epochs, worker)

        async def claim() -> Any:
            claimed = await self.store.claim(thread, epoch=epoch)
            return claimed and tuple(claimed)

        answer: Any = self.call("claim", claim, lambda: self.model.claim(thread, epoch))
        if answer is not None and answer != "EpochDead":
            self.owns.append(Own(answer[0], thread, epoch, answer[1]))

    @precondition(lambda self: self.owns)
    @rule(number=picks, worker=picks)
    def withdraw(self, number: int, worker: int) -> None:
        run_id, epoch = self.pick(self.owns, number).run_id, self.pick(self.epochs, worker)

        async def withdraw() -> Any:
            decision = await self.store.withdraw(run_id, epoch=epoch)
            return decision and (decision.status, decision.settled)

        self.call("withdraw", withdraw, lambda: self.model.withdraw(run_id, epoch))

    # -- decisions and the owner's writes

    @precondition(lambda self: self.owns)
    @rule(number=picks, status=terminal, action=actions)
    def decide(self, number: int, status: str, action: str) -> None:
        run_id = self.pick(self.owns, number).run_id

        async def decide() -> Any:
            done = await self.store.decide(
                run_id, RunStatus(status), action=CancelAction(action), cause=Cause.user
            )
            return done and (done.status, done.won, done.settled, done.action)

        self.call("decide", decide, lambda: self.model.decide(run_id, status, action))

    @precondition(lambda self: self.owns)
    @rule(number=picks)
    def start(self, number: int) -> None:
        own = self.pick(self.owns, number)

        async def start() -> Any:
            started = await self.store.start(_own(own), {})
            return started and (started.decision.status, started.values)

        self.call("start", start, lambda: self.model.start(own))

    @precondition(lambda self: self.owns)
    @rule(number=picks, value=st.integers(0, 9), last=st.booleans())
    def save(self, number: int, value: int, last: bool) -> None:
        own = self.pick(self.owns, number)
        self.call(
            "save",
            lambda: self.store.save(_own(own), value, last=last),
            lambda: self.model.save(own, value, last=last),
        )

    @precondition(lambda self: self.owns)
    @rule(number=picks)
    def restore(self, number: int) -> None:
        own = self.pick(self.owns, number)

        async def restore() -> Any:
            return ("values", await self.store.restore(_own(own)))

        self.call("restore", restore, lambda: self.model.restore(own))

    @precondition(lambda self: self.owns)
    @rule(
        number=picks,
        status=terminal,
        value=st.none() | st.integers(10, 19),
        paused=st.booleans(),
        hold=st.booleans(),
    )
    def finish(self, number: int, status: str, value: Any, paused: bool, hold: bool) -> None:
        own = self.pick(self.owns, number)
        outcome = Outcome(RunStatus(status), values=value, paused=paused)

        async def finish() -> Any:
            return _finish(await self.store.finish(_own(own), outcome, hold=hold))

        self.call("finish", finish, lambda: self.model.finish(own, status, value, paused=paused, hold=hold))

    @precondition(lambda self: self.owns)
    @rule(number=picks, value=st.none() | st.integers(20, 29), undo=st.sampled_from((None, "done", "failed")))
    def settle(self, number: int, value: Any, undo: str | None) -> None:
        own = self.pick(self.owns, number)

        async def settle() -> Any:
            done = await self.store.settle(_own(own), Outcome(RunStatus.error, values=value), undo)
            return _finish(done)

        self.call("settle", settle, lambda: self.model.settle(own, value, undo))

    @precondition(lambda self: self.owns)
    @rule(number=picks)
    def hand_over(self, number: int) -> None:
        own = self.pick(self.owns, number)

        async def hand_over() -> Any:
            standing = await self.store.hand_over(_own(own))
            return standing and (standing.status, standing.settled)

        self.call("hand_over", hand_over, lambda: self.model.hand_over(own))

    @precondition(lambda self: self.owns)
    @rule(number=picks)
    def refence(self, number: int) -> None:
        own = self.pick(self.owns, number)

        async def refence() -> Any:
            newer = await self.store.refence(_own(own))
            return newer and newer.fence

        if (fence := self.call("refence", refence, lambda: self.model.refence(own))) is not None:
            self.owns.append(replace(own, fence=fence))

    # -- workers

    @rule()
    def new_worker(self) -> None:
        worker: NewWorker = new_worker(ttl_ms=TTL // 1000, assistants=(ASSISTANT,))
        epoch = self.runner.run(self.store.register(worker))
        self.model.now = self.clock.micros
        self.model.register(epoch, TTL)
        self.epochs.append(epoch)

    @rule(worker=picks)
    def beat(self, worker: int) -> None:
        epoch = self.pick(self.epochs, worker)
        self.call("beat", lambda: self.store.beat(epoch), lambda: self.model.beat(epoch))

    @rule(worker=picks, by=picks, proven=st.booleans(), late=st.integers(0, 1))
    def declare_dead(self, worker: int, by: int, proven: bool, late: int) -> None:
        """`late`: the number of heartbeats since the row of the peer was read."""
        epoch = self.pick(self.epochs, worker)
        actor, known = self.pick(self.epochs, by), self.model.workers.get(epoch)
        beats = max(0, known.beats - late) if known else 0
        rows = self.runner.run(self.store.workers(alive_only=False))
        peer: WorkerRow | None = next((row for row in rows if row.epoch == epoch), None)
        if peer is None:
            return
        seen = replace(peer, hb_seq=beats)
        self.call(
            "declare_dead",
            lambda: self.store.fence_worker(seen, by=actor, proven=proven),
            lambda: self.model.declare_dead(epoch, beats, proven=proven),
        )

    @rule(worker=picks)
    def sweep(self, worker: int) -> None:
        epoch = self.pick(self.epochs, worker)

        async def sweep() -> Any:
            return _orphans(await self.store.sweep(by=epoch, error="gone"))

        for run_id, _, fence in self.call("sweep", sweep, lambda: self.model.sweep(epoch)):
            if fence is not None:
                self.owns.append(Own(run_id, self.model.runs[run_id].thread, epoch, fence))

    @rule(worker=picks)
    def drain(self, worker: int) -> None:
        epoch = self.pick(self.epochs, worker)

        async def drain() -> Any:
            return sorted(handed_over.run_id for handed_over in await self.store.drain(epoch))

        self.call("drain", drain, lambda: self.model.drain(epoch))

    @rule(worker=picks)
    def retire(self, worker: int) -> None:
        epoch = self.pick(self.epochs, worker)

        async def retire() -> Any:
            return _orphans(await self.store.retire(epoch))

        self.call("retire", retire, lambda: self.model.retire(epoch))

    # -- time, upkeep, and everything once more

    @precondition(lambda self: self.clock.micros < self.began + LONGEST - 100_000_000)
    @rule(seconds=st.sampled_from((1, 10, 20, 100)))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(age=st.sampled_from((0, 10, 30)), limit=st.sampled_from((1, 3, 500)))
    def prune(self, age: int, limit: int) -> None:
        assert isinstance(self.store, PruningStore)
        store, keep = self.store, Retention(runs=float(age), keys=KEY_AGE)

        async def prune() -> Any:
            removed, cursor = 0, PruneCursor("runs")
            while True:
                step = await store.prune(keep, cursor=cursor, limit=limit)
                removed += step.pruned.runs
                if step.cursor is None:
                    return removed
                cursor = step.cursor

        self.call("prune", prune, lambda: self.model.prune(age * 1_000_000, int(KEY_AGE * 1_000_000)))

    @precondition(lambda self: self.calls)
    @rule(number=picks)
    def again(self, number: int) -> None:
        """A call whose answer was lost is repeated at any later time."""
        what, store, model = self.pick(self.calls, number)
        answer = self.compare(f"{what}, again", store, model)
        if what in ("admit", "insert") and answer[0] == "admitted":
            run = self.model.runs[answer[1]]  # after it was pruned: a new run
            epoch = run.owner if run.owner is not None else run.home
            assert epoch is not None
            self.owns.append(Own(run.run_id, run.thread, epoch, run.fence))

    # -- what always holds

    @invariant()
    def rows_are_those_of_the_model(self) -> None:
        rows = self.runner.run(self.store.runs(limit=10_000))
        stored = {
            row.run_id: (
                row.status, row.holds_thread, row.owner_epoch, row.home_epoch, row.fence, row.seq,
                row.cancel_action, row.started_at is not None, row.settled_at, row.rollback_state,
                row.not_before, row.attempt, row.retries, row.stopped_at,
            )
            for row in rows
        }  # fmt: skip
        assert stored == {
            run.run_id: (
                run.status, run.holds, run.owner, run.home, run.fence, run.seq,
                run.action, run.started, run.settled_at, run.undo, run.not_before,
                run.attempt, run.retries, run.stopped_at,
            )
            for run in self.model.runs.values()
        }  # fmt: skip

    @invariant()
    def threads_are_those_of_the_model(self) -> None:
        for name in THREADS:
            row = self.runner.run(self.store.thread(name))
            thread = self.model.threads.get(name)
            expected = thread and (thread.fence, thread.values, thread.interrupts, self.model.status(name))
            assert (row and (row.fence, row.values, row.interrupts, row.status)) == expected
            kept = thread and (thread.used, millis(thread.ttl), thread.temporary)
            assert (row and (row.updated_at, row.ttl_ms, row.temporary)) == kept
            line = self.runner.run(self.store.waiting_line(name))
            assert line == [run.run_id for run in self.model.line(name)]
            holder = self.runner.run(self.store.holder(name))
            assert holder == next((run.run_id for run in self.model.in_flight(name)), None)

    @invariant()
    def a_thread_has_one_holder(self) -> None:
        for name in THREADS:
            assert sum(run.holds for run in self.model.of(name)) <= 1


def _own(own: Own) -> Ownership:
    return Ownership(own.run_id, own.thread, own.epoch, own.fence)


def admission_of(admission: Any) -> Any:
    what = "admitted" if admission.existing is None else "existing"
    return (what, admission.run_id, admission.holds, admission.fence, admission.seq)


def millis(micros: int | None) -> int | None:
    return None if micros is None else micros // 1000


def _finish(finish: Any) -> Any:
    return (finish.status, finish.lost, finish.undo, finish.next_home)


def _orphans(orphans: Any) -> Any:
    return sorted(
        (orphan.run_id, orphan.status, orphan.adopted.fence if orphan.adopted else None) for orphan in orphans
    )
