"""A run that is dispatched waits without a home, until a worker that knows its assistant claims it."""

from __future__ import annotations

from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.claims import UNCLAIMED, ClaimableQuery, Unclaimed
from stores.errors import ConflictError
from stores.rows import Admission, Outcome, Ownership
from stores.states import Phase, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    admitted,
    cancel,
    fence_epoch,
    new_worker,
    row_of,
    running,
    worker_row,
)


class Dispatch(StoreCase):
    @pytest.fixture
    async def front(self, store: CoordinationStore) -> int:
        """A worker that only admits."""
        return await store.register(new_worker(admits_only=True))

    @pytest.fixture
    async def executor(self, store: CoordinationStore) -> int:
        return await store.register(new_worker(assistants=("agent",)))

    async def dispatched(
        self, store: CoordinationStore, front: int, thread: str = "t", **fields: Any
    ) -> Admission:
        known = {"assistant_id": "agent", "portable": True, "dispatched": True}
        return await admitted(store, front, thread, **(known | fields))

    async def test_worker_that_only_admits_is_listed_as_such(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        assert (await worker_row(store, front)).admits_only
        assert not (await worker_row(store, executor)).admits_only

    async def test_dispatched_run_does_not_take_the_free_thread(
        self, store: CoordinationStore, front: int
    ) -> None:
        admission = await self.dispatched(store, front)
        assert (admission.holds, admission.fence) == (False, 0)
        row = await row_of(store, admission.run_id)
        assert (row.phase, row.owner_epoch, row.home_epoch) == (Phase.waiting, None, None)
        assert row.waiting
        assert [step.what for step in await store.transitions(row.run_id)] == ["queued"]
        assert (await store.tick(front)).free_threads == ()
        assert await store.claim("t", epoch=front) is None
        assert await store.claimants("t") == []

    async def test_worker_with_its_assistant_claims_and_executes_it(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        stranger = await store.register(new_worker(assistants=("other",)))
        first = await self.dispatched(store, front)
        second = await self.dispatched(store, front, multitask_strategy="enqueue")
        assert await store.claimants("t") == [executor]
        assert (await store.tick(executor)).free_threads == ("t",)
        assert (await store.tick(stranger)).free_threads == ()
        assert await store.claim("t", epoch=stranger) is None
        claimed = await store.claim("t", epoch=executor)
        assert claimed is not None
        assert claimed.run_id == first.run_id
        row = await row_of(store, first.run_id)
        assert (row.owner_epoch, row.fence, row.attempt) == (executor, claimed.fence, 1)
        assert (await store.tick(executor)).free_threads == ()
        own = Ownership(first.run_id, "t", executor, claimed.fence)
        assert await store.start(own, {"kind": "values"}) is not None
        assert (await store.finish(own, SUCCESS)).next_home == 0, "any worker may claim the next one"
        claimed = await store.claim("t", epoch=executor)
        assert claimed is not None
        assert claimed.run_id == second.run_id

    async def test_strategies_hold_for_dispatched_runs(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        waiting = await self.dispatched(store, front)
        with pytest.raises(ConflictError):
            await self.dispatched(store, front)
        new = await self.dispatched(store, front, multitask_strategy="interrupt")
        assert [decision.run_id for decision in new.replaced] == [waiting.run_id]
        assert (await row_of(store, waiting.run_id)).status is RunStatus.interrupted
        own = await running(store, executor, "u")
        behind = await self.dispatched(store, front, "u", multitask_strategy="rollback")
        assert [decision.run_id for decision in behind.replaced] == [own.run_id]
        assert not (await row_of(store, own.run_id)).settled, "its task has to stop first"
        assert await store.claim("u", epoch=executor) is None
        await store.finish(own, Outcome(RunStatus.interrupted))
        await store.settle(own, SUCCESS, "done")
        claimed = await store.claim("u", epoch=executor)
        assert claimed is not None
        assert claimed.run_id == behind.run_id

    async def test_death_of_the_worker_that_admitted_it_changes_nothing(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        run = await self.dispatched(store, front)
        await store.retire(front)
        assert await store.sweep(by=executor, error="dead") == []
        assert (await row_of(store, run.run_id)).waiting
        claimed = await store.claim("t", epoch=executor)
        assert claimed is not None
        assert claimed.run_id == run.run_id

    async def test_dispatched_run_is_cancelled_while_it_waits(
        self, store: CoordinationStore, front: int
    ) -> None:
        run = await self.dispatched(store, front)
        decision = await cancel(store, run.run_id)
        assert (decision.won, decision.settled) == (True, True)

    async def test_queue_deadline_of_a_dispatched_run_runs(
        self, store: CoordinationStore, front: int, executor: int, clock: StoreClock
    ) -> None:
        run = await self.dispatched(store, front, queue_timeout_ms=1000)
        clock.advance(1)
        assert [one.run_id for one in (await store.tick(executor)).overdue] == [run.run_id]

    async def test_delayed_dispatched_run_is_claimed_when_due(
        self, store: CoordinationStore, front: int, executor: int, clock: StoreClock
    ) -> None:
        run = await self.dispatched(store, front, delay_ms=1000)
        assert [step.what for step in await store.transitions(run.run_id)] == ["delayed"]
        assert (await store.tick(executor)).free_threads == ()
        clock.advance(1)
        assert (await store.tick(executor)).free_threads == ("t",)
        claimed = await store.claim("t", epoch=executor)
        assert claimed is not None
        assert claimed.run_id == run.run_id

    async def test_oldest_dispatched_runs_come_first(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        threads = [f"t{number}" for number in (5, 1, 4, 2)]
        for thread in threads:
            await self.dispatched(store, front, thread)
        assert (await store.tick(executor)).free_threads == tuple(threads)

    async def test_admission_that_is_repeated_returns_the_dispatched_run(
        self, store: CoordinationStore, front: int
    ) -> None:
        first = await self.dispatched(store, front, idempotency_key="k", request_hash="h")
        again = await self.dispatched(store, front, idempotency_key="k", request_hash="h")
        assert again.run_id == first.run_id
        assert again.existing is not None

    async def test_claimable_runs_are_those_of_each_user_in_turn(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        for thread, user in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("c1", "c"), ("n1", None), ("b1", "b")):
            await self.dispatched(store, front, thread, user_id=user)

        async def threads(**query: Any) -> list[str]:
            runs = await store.claimable(ClaimableQuery(query.pop("limit", 20), **query), epoch=executor)
            assert all((run.user_id or "n") == run.thread_id[0] for run in runs)
            assert all(run.assistant_id == "agent" for run in runs)
            return [run.thread_id for run in runs]

        assert await threads() == ["a1", "b1", "c1", "n1", "a2", "a3"]
        assert await threads(after="a") == ["b1", "c1", "n1", "a1", "a2", "a3"]
        assert await threads(after="bb", limit=2) == ["c1", "n1"]
        assert await threads(after="c", limit=5) == ["n1", "a1", "b1", "c1", "a2"]
        assert await threads(full_users=("a", None)) == ["b1", "c1"]
        assert await threads(full_assistants=("other",), limit=1) == ["a1"]
        assert await threads(full_assistants=("other", "agent")) == []
        assert await store.claimable(ClaimableQuery(20), epoch=front) == []
        assert await store.claim("a1", epoch=executor) is not None
        assert await threads() == ["a2", "b1", "c1", "n1", "a3"]
        await store.drain(executor)
        assert await threads() == []

    async def test_claimable_is_what_a_claim_would_take(
        self, store: CoordinationStore, front: int, executor: int, clock: StoreClock
    ) -> None:
        home = await store.register(new_worker(assistants=("agent",)))
        own = await running(store, executor, "held")
        await self.dispatched(store, front, "held", multitask_strategy="enqueue")
        await self.dispatched(store, front, "delayed", delay_ms=1000)
        first = await self.dispatched(store, front, "queue")
        await self.dispatched(store, front, "queue", multitask_strategy="enqueue")
        known = {"assistant_id": "agent", "portable": True, "multitask_strategy": "enqueue"}
        await running(store, home, "theirs")
        await admitted(store, home, "theirs", **known)

        async def threads() -> list[str]:
            return [run.thread_id for run in await store.claimable(ClaimableQuery(20), epoch=executor)]

        assert await threads() == ["queue"]
        claimed = await store.claim("queue", epoch=executor)
        assert claimed is not None
        assert claimed.run_id == first.run_id
        assert await threads() == []
        clock.advance(1)
        assert await threads() == ["delayed"]
        await store.finish(own, SUCCESS)
        assert sorted(await threads()) == ["delayed", "held"]
        await store.retire(home)
        assert sorted(await threads()) == ["delayed", "held", "theirs"], "its home is dead"

    async def test_claimable_children_are_those_of_runs_that_the_worker_executes(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        other = await store.register(new_worker(assistants=("agent",)))
        mine, theirs = await running(store, executor, "mine"), await running(store, other, "theirs")
        for thread, parent, assistant in (
            ("b", mine, "agent"),
            ("a", mine, "agent"),
            ("of-another", theirs, "agent"),
            ("unknown", mine, "unknown"),
        ):
            await self.dispatched(store, front, thread, parent_run_id=parent.run_id, assistant_id=assistant)
        await self.dispatched(store, front, "no-child")
        await self.dispatched(store, front, "delayed", parent_run_id=mine.run_id, delay_ms=1000)
        await self.dispatched(store, front, "behind")
        await self.dispatched(store, front, "behind", parent_run_id=mine.run_id, multitask_strategy="enqueue")

        async def threads(epoch: int, limit: int = 20) -> list[str]:
            runs = await store.claimable_children(limit, epoch=epoch)
            assert all((run.user_id, run.assistant_id) == (None, "agent") for run in runs)
            return [run.thread_id for run in runs]

        assert await threads(executor) == ["b", "a"], "the oldest first"
        assert await threads(executor, limit=1) == ["b"]
        assert await threads(other) == ["of-another"]
        assert await threads(front) == []
        assert await store.claim("b", epoch=other) is not None
        assert await threads(executor) == ["a"]
        await store.drain(executor)
        assert await threads(executor) == []

    async def test_unclaimed_runs_are_counted_by_assistant(
        self, store: CoordinationStore, front: int, clock: StoreClock
    ) -> None:
        assert await store.unclaimed() == []
        first = await self.dispatched(store, front)
        clock.advance(1)
        await self.dispatched(store, front, "u")
        await self.dispatched(store, front, "v", assistant_id="other")
        await self.dispatched(store, front, "w", assistant_id="other", delay_ms=1000)
        since = (await row_of(store, first.run_id)).updated_at
        assert await store.unclaimed() == [
            Unclaimed("agent", 2, since),
            Unclaimed("other", 1, since + 1_000_000),
        ]
        clock.advance(1)
        assert [one.runs for one in await store.unclaimed()] == [2, 2], "one was delayed"
        executor = await store.register(new_worker(assistants=("agent",)))
        assert [one.assistant_id for one in await store.unclaimed()] == ["other"]
        await store.drain(executor)
        assert [one.runs for one in await store.unclaimed()] == [2, 2], "a draining worker takes none"

    async def test_error_of_an_unclaimed_run_states_that_no_worker_has_executed_it(
        self, store: CoordinationStore, front: int, executor: int, clock: StoreClock
    ) -> None:
        run = await self.dispatched(store, front)
        own = await running(store, executor, "u")
        await fence_epoch(store, executor, by=front)
        clock.advance(601)
        ended = {orphan.run_id for orphan in await store.sweep(by=front, error="its worker is dead")}
        assert ended == {run.run_id, own.run_id}
        assert (await row_of(store, run.run_id)).error == UNCLAIMED
        assert (await row_of(store, own.run_id)).error == "its worker is dead"

    async def test_claimed_run_that_has_not_begun_is_continued_by_another_worker(
        self, store: CoordinationStore, front: int, executor: int
    ) -> None:
        other = await store.register(new_worker(assistants=("agent",)))
        run = await self.dispatched(store, front)
        claimed = await store.claim("t", epoch=executor)
        assert claimed is not None
        await fence_epoch(store, executor, by=front)
        assert await store.sweep(by=front, error="dead") == [], "the front executes none"
        (orphan,) = await store.sweep(by=other, error="dead")
        assert orphan.adopted is not None
        assert (orphan.run_id, orphan.attempt, orphan.adopted.epoch) == (run.run_id, 1, other)
        assert orphan.adopted.fence > claimed.fence
        late = Ownership(run.run_id, "t", executor, claimed.fence)
        assert await store.start(late, {"kind": "values"}) is None, "its first worker has lost it"
        assert await store.start(orphan.adopted, {"kind": "values"}) is not None
        await fence_epoch(store, other, by=front)
        ended = await store.sweep(by=front, error="dead")
        assert [one.run_id for one in ended] == [run.run_id], "it has begun, and has no retries"
        assert (await row_of(store, run.run_id)).error == "dead"
