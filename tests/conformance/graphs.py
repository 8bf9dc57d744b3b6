"""Further behaviour of assistants that keep checkpoints: they pause, resume, go back, stop for a drain, and
work in operating system threads that cannot be stopped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator import (
    CheckpointRef,
    InvalidArgument,
    RunManager,
    RunRequest,
    RunStatus,
    StaleFence,
)
from tests.conformance.assistants import FOR_EVER, AssistantSuite, held
from tests.graphlike import CheckpointStates, GraphLikeAssistant
from tests.graphlike.states import Checkpoint, ClockBehind, Writer
from tests.support.inside import assembly_of
from tests.support.waiting import wait_until


class Gate:
    """A thread waits at the gate until the test opens it."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, number: int) -> None:
        if number >= 1:
            self.reached.set()
            self.open.wait(20)


class GraphSuite(AssistantSuite):
    @pytest.fixture
    def states(self, tmp_path: Path) -> Callable[[], CheckpointStates]:
        return lambda: CheckpointStates(tmp_path / "checkpoints.db")

    @pytest.fixture
    def make(self, states: Callable[[], CheckpointStates]) -> Callable[[], Any]:
        return lambda: GraphLikeAssistant(states(), name=self.name)

    @pytest.fixture
    def gate(self) -> Iterator[Gate]:
        gate = Gate()
        yield gate
        gate.open.set()

    def graph(self, manager: RunManager) -> GraphLikeAssistant:
        assistant = manager.assistants.named(self.name)
        assert isinstance(assistant, GraphLikeAssistant)
        return assistant

    def rows(self, manager: RunManager) -> list[Any]:
        return self.graph(manager).states.dump()

    # -- pausing

    async def test_a_paused_run_is_a_success_and_its_thread_interrupted(self, team: list[RunManager]) -> None:
        a, b = team
        run = await self.begun(a, steps=2, tag="q", pause_before=[2])
        assert (await a.wait(run.run_id, timeout=20))["log"] == ["q:1"]
        row = (await b.runs.explain(run.run_id)).run
        assert (row.status, row.paused) == (RunStatus.success, True)
        view = await self.view(b)
        assert view.next == ("step",)
        question = {"question": "go on with step 2?"}
        (interrupt,) = view.interrupts
        assert interrupt.value == question
        assert row.interrupts == [interrupt.stored]
        shown = {"value": question, "id": interrupt.id}
        assert (view.tasks[0]["id"], view.tasks[0]["interrupts"]) == (interrupt.task_id, [shown])
        thread = await b.threads.get("t")
        assert (thread.status, thread.interrupts) == ("interrupted", row.interrupts)

    async def test_an_answer_resumes_it_anywhere(self, team: list[RunManager]) -> None:
        a, b = team
        await self.done(a, steps=3, tag="q", pause_before=[2, 3])
        assert (await self.done(b, command={"resume": "yes"}))["log"] == ["q:1", "q:2:yes"]
        assert (await self.done(a, command={"resume": "no"}))["log"] == ["q:1", "q:2:yes", "q:3:no"]
        thread = await b.threads.get("t")
        assert (thread.status, thread.interrupts) == ("idle", None)
        assert (await self.view(b)).next == ()

    async def test_rollback_of_an_answer_restores_the_question(self, team: list[RunManager]) -> None:
        """The answer was written to a checkpoint of an earlier run, which is restored row for row."""
        a, b = team
        await self.done(a, steps=100_000, tag="q", pause_before=[2], sleep=0.01)
        before, rows = await self.view(a), self.rows(a)
        resumed = await self.begun(b, command={"resume": "yes"})
        await self.steps(a, 3)
        assert await a.cancel(resumed.run_id, action="rollback", wait=10)
        assert self.rows(a) == rows
        assert await self.view(b) == before
        thread = await b.threads.get("t")
        assert thread.interrupts is not None

    @pytest.mark.parametrize("where", ["before", "after"])
    async def test_it_pauses_at_a_node_and_goes_on_without_input(
        self, team: list[RunManager], where: str
    ) -> None:
        a, b = team
        request = {"input": {"steps": 2, "tag": "p"}, f"interrupt_{where}": "*"}
        first = await self.done(a, **request)
        assert first.get("log", []) == ([] if where == "before" else ["p:1"])
        view = await self.view(b)
        assert (view.next, view.interrupts) == (("step",), ())
        assert (await self.done(b, input=None))["log"] == ["p:1", "p:2"]
        nowhere: dict[str, Any] = {"input": {}, f"interrupt_{where}": ["elsewhere"]}
        with pytest.raises(InvalidArgument, match=f"interrupt_{where}"):
            await self.begun(a, **nowhere)

    async def test_a_command_to_nowhere_is_refused(self, team: list[RunManager]) -> None:
        with pytest.raises(InvalidArgument, match="command"):
            await self.begun(team[0], command={"goto": "elsewhere"})

    async def test_a_worker_that_drains_hands_it_over_between_two_steps(self, team: list[RunManager]) -> None:
        a, b = team
        run = await self.begun(a, **FOR_EVER, tag="d")
        await self.steps(b, 2)
        async with asyncio.timeout(10):
            await a.worker.drain(grace=60)
        await self.steps(b, len(await self.log(b)) + 2)
        row = (await b.runs.explain(run.run_id)).run
        assert (row.status, row.owner_epoch, row.attempt) == (RunStatus.running, b.worker.epoch, 2)
        assert await b.cancel(run.run_id, wait=10)
        log = await self.log(b)
        assert log == [f"d:{step}" for step in range(1, len(log) + 1)], "no step is missing or repeated"

    # -- going back

    async def test_a_run_from_an_older_state(self, team: list[RunManager]) -> None:
        a, b = team
        await self.done(a, steps=2, tag="a")
        past = await self.past(a)
        older = next(view for view in past if held(view.values).get("log") == ["a:1"])
        assert older.checkpoint is not None
        assert older.parent is not None
        where = {"checkpoint_id": older.checkpoint.checkpoint_id}
        forked = await self.done(b, input={"tag": "b"}, checkpoint=where)
        assert forked["log"] == ["a:1", "b:1"]
        new = await b.threads.update_state("t", {"title": "x"}, at=older.checkpoint)
        view = await self.view(a)
        assert (view.checkpoint, view.parent) == (new, older.checkpoint)
        assert view.values == {**older.values, "title": "x"}
        assert [each async for each in a.threads.history("t", metadata={"source": "update"})] == [view]
        nowhere = CheckpointRef("nowhere")
        assert await a.threads.state("t", nowhere) is None
        with pytest.raises(InvalidArgument):
            await a.threads.update_state("t", {}, at=nowhere)

    @pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
    async def test_a_rollback_restores_row_for_row(self, team: list[RunManager], second: int) -> None:
        a, b = team[0], team[second]
        await self.done(a, steps=2, tag="a")
        rows = self.rows(a)
        undone = await self.begun(a, **FOR_EVER, tag="u")
        await self.steps(b, 4)
        assert await b.cancel(undone.run_id, action="rollback", wait=10)
        assert self.rows(b) == rows

    async def test_peer_that_adopts_a_rollback_restores_the_state(
        self, team: list[RunManager], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The owner dies during the restore, and its thread still writes."""
        a, b = team
        await self.done(a, tag="a")
        rows = self.rows(a)
        undone = await self.begun(a, **FOR_EVER, tag="u")
        await self.steps(b, 3)
        reached = asyncio.Event()

        async def hangs(*args: Any) -> Any:
            reached.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(self.graph(a).states, "restore", hangs)
        assert await b.cancel(undone.run_id, action="rollback")
        await reached.wait()
        await assembly_of(a).loops.stop()
        await assembly_of(a).pacemaker.stop()

        async def undone_by_peer() -> bool:
            return (await b.runs.explain(undone.run_id)).run.rollback_state == "done"

        await wait_until(undone_by_peer, description="its peer has undone it", timeout=20)
        assert self.rows(b) == rows
        thread = await b.threads.get("t")
        assert thread.values == {"done": 1, "steps": 1, "log": ["a:1"]}

    # -- threads that nothing can stop

    async def test_a_thread_job_that_outlives_its_task_is_waited_for(
        self, team: list[RunManager], gate: Gate
    ) -> None:
        a, b = team
        self.graph(a).at_step = gate
        run = await self.begun(a, tag="s")
        await asyncio.to_thread(gate.reached.wait, 20)
        assert await b.cancel(run.run_id)
        new = await self.begun(b, "interrupt", tag="n")
        assert run.task is not None
        await wait_until(run.task.done, description="the task is over")
        assert (await b.runs.explain(run.run_id)).phase == "cancelling"
        assert (await b.runs.explain(new.run_id)).phase == "waiting"
        gate.open.set()
        assert (await b.wait(new.run_id, timeout=20))["log"] == ["n:1"]

    @pytest.mark.parametrize("action", ["interrupt", "rollback"])
    async def test_a_slow_write_after_a_cancel(self, team: list[RunManager], gate: Gate, action: str) -> None:
        """The write lands before the thread is free. An interrupt keeps it, a rollback undoes it."""
        a, b = team
        await self.done(a, tag="a")
        rows = self.rows(a)
        self.graph(a).before_write = gate
        run = await self.begun(a, tag="s")
        await asyncio.to_thread(gate.reached.wait, 20)
        assert await b.cancel(run.run_id, action=action)
        assert run.task is not None
        await wait_until(run.task.done, description="the task is over")
        gate.open.set()
        await wait_until(lambda: run.status is RunStatus.interrupted, description="decided")
        assert await b.cancel(run.run_id, wait=10)
        assert await self.log(b) == (["a:1"] if action == "rollback" else ["a:1", "s:1"])
        if action == "rollback":
            assert self.rows(b) == rows

    async def test_a_write_that_comes_after_force_is_refused(
        self, team: list[RunManager], gate: Gate
    ) -> None:
        a, b = team
        self.graph(a).before_write = gate
        run = await self.begun(a, tag="s")
        await asyncio.to_thread(gate.reached.wait, 20)
        assert await b.cancel(run.run_id, wait=10), "settled by force"
        assert a.worker.forced == 1
        new = await self.begun(b, tag="n")
        assert (await b.wait(new.run_id, timeout=20))["log"] == ["n:1"]
        rows = self.rows(b)
        gate.open.set()
        await wait_until(lambda: not self.jobs(run.run_id, a), description="the thread is over")
        assert self.rows(b) == rows

    def jobs(self, run_id: str, manager: RunManager) -> int:
        entry = assembly_of(manager).shared.registry.entry(run_id)
        return 0 if entry is None else len(entry.work.tracked or ())

    # -- the port itself

    async def test_a_second_attempt_does_not_take_the_input_again(self, team: list[RunManager]) -> None:
        """Otherwise a retried answer would also answer the next question."""
        a, _ = team
        graph = self.graph(a)
        await self.done(a, steps=3, tag="q", pause_before=[2, 3])
        record = await a.create_or_reject(
            "t", self.name, kwargs={"input": None, "command": {"resume": "yes"}}
        )
        seen: list[Any] = []

        async def twice(ctx: Any) -> Any:
            request = RunRequest.of(record.kwargs, None)
            seen.append(await graph.run(ctx, request))
            ctx.attempt = 2
            seen.append(await graph.run(ctx, request))
            return seen[-1]

        class Twice:
            """The assistant, retried after its first attempt."""

            def __getattr__(self, name: str) -> Any:
                return getattr(graph, name)

            async def run(self, ctx: Any, request: RunRequest) -> Any:
                return await twice(ctx)

        a.launch(record, Twice())  # type: ignore[arg-type]  # it has only what is called of an assistant
        assert (await a.wait(record.run_id, timeout=20))["log"] == ["q:1", "q:2:yes"]
        assert seen[0].values == seen[1].values
        assert seen[1].paused

    async def test_a_stale_writer_is_refused_by_the_store_of_the_state(
        self, states: Callable[[], CheckpointStates], team: list[RunManager]
    ) -> None:
        await self.done(team[0], tag="a")
        first, second = states(), states()
        (newest, *_) = await first.all("t")
        await first.open("t", "r1", 10)
        first.write(Writer("t", "r1", 10), newest)
        await second.open("t", "r2", 11)
        with pytest.raises(StaleFence):
            first.write(Writer("t", "r1", 10), newest)
        with pytest.raises(StaleFence):
            await first.open("t", "r1", 10)
        with pytest.raises(StaleFence):
            await first.restore("t", "r1", None, 10)
        with pytest.raises(StaleFence):
            await first.copy("elsewhere", "t", "op", 10)
        second.close("t", 11)
        with pytest.raises(StaleFence):
            second.write(Writer("t", "r2", 11), newest)

    async def test_undoing_twice_is_undoing_once(self, states: Callable[[], CheckpointStates]) -> None:
        mine = states()
        await mine.open("t", "r1", 1)
        checkpoint_id, created = mine.new_id()
        point = Checkpoint(checkpoint_id, "r1", {"log": ["a"]}, {}, created_us=created)
        mine.write(Writer("t", "r1", 1), point)
        for fence in (1, 2, 3):
            assert await mine.restore("t", "r1", None, fence) is None
        assert mine.dump() == []
        await mine.forget(["r1"])
        assert await mine.restore("t", "r1", None, 3) is None
        assert await mine.restore("t", "wrote nothing", None, 3) is None

    async def test_a_clock_that_is_behind_is_waited_out_or_refused(self, tmp_path: Path) -> None:
        now = [1_000_000_000]
        ahead = CheckpointStates(tmp_path / "clocks.db", clock=lambda: now[0] + 300_000)
        far = CheckpointStates(tmp_path / "clocks.db", clock=lambda: now[0] - 5_000_000)
        mine = CheckpointStates(tmp_path / "clocks.db", clock=lambda: now[0])
        await ahead.open("t", "r1", 1)
        checkpoint_id, created = ahead.new_id()
        ahead.write(Writer("t", "r1", 1), Checkpoint(checkpoint_id, "r1", {}, {}, created_us=created))
        began = asyncio.get_running_loop().time()
        await mine.open("t", "r2", 2)
        assert asyncio.get_running_loop().time() - began >= 0.29
        with pytest.raises(ClockBehind):
            await far.open("t", "r3", 3)
