"""What gateways with a registry of their own need beside it: answers of cancels, runs without operations, a
manager of their own class."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator import (
    CancelAction,
    CancelAnswer,
    CancelOutcome,
    Cause,
    InvalidArgument,
    RunManager,
    RunStatus,
    open_coordinator,
)
from tests.support.agents import Agent, launched, quick, running
from tests.support.teams import on_every_store


@on_every_store
async def test_answer_of_a_cancel_names_the_decision_that_counts_and_the_worker(
    team: list[RunManager],
) -> None:
    a, b = team
    record, agent = await running(a, "t", Agent(stubborn=True))
    first = await b.runs.cancel_one(record.run_id, action="rollback", reason="enough", actor="ann")
    assert first == CancelAnswer(
        CancelOutcome.committed,
        RunStatus.interrupted,
        CancelAction.rollback,
        Cause.user,
        "enough",
        "ann",
        worker="another",
    )
    again = await a.runs.cancel_one(record.run_id, reason="late")
    assert (again.outcome, again.action, again.reason, again.worker) == (
        "repeated",
        "rollback",
        "enough",
        "this",
    )
    assert first
    assert again
    agent.may_stop.set()
    await a.ended(record.run_id)
    assert (await b.runs.cancel_one(record.run_id)).worker is None


async def test_answer_of_a_cancel_that_changes_nothing_is_false(team: list[RunManager]) -> None:
    a, b = team
    done = await a.create_or_reject("t", user_id="ann")
    a.launch(done, quick)
    await a.wait(done.run_id)
    ended = await b.runs.cancel_one(done.run_id)
    assert (ended.outcome, ended.status, ended.action, bool(ended)) == ("ended", "success", None, False)
    for answer in (
        await b.runs.cancel_one("unknown"),
        await b.runs.cancel_one(done.run_id, user_id="bob"),
    ):
        assert (answer.outcome, bool(answer)) == ("not found", False)
    queue = await a.create_or_reject("t2")
    waiting, _ = await launched(a, "t2", multitask_strategy="enqueue")
    answer = await b.runs.cancel_one(waiting.run_id)
    assert (answer.outcome, answer.worker) == ("committed", None)
    await a.cancel(queue.run_id)


WHY: dict[str, tuple[str, str | None, str | None]] = {
    "user": ("user", "enough", "ann"),
    "disconnect": ("disconnect", "its client has disconnected", None),
    "timeout": ("timeout", "it ran for longer than its time limit", None),
    "shutdown": ("shutdown", "the worker shut down", None),
}


@pytest.mark.parametrize("cause", WHY)
async def test_record_of_a_cancelled_run_names_cause_reason_and_actor_on_every_worker(
    team: list[RunManager], cause: str
) -> None:
    a, b = team
    limit = 0.1 if cause == "timeout" else None
    record, _ = await running(a, "t", timeout=limit)
    if cause == "user":
        await b.cancel(record.run_id, reason="enough", actor="ann")
    elif cause == "disconnect":
        await b.disconnected(record.run_id)
    elif cause == "shutdown":
        await a.worker.drain(grace=0)
    await b.ended(record.run_id, timeout=10)
    stored = await b.get(record.run_id)
    assert stored is not None
    row = await b.runs.get(record.run_id)
    why = (row.cancel_cause, row.cancel_reason, row.cancel_actor)
    assert why == WHY[cause]
    assert (stored.abort_cause, stored.abort_reason, stored.abort_actor) == why
    if cause != "shutdown":  # the task of a drained worker ends first, and its decision is written then
        assert (record.abort_cause, record.abort_reason, record.abort_actor) == why


async def test_record_of_a_superseded_run_names_the_run_that_took_its_place(team: list[RunManager]) -> None:
    a, b = team
    record, _ = await running(a, "t")
    new, _ = await running(b, "t", multitask_strategy="interrupt")
    for shown in (record, await b.get(record.run_id)):
        assert shown is not None
        assert (shown.abort_cause, shown.abort_reason) == ("superseded", f"superseded by run {new.run_id}")


@on_every_store
async def test_operations_are_no_runs_in_flight_and_never_listed(team: list[RunManager]) -> None:
    async with team[0].threads.hold("t", "export"):
        for manager in team:
            assert await manager.has_inflight("t")
            assert not await manager.has_inflight("t", operations=False)
            assert await manager.list_by_thread("t") == []
            assert await manager.runs.in_flight(thread_id="t") == []
            assert await manager.runs.search() == []
            assert list(await manager.runs.of_thread("t")) == []
        waiting, agent = await launched(team[1], "t", multitask_strategy="enqueue")
        for manager in team:
            assert await manager.has_inflight("t", operations=False)
            assert [run.run_id for run in await manager.list_by_thread("t")] == [waiting.run_id]
    agent.may_end.set()
    await team[1].wait(waiting.run_id)
    assert not await team[0].has_inflight("t", operations=False)


class Gateway(RunManager):
    """A manager with a method of its gateway."""

    async def count(self, thread_id: str) -> int:
        return len(await self.list_by_thread(thread_id))


async def test_coordinator_opens_a_subclass() -> None:
    async with open_coordinator("memory://", manager_class=Gateway) as manager:
        assert isinstance(manager, Gateway)
        await manager.create_or_reject("t")
        assert await manager.count("t") == 1


@pytest.mark.parametrize("bad", [None, dict, Gateway()])
async def test_manager_class_must_be_a_subclass(bad: Any) -> None:
    with pytest.raises(InvalidArgument, match="manager_class"):
        async with open_coordinator("memory://", manager_class=bad):
            pass
