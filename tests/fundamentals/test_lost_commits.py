"""The store is reset to an earlier state under running workers, by a failover to a server without the last
commits or by a restored backup. Threads and epochs of lost rows are assigned again."""

from __future__ import annotations

from coordinator import RunManager
from tests.support.agents import running
from tests.support.builders import sql_of, worker_row
from tests.support.teams import on_every_store
from tests.support.waiting import wait_until

pytestmark = on_every_store


async def test_task_is_stopped_whose_row_the_store_has_lost(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(a, "t")
    _, other = await running(a, "u")
    sql_of(a.store)("DELETE FROM runs WHERE run_id = ?", run.run_id)
    heir, its_agent = await running(b, "t")
    await wait_until(agent.stopped.is_set, description="the task is stopped")
    assert "does not hold its thread" in (run.error or "")
    assert other.running, "a run that the store still has continues"
    assert its_agent.running
    assert (await b.store.holder("t")) == heir.run_id


async def test_worker_is_fenced_whose_epoch_is_anothers(team: list[RunManager]) -> None:
    a, _ = team
    _, agent = await running(a, "t")
    epoch = a.worker.epoch
    sql_of(a.store)("UPDATE workers SET worker_id = 'another' WHERE epoch = ?", epoch)
    await wait_until(agent.stopped.is_set, description="its task is stopped")
    await wait_until(lambda: a.worker.epoch > epoch, description="it has registered anew")
    assert (await worker_row(a.store, epoch)).worker_id == "another"
    assert (await running(a, "u"))[1].running


async def test_worker_is_fenced_whose_registration_the_store_has_lost(team: list[RunManager]) -> None:
    a, _ = team
    _, agent = await running(a, "t")
    epoch = a.worker.epoch
    sql_of(a.store)("DELETE FROM workers WHERE epoch = ?", epoch)
    await wait_until(agent.stopped.is_set, description="its task is stopped")
    await wait_until(lambda: a.worker.epoch > epoch, description="it has registered anew")
