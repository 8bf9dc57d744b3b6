"""The former states of a thread, kept in the rows of the runs that wrote them."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.testing.conformance.stores.checkpoints import returned, states
from stores.base import CoordinationStore
from stores.checkpoints import CheckpointRow
from stores.rows import Outcome, Ownership
from stores.states import RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import ENDED, SUCCESS, cancel, fence_epoch, new_run, running, sql_of


async def head(store: CoordinationStore) -> CheckpointRow:
    return (await store.checkpoints("t", limit=1))[0]


class Checkpoints(StoreCase):
    async def test_runs_with_any_end_leave_a_state(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        """The run is ended by its owner after a cancel or an error, or by a reaper."""
        cancelled = await running(store, me)
        await store.save(cancelled, {"n": 1})
        await cancel(store, cancelled.run_id)
        await store.save(cancelled, {"n": 2}, last=True)
        await store.finish(cancelled, ENDED)
        stopped = await running(store, me)
        await cancel(store, stopped.run_id)
        await store.finish(stopped, SUCCESS._replace(values={"n": 3}, result={"n": 3}))
        failed = await running(store, me)
        await store.save(failed, {"n": 4})
        await store.finish(failed, Outcome(RunStatus.error, "no"))
        orphan = await running(store, peer)
        await store.save(orphan, {"n": 5})
        await fence_epoch(store, peer, by=me)
        await store.sweep(by=me, error="gone")
        none = await running(store, me)
        await store.save(none, None)
        await store.finish(none, SUCCESS)
        last = await returned(store, me, {"n": 7})
        assert await states(store) == [
            (last.run_id, {"n": 7}, True),
            (none.run_id, None, False),
            (orphan.run_id, {"n": 5}, False),
            (failed.run_id, {"n": 4}, False),
            (stopped.run_id, {"n": 3}, False),
            (cancelled.run_id, {"n": 2}, False),
        ]
        assert (await store.checkpoints("t"))[4].status is RunStatus.interrupted

    @pytest.mark.parametrize("values", [{"n": 1}, None])
    async def test_a_question_is_a_state(self, store: CoordinationStore, me: int, values: Any) -> None:
        before = await returned(store, me, {"n": 0})
        paused = await returned(store, me, values, paused=True, interrupts=[{"value": "?", "id": None}])
        row = await head(store)
        assert (row.run_id, row.values, row.current) == (paused.run_id, values or {"n": 0}, True)
        assert (row.paused, row.interrupts, row.previous) == (
            True,
            [{"value": "?", "id": None}],
            before.run_id,
        )

    async def test_what_is_no_result_is_kept_beside_it(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me)
        await store.finish(own, SUCCESS._replace(values={"v": 1}, result={"r": 1}))
        await returned(store, me, {"v": 2})
        assert (await store.checkpoints("t"))[1].values == {"v": 1}
        kept = sql_of(store)("SELECT checkpoint_values FROM runs")
        assert {text for (text,) in kept} == {None, '{"v":1}'}, "once, where it is the result"

    async def test_a_run_beside_the_slot_leaves_none(self, store: CoordinationStore, me: int) -> None:
        await running(store, me)
        beside = await store.insert(new_run(), epoch=me)
        own = Ownership(beside.run_id, "t", me, 0)
        await store.start(own, None)
        await store.finish(own, SUCCESS._replace(values={"n": 1}, result={"n": 1}))
        assert await store.checkpoints("t") == []

    async def test_operation_without_a_state_leaves_the_interrupts(
        self, store: CoordinationStore, me: int
    ) -> None:
        await returned(store, me, {"n": 1}, paused=True, interrupts=[{"value": "?"}])
        await store.finish(await running(store, me, kind="op"), SUCCESS)
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.status, thread.interrupts) == ("interrupted", [{"value": "?"}])
        await store.finish(await running(store, me, kind="op"), SUCCESS._replace(values={"n": 2}))
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.status, thread.interrupts) == ("idle", None)
