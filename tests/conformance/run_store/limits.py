"""Time limits, drain and children: events that end or move a run without a call of its own."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.testing.conformance.stores.children import ends, family
from stores.base import CoordinationStore
from stores.rows import Decision, Outcome, Overdue
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


class Children(StoreCase):
    async def test_children_go_on_if_the_success_of_their_parent_is_only_recorded(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        parent, children = await family(store, me, peer)
        assert await store.update_status(parent.run_id, "success") is True
        assert {end[:2] for end in await ends(store, children)} == {("running", None), ("pending", None)}

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
        assert await ends(store, [child.run_id, waits]) == {("interrupted", Cause.parent, True)}
        assert await store.sweep(by=me, error="gone") == []

    @pytest.mark.parametrize("how", ["sweep", "retire"])
    async def test_an_ended_orphan_names_the_children_that_it_took_along(
        self, store: CoordinationStore, me: int, peer: int, how: str
    ) -> None:
        """The children include every generation, so that their workers can be notified."""
        parent, children = await family(store, peer, me)
        if how == "sweep":
            await fence_epoch(store, peer, by=me)
        orphans = await (store.sweep(by=me, error="gone") if how == "sweep" else store.retire(peer))
        named = {child.run_id: child for orphan in orphans for child in orphan.children}
        assert set(named) == set(children)
        assert {child.cause for child in named.values()} == {Cause.parent}
        (ended,) = [orphan for orphan in orphans if orphan.run_id == parent.run_id]
        assert {child.run_id for child in ended.children} == set(children)
        child = named[children[0]]
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

    async def test_rows_in_a_circle_end_all_the_same(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        """No admission makes one; an import could."""
        parent, children = await family(store, me, peer)
        sql_of(store)("UPDATE runs SET parent_run_id = ? WHERE run_id = ?", children[1], parent.run_id)
        decision = await timed_out(store, children[0], Cause.timeout)
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
