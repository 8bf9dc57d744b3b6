"""Time limits, drain and children: events that end or move a run without a call of its own."""

from __future__ import annotations

from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.errors import EpochDead, ParentEnded, RunNotFound
from stores.rows import Claimed, Decision, DrainRequested, DrainWish, Outcome, Overdue, Ownership
from stores.states import CancelAction, Cause, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    admitted,
    created,
    fence_epoch,
    holding,
    row_of,
    running,
    sql_of,
    waiting,
)


async def timed_out(store: CoordinationStore, run_id: str, cause: Cause, **fields: Any) -> Any:
    return await store.decide(run_id, RunStatus.timeout, action=CancelAction.interrupt, cause=cause, **fields)


class TimeLimits(StoreCase):
    async def test_the_time_of_a_run_counts_from_its_start(
        self, store: CoordinationStore, clock: StoreClock, me: int, peer: int
    ) -> None:
        own = await holding(store, me, timeout_ms=5_000, idle_timeout_ms=1_000)
        clock.advance(60)
        assert (await store.tick(peer)).overdue == ()
        assert await store.start(own, None) is not None
        row = await row_of(store, own.run_id)
        assert (row.timeout_ms, row.idle_timeout_ms) == (5_000, 1_000)
        assert row.deadline_at == clock.micros + 5_000_000
        clock.advance(4.9)
        assert (await store.tick(peer)).overdue == ()
        clock.advance(0.2)
        assert (await store.tick(peer)).overdue == (Overdue(own.run_id, Cause.timeout),)
        await timed_out(store, own.run_id, Cause.timeout)
        assert (await store.tick(peer)).overdue == ()

    async def test_without_a_limit_nothing_is_overdue(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        own = await running(store, me)
        await waiting(store, me)
        clock.advance(1e6)
        assert (await store.tick(me)).overdue == ()
        assert (await row_of(store, own.run_id)).deadline_at is None

    async def test_a_wait_is_overdue_also_when_its_home_is_dead(
        self, store: CoordinationStore, clock: StoreClock, me: int, peer: int
    ) -> None:
        await running(store, me)
        run_id = await waiting(store, peer, queue_timeout_ms=2_000, portable=True)
        await fence_epoch(store, peer, by=me)
        clock.advance(2.1)
        assert (await store.tick(me)).overdue == (Overdue(run_id, Cause.queue_timeout),)
        decision = await timed_out(store, run_id, Cause.queue_timeout, while_waiting=True)
        assert (decision.won, decision.settled, decision.status) == (True, True, RunStatus.timeout)
        assert (await store.tick(me)).overdue == ()

    async def test_queue_timeout_does_not_end_a_claimed_run(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        """Claim and timeout race. The first commit wins."""
        holder = await running(store, me)
        run_id = await waiting(store, me, queue_timeout_ms=2_000)
        await store.finish(holder, SUCCESS)
        claimed = await store.claim("t", epoch=me)
        clock.advance(3)
        assert (await store.tick(me)).overdue == ()
        decision = await timed_out(store, run_id, Cause.queue_timeout, while_waiting=True)
        assert (decision.won, decision.status) == (False, RunStatus.pending)
        assert claimed == Claimed(run_id, (await row_of(store, run_id)).fence)

    async def test_run_that_takes_a_free_thread_has_no_queue_deadline(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await holding(store, me, queue_timeout_ms=1)
        assert (await row_of(store, own.run_id)).queue_deadline_at is None

    async def test_a_finish_that_comes_first_wins(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me, timeout_ms=1)
        await store.finish(own, SUCCESS)
        decision = await timed_out(store, own.run_id, Cause.timeout)
        assert (decision.won, decision.status) == (False, RunStatus.success)

    async def test_a_tick_reads_a_batch_of_what_is_overdue(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        own = await running(store, me, timeout_ms=1)
        late = sorted([await waiting(store, me, queue_timeout_ms=1) for _ in range(103)])
        clock.advance(1)
        overdue = (await store.tick(me)).overdue
        assert [run.run_id for run in overdue] == [own.run_id, *late[:100]]


async def ended_in_line(store: CoordinationStore, run_id: str, home: int) -> Decision:
    decision = await store.decide(
        run_id,
        RunStatus.interrupted,
        action=CancelAction.interrupt,
        cause=Cause.shutdown,
        while_waiting=True,
        home=home,
    )
    assert decision is not None
    return decision


class Draining(StoreCase):
    async def test_it_shows_and_nothing_is_admitted(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        own = await running(store, me)
        assert await store.drain(me) == []
        assert [(row.epoch, row.state) for row in await store.workers()] == [(me, "draining"), (peer, "live")]
        assert await store.beat(me), "it is live until it has retired"
        assert not (await store.finish(own, SUCCESS)).lost
        with pytest.raises(EpochDead):
            await admitted(store, me, "other")

    async def test_portable_runs_that_wait_lose_their_home(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        await running(store, peer)
        goes, stays = await waiting(store, me, portable=True), await waiting(store, me)
        theirs = await waiting(store, peer, portable=True)
        handed = await store.drain(me)
        assert [(run.run_id, run.thread_id) for run in handed] == [(goes, "t")]
        assert [(await row_of(store, run)).home_epoch for run in (goes, stays, theirs)] == [None, me, peer]
        assert (await store.tick(me)).waiting == (stays,)
        assert await store.drain(me) == []
        last = (await store.transitions(goes))[-1]
        assert (last.what, last.epoch) == ("handed over", me)

    async def test_handed_over_run_is_no_orphan(self, store: CoordinationStore, me: int, peer: int) -> None:
        await running(store, peer)
        goes = await waiting(store, me, portable=True)
        await store.drain(me)
        assert goes not in [orphan.run_id for orphan in await store.retire(me)]
        assert await store.sweep(by=peer, error="gone") == []
        assert (await row_of(store, goes)).open

    async def test_its_old_home_does_not_end_what_was_handed_over(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        """The old home may have missed the answer to its drain."""
        await running(store, peer)
        goes, stays = await waiting(store, me, portable=True), await waiting(store, me)
        await store.drain(me)
        ended = [await ended_in_line(store, run_id, me) for run_id in (goes, stays)]
        assert [(decision.won, decision.status) for decision in ended] == [
            (False, RunStatus.pending),
            (True, RunStatus.interrupted),
        ]
        assert [decision.elsewhere(me) for decision in ended] == [True, False]

    async def test_holder_of_the_thread_is_not_handed_over(self, store: CoordinationStore, me: int) -> None:
        own = await holding(store, me, portable=True)
        assert await store.drain(me) == []
        assert await store.start(own, None) is not None

    async def test_the_dead_hand_over_nothing(self, store: CoordinationStore, me: int, peer: int) -> None:
        await running(store, me)
        run_id = await waiting(store, peer, portable=True)
        await fence_epoch(store, peer, by=me)
        assert await store.drain(peer) == []
        assert (await row_of(store, run_id)).home_epoch == peer

    async def test_worker_reads_a_requested_drain_in_its_tick(
        self, store: CoordinationStore, clock: StoreClock, me: int, peer: int
    ) -> None:
        assert await store.request_drain(peer, grace=1.5) == [DrainRequested(peer, already=False)]
        wish = DrainWish(clock.micros, 1.5)
        assert ((await store.tick(peer)).drain, (await store.tick(me)).drain) == (wish, None)
        await admitted(store, peer, "t")
        clock.advance(1)
        assert (await store.tick(peer)).drain == wish
        await store.drain(peer)
        requested = [DrainRequested(me, already=False), DrainRequested(peer, already=True)]
        assert await store.request_drain(None, grace=None) == requested
        assert (await store.tick(me)).drain == (await store.tick(peer)).drain == DrainWish(clock.micros, None)

    async def test_dead_worker_gets_no_drain_request(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        await fence_epoch(store, peer, by=me)
        assert await store.request_drain(peer, grace=0) == []
        assert [request.epoch for request in await store.request_drain(None, grace=0)] == [me]
        assert (await store.tick(peer)).drain is None


class Children(StoreCase):
    async def family(self, store: CoordinationStore, me: int, peer: int) -> tuple[Ownership, list[str]]:
        """A parent, a child and a grandchild that run on two workers, and a queued child."""
        parent = await running(store, me, "a")
        child = await running(store, peer, "b", parent_run_id=parent.run_id)
        grandchild = await running(store, me, "c", parent_run_id=child.run_id)
        waits = await waiting(store, peer, "c", parent_run_id=parent.run_id)
        return parent, [child.run_id, grandchild.run_id, waits]

    async def ends(self, store: CoordinationStore, runs: list[str]) -> set[tuple[str, Cause | None, bool]]:
        rows = [await row_of(store, run_id) for run_id in runs]
        return {(row.status.value, row.cancel_cause, row.settled) for row in rows}

    async def test_a_cancelled_parent_takes_them_along(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        parent, family = await self.family(store, me, peer)
        decision = await timed_out(store, parent.run_id, Cause.timeout)
        assert {child.run_id for child in decision.children} == set(family)
        assert await self.ends(store, family[:2]) == {("interrupted", Cause.parent, False)}
        assert await self.ends(store, family[2:]) == {("interrupted", Cause.parent, True)}
        assert (await store.tick(peer)).cancelled == (family[0],), "its owner finds it without any hint"
        reason = (await row_of(store, family[0])).cancel_reason
        assert reason == f"run {parent.run_id} ended: timeout"
        assert (await store.transitions(family[1]))[-1].cause is Cause.parent

    async def test_so_does_one_that_fails(self, store: CoordinationStore, me: int, peer: int) -> None:
        parent, family = await self.family(store, me, peer)
        await store.finish(parent, SUCCESS._replace(status=RunStatus.error, error="x"))
        assert {end[:2] for end in await self.ends(store, family)} == {("interrupted", Cause.parent)}

    async def test_and_one_whose_end_is_only_recorded(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        parent, family = await self.family(store, me, peer)
        await store.update_status(parent.run_id, "error", error="x")
        assert {end[:2] for end in await self.ends(store, family)} == {("interrupted", Cause.parent)}

    async def test_children_go_on_if_the_success_of_their_parent_is_only_recorded(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        parent, family = await self.family(store, me, peer)
        assert await store.update_status(parent.run_id, "success") is True
        assert {end[:2] for end in await self.ends(store, family)} == {("running", None), ("pending", None)}

    async def test_one_whose_worker_died(self, store: CoordinationStore, me: int, peer: int) -> None:
        parent = await running(store, peer, "a")
        child = await running(store, me, "b", parent_run_id=parent.run_id)
        await fence_epoch(store, peer, by=me)
        await store.sweep(by=me, error="gone")
        assert await self.ends(store, [child.run_id]) == {("interrupted", Cause.parent, False)}

    @pytest.mark.parametrize(
        "child_created", [created(9), created(1)], ids=["in order", "a record of its own"]
    )
    async def test_one_that_died_with_its_worker(
        self, store: CoordinationStore, me: int, peer: int, child_created: str
    ) -> None:
        """Parent and children died together. The sweep returns all ended runs, in any order of creation."""
        parent = await running(store, peer, "a", created_at=created(5))
        child = await running(store, peer, "b", parent_run_id=parent.run_id, created_at=child_created)
        waits = await waiting(store, peer, "a", parent_run_id=child.run_id)
        await fence_epoch(store, peer, by=me)
        ended = await store.sweep(by=me, error="gone")
        assert {(orphan.run_id, orphan.status, orphan.dead_epoch, orphan.decided) for orphan in ended} == {
            (parent.run_id, RunStatus.error, peer, False),
            (child.run_id, RunStatus.interrupted, peer, False),
            (waits, RunStatus.interrupted, peer, False),
        }
        assert len(ended) == len({orphan.run_id for orphan in ended})
        assert await self.ends(store, [child.run_id, waits]) == {("interrupted", Cause.parent, True)}
        assert await store.sweep(by=me, error="gone") == []

    async def test_one_that_succeeds_leaves_them_alone(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        parent, family = await self.family(store, me, peer)
        await store.finish(parent, SUCCESS)
        assert {end[0] for end in await self.ends(store, family)} == {"running", "pending"}

    @pytest.mark.parametrize("how", ["sweep", "retire"])
    async def test_an_ended_orphan_names_the_children_that_it_took_along(
        self, store: CoordinationStore, me: int, peer: int, how: str
    ) -> None:
        """The children include every generation, so that their workers can be notified."""
        parent, family = await self.family(store, peer, me)
        if how == "sweep":
            await fence_epoch(store, peer, by=me)
        orphans = await (store.sweep(by=me, error="gone") if how == "sweep" else store.retire(peer))
        named = {child.run_id: child for orphan in orphans for child in orphan.children}
        assert set(named) == set(family)
        assert {child.cause for child in named.values()} == {Cause.parent}
        (ended,) = [orphan for orphan in orphans if orphan.run_id == parent.run_id]
        assert {child.run_id for child in ended.children} == set(family)
        child = named[family[0]]
        assert (child.worker, child.settled) == (me, False)

    @pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
    async def test_run_that_replaces_its_parent_is_not_its_child(
        self, store: CoordinationStore, me: int, peer: int, strategy: str
    ) -> None:
        """Otherwise the end of the parent, or the death of its worker, would cancel the new run."""
        grandparent = await running(store, me, "a")
        parent = await running(store, peer, "b", parent_run_id=grandparent.run_id)
        place: dict[str, Any] = {"multitask_strategy": strategy}
        heir = await admitted(store, me, "b", parent_run_id=parent.run_id, **place)
        below = await running(store, peer, "c", parent_run_id=grandparent.run_id)
        late = await admitted(store, me, "a", parent_run_id=below.run_id, **place)
        await store.finish(grandparent, Outcome(RunStatus.interrupted))
        await fence_epoch(store, peer, by=me)
        await store.sweep(by=me, error="gone")
        for run_id in (heir.run_id, late.run_id):
            row = await row_of(store, run_id)
            assert (row.status, row.parent_run_id) == (RunStatus.pending, None)

    @pytest.mark.parametrize("recorded", [False, True])
    async def test_run_that_replaces_a_run_remains_the_child_of_a_parent_that_it_does_not_end(
        self, store: CoordinationStore, me: int, recorded: bool
    ) -> None:
        """A parent on another thread, or one whose success is recorded while it still holds the thread."""
        parent = await running(store, me, "a")
        if recorded:
            assert await store.update_status(parent.run_id, "success")
        else:
            await running(store, me, "b")
        thread = "a" if recorded else "b"
        child = await admitted(store, me, thread, parent_run_id=parent.run_id, multitask_strategy="interrupt")
        assert len(child.replaced) == 1
        assert not child.ended(parent.run_id)
        assert (await row_of(store, child.run_id)).parent_run_id == parent.run_id

    async def test_their_own_ends_stand(self, store: CoordinationStore, me: int, peer: int) -> None:
        parent = await running(store, me, "a")
        child = await running(store, peer, "b", parent_run_id=parent.run_id)
        grandchild = await running(store, peer, "c", parent_run_id=child.run_id)
        await store.finish(child, SUCCESS)
        decision = await timed_out(store, parent.run_id, Cause.timeout)
        assert decision.children == ()
        assert (await row_of(store, child.run_id)).status is RunStatus.success
        assert (await row_of(store, grandchild.run_id)).status is RunStatus.running

    async def test_rows_in_a_circle_end_all_the_same(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        """No admission makes one; an import could."""
        parent, family = await self.family(store, me, peer)
        sql_of(store)("UPDATE runs SET parent_run_id = ? WHERE run_id = ?", family[1], parent.run_id)
        decision = await timed_out(store, family[0], Cause.timeout)
        assert len(decision.children) == 3

    async def test_a_long_line_of_them(self, store: CoordinationStore, me: int) -> None:
        """Deeper than any limit on recursion."""
        first = await running(store, me, "t0")
        last = first.run_id
        for depth in range(1, 1_049):
            last = (await admitted(store, me, f"t{depth}", parent_run_id=last)).run_id
        last = (await running(store, me, "t1049", parent_run_id=last)).run_id
        decision = await timed_out(store, first.run_id, Cause.timeout)
        assert len(decision.children) == 1_049
        assert not (await row_of(store, last)).open

    async def test_a_parent_must_be_there_and_the_users_own(self, store: CoordinationStore, me: int) -> None:
        parent = await running(store, me, "a", user_id="u")
        for wrong in ({"user_id": "v", "parent_run_id": parent.run_id}, {"parent_run_id": "unknown"}):
            with pytest.raises(RunNotFound):
                await admitted(store, me, "b", **wrong)
        assert (await admitted(store, me, "b", user_id="u", parent_run_id=parent.run_id)).holds
        assert (await admitted(store, me, "c", parent_run_id=parent.run_id)).holds, "system scope"

    async def test_a_parent_that_was_stopped_gets_no_more(self, store: CoordinationStore, me: int) -> None:
        """Otherwise a child that the parent's code admits while it unwinds would never be cancelled."""
        parent = await running(store, me, "a")
        await timed_out(store, parent.run_id, Cause.timeout)
        with pytest.raises(ParentEnded, match="timeout"):
            await admitted(store, me, "b", parent_run_id=parent.run_id)
        done = await running(store, me, "c")
        await store.finish(done, SUCCESS)
        assert (await admitted(store, me, "b", parent_run_id=done.run_id)).holds
