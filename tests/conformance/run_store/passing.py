"""A second state machine, over threads that are created, kept for a while, and deleted.

It is separate and has only the rules that it needs, so that rare sequences of both machines stay likely.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stores.catalogue import NewThread, ThreadPatch
from stores.rows import Limits
from tests.conformance.run_store.machine import (
    OpenStore,
    StoreMachine,
    admission_of,
    millis,
    picks,
    strategies,
    threads,
)

ttls = st.sampled_from((None, 5_000_000, 10_000_000))


def passing_machine_over(open_store: OpenStore) -> type[RuleBasedStateMachine]:
    return type("PassingMachine", (PassingMachine,), {"open_store": staticmethod(open_store)})


class PassingMachine(StoreMachine):
    admit = withdraw = restore = refence = save = prune = None  # pyright: ignore[reportAssignmentType] - rules of the machine are taken out
    insert = beat = declare_dead = sweep = retire = None  # pyright: ignore[reportAssignmentType] - the same

    @rule(
        thread=threads,
        strategy=strategies,
        worker=picks,
        must_exist=st.sampled_from((False, False, True)),
        temporary=st.sampled_from((None, 5_000_000, 5_000_000)),
    )
    def admit_here(
        self, thread: str, strategy: str, worker: int, must_exist: bool, temporary: int | None
    ) -> None:
        epoch, run, modelled = self._new(thread, worker, strategy=strategy)
        spec = replace(run.spec, thread_must_exist=must_exist, temporary_ms=millis(temporary))
        run = run._replace(spec=spec)

        async def admit() -> Any:
            return admission_of(await self.store.admit(run, epoch=epoch, limits=Limits()))

        def modelling() -> Any:
            return self.model.admit(modelled, strategy, epoch, must_exist=must_exist, temporary=temporary)

        self._admitted(self.call("admit", admit, modelling), epoch)

    @rule(thread=threads, ttl=ttls, existing_ok=st.booleans())
    def make_thread(self, thread: str, ttl: int | None, existing_ok: bool) -> None:
        new = NewThread(thread, ttl_ms=millis(ttl), existing_ok=existing_ok)

        async def make() -> Any:
            return _thread_of(await self.store.create_thread(new))

        self.call("make thread", make, lambda: self.model.make(thread, ttl, existing_ok=existing_ok))

    @rule(thread=threads, ttl=ttls)
    def patch_thread(self, thread: str, ttl: int | None) -> None:
        patch = ThreadPatch(ttl_ms=millis(ttl), sets_ttl=True)

        async def change() -> Any:
            return _thread_of(await self.store.patch_thread(thread, patch, user_id=None))

        self.call("patch thread", change, lambda: self.model.patch(thread, ttl))

    @rule(seconds=st.sampled_from((2, 5)))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def expire(self) -> None:
        async def expire() -> Any:
            removed = await self.store.expire_threads(limit=500)
            return sorted((thread.thread_id, sorted(thread.run_ids)) for thread in removed)

        self.call("expire", expire, self.model.expire)

    @invariant()
    def what_has_expired_is_foreseen(self) -> None:
        self.model.now = self.clock.micros
        foreseen = self.runner.run(self.store.has_expired_threads())
        assert foreseen == bool(self.model.expired())


def _thread_of(thread: Any) -> Any:
    ttl = None if thread.ttl_ms is None else thread.ttl_ms * 1000
    return (thread.fence, ttl, thread.updated_at, thread.status)
