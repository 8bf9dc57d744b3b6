"""Behaviour that every assistant must have, tested through the manager. Subclass `AssistantSuite` with a
fixture `make`: it makes one assistant object per worker, on shared state, which takes the demo's input.

    class TestMine(AssistantSuite):
        @pytest.fixture
        def make(self, tmp_path): return lambda: MyAssistant(tmp_path / "state.db")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from coordinator import (
    ConflictError,
    Event,
    InvalidArgument,
    RunFailed,
    RunManager,
    RunRecord,
    RunStatus,
    StateView,
    open_coordinator,
)
from tests.support.inside import assembly_of
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

FOR_EVER: dict[str, Any] = {"sleep": 0.01, "steps": 100_000}


def held(values: Any) -> dict[str, Any]:
    """The values of a thread, {} for None."""
    return values or {}


class AssistantSuite:
    """Two workers, each with its own object of the assistant `under-test`."""

    name = "under-test"

    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        raise NotImplementedError

    @pytest.fixture
    async def team(
        self, make: Callable[[], Any], tmp_path: Path, no_task_left: None
    ) -> AsyncGenerator[list[RunManager]]:
        url = f"sqlite:///{tmp_path}/runs.db"
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    open_coordinator(url, assistants={self.name: make()}, **QUICK)
                )
                for _ in range(2)
            ]

    async def begun(
        self, manager: RunManager, strategy: str = "reject", thread: str = "t", **request: Any
    ) -> RunRecord:
        """Launch a run with the demo's input, or with a whole request."""
        kwargs = request if "input" in request or "command" in request else {"input": request}
        record = await manager.create_or_reject(
            thread, self.name, kwargs={"input": None, **kwargs}, multitask_strategy=strategy
        )
        manager.launch(record)
        return record

    async def done(self, manager: RunManager, **request: Any) -> Any:
        record = await self.begun(manager, **request)
        return await manager.wait(record.run_id, timeout=20)

    async def view(self, manager: RunManager, thread: str = "t") -> StateView:
        view = await manager.threads.state(thread)
        assert view is not None
        return view

    async def log(self, manager: RunManager, thread: str = "t") -> list[str]:
        return held((await self.view(manager, thread)).values).get("log", [])

    async def steps(self, manager: RunManager, number: int) -> None:
        async def there() -> bool:
            return len(await self.log(manager)) >= number

        await wait_until(there, description=f"{number} steps are in the thread's state", timeout=20)

    async def past(self, manager: RunManager, thread: str = "t") -> list[StateView]:
        return [view async for view in manager.threads.history(thread, limit=1000)]

    # -- what a run leaves

    async def test_runs_of_a_thread_build_on_each_other(self, team: list[RunManager]) -> None:
        a, b = team
        expected = {"done": 2, "steps": 2, "log": ["a:1", "a:2"]}
        result = await self.done(a, steps=2, tag="a")
        assert {name: result[name] for name in expected} == expected  # a graph may have further channels
        assert (await self.view(b)).values == result
        thread = await b.threads.get("t")
        assert (thread.values, thread.status) == (result, "idle")
        assert (await self.done(b, tag="b"))["log"] == ["a:1", "a:2", "b:1"]

    async def test_each_step_is_delivered_to_followers(self, team: list[RunManager]) -> None:
        a, _ = team
        request: dict[str, Any] = {"input": {"steps": 3, "tag": "a"}, "stream_mode": ["values"]}
        record = await self.begun(a, **request)
        await a.wait(record.run_id, timeout=20)
        events = await a.events(record.run_id)
        values: list[Any] = [
            item.data for item in events if isinstance(item, Event) and item.mode == "values"
        ]
        delivered = [log for each in values if (log := each.get("log"))]  # graphs emit their input first
        assert delivered == [["a:1"], ["a:1", "a:2"], ["a:1", "a:2", "a:3"]]

    async def test_a_failure_keeps_the_steps_before_it(self, team: list[RunManager]) -> None:
        a, b = team
        with pytest.raises(RunFailed, match="ValueError: demo failure requested"):
            await self.done(a, steps=3, tag="f", fail=True)
        assert await self.log(b) == ["f:1", "f:2"]
        thread = await b.threads.get("t")
        assert thread.status == "error"
        assert (await self.done(b, tag="z"))["log"] == ["f:1", "f:2", "z:1"]

    async def test_what_it_does_not_take_is_refused_before_admission(self, team: list[RunManager]) -> None:
        for wrong in ({"steps": "many"}, {"sleep": -1}, "text", [1]):
            with pytest.raises(InvalidArgument):
                await team[0].create_or_reject("t", self.name, kwargs={"input": wrong})
        assert await team[0].store.thread("t") is None

    # -- stopping it

    @pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
    async def test_an_interrupted_run_keeps_its_steps(self, team: list[RunManager], second: int) -> None:
        a, b = team[0], team[second]
        stopped = await self.begun(a, **FOR_EVER, tag="s")
        await self.steps(b, 2)
        assert await b.cancel(stopped.run_id, wait=10)
        kept = await self.log(b)
        assert kept[:2] == ["s:1", "s:2"]
        await asyncio.sleep(0.05)
        assert await self.log(b) == kept, "the cancelled run writes no more"
        assert (await self.done(b, tag="z"))["log"] == [*kept, "z:1"]

    @pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
    async def test_interrupting_run_builds_on_the_finished_steps(
        self, team: list[RunManager], second: int
    ) -> None:
        a, b = team[0], team[second]
        await self.begun(a, **FOR_EVER, tag="s")
        await self.steps(b, 2)
        new = await self.begun(b, "interrupt", tag="n")
        log = (await b.wait(new.run_id, timeout=20))["log"]
        assert log[:2] == ["s:1", "s:2"]
        assert log[-1] == "n:1"
        assert [one.partition(":")[0] for one in log] == ["s"] * (len(log) - 1) + ["n"]

    @pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
    @pytest.mark.parametrize("first", [True, False], ids=["on a new thread", "after another run"])
    async def test_a_rolled_back_run_leaves_nothing(
        self, team: list[RunManager], second: int, first: bool
    ) -> None:
        a, b = team[0], team[second]
        before: list[str] = [] if first else (await self.done(a, steps=2, tag="a"))["log"]
        undone = await self.begun(a, **FOR_EVER, tag="u")
        await self.steps(b, len(before) + 2)
        assert await b.cancel(undone.run_id, action="rollback", wait=10)
        assert await self.log(b) == before
        thread = await b.threads.get("t")
        assert held(thread.values).get("log", []) == before
        assert thread.status == "idle"
        assert (await self.done(b, tag="z"))["log"] == [*before, "z:1"]

    async def test_run_that_replaces_by_rollback_sees_no_change_of_the_other(
        self, team: list[RunManager]
    ) -> None:
        a, b = team
        await self.done(a, tag="a")
        before = await self.past(a)
        await self.begun(a, **FOR_EVER, tag="u")
        await self.steps(b, 3)
        new = await self.begun(b, "rollback", tag="n")
        assert (await b.wait(new.run_id, timeout=20))["log"] == ["a:1", "n:1"]
        past = await self.past(b)
        assert past[len(past) - len(before) :] == before or len(past) == 1

    # -- operations

    async def test_an_update_adds_to_the_state(self, team: list[RunManager]) -> None:
        a, b = team
        await self.done(a, tag="a")
        before = await self.view(a)
        new = await b.threads.update_state("t", {"title": "x"})
        view = await self.view(a)
        assert view.checkpoint == new != before.checkpoint
        assert view.values == {**before.values, "title": "x"}
        thread = await a.threads.get("t")
        assert thread.values == view.values
        assert (await self.done(b, tag="z"))["title"] == "x"

    async def test_an_update_that_makes_no_sense(self, team: list[RunManager]) -> None:
        a, _ = team
        await self.done(a, tag="a")
        wrong: list[tuple[Any, str | None]] = [("text", None), ({}, "elsewhere")]
        for values, as_node in wrong:
            with pytest.raises(InvalidArgument):
                await a.threads.update_state("t", values, as_node=as_node)
        assert await self.log(a) == ["a:1"]

    @pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
    async def test_a_busy_thread_is_read_and_not_updated(self, team: list[RunManager], second: int) -> None:
        a, b = team[0], team[second]
        run = await self.begun(a, **FOR_EVER)
        await self.steps(b, 1)
        with pytest.raises(ConflictError) as conflict:
            await b.threads.update_state("t", {"title": "x"})
        assert conflict.value.active_run_id == run.run_id
        assert await a.cancel(run.run_id, wait=10)

    async def test_a_copy_has_the_state_and_goes_its_own_way(self, team: list[RunManager]) -> None:
        a, b = team
        await self.done(a, steps=2, tag="a")
        await b.threads.copy("t", "copy")
        assert await self.log(a, "copy") == ["a:1", "a:2"]
        assert (await self.done(b, thread="copy", input={"tag": "c"}))["log"] == ["a:1", "a:2", "c:1"]
        assert await self.log(a) == ["a:1", "a:2"]

    async def test_a_deleted_thread_begins_anew(self, team: list[RunManager]) -> None:
        a, b = team
        await self.done(a, steps=2, tag="a")
        await b.threads.delete("t")
        assert (await self.done(a, tag="z"))["log"] == ["z:1"]

    async def test_the_state_names_itself(self, team: list[RunManager]) -> None:
        a, b = team
        await self.done(a, steps=2, tag="a")
        view = await self.view(a)
        assert view.checkpoint is not None
        assert view.checkpoint.checkpoint_id
        assert await b.threads.state("t", view.checkpoint) == view == await self.view(b)
        past = await self.past(b)
        assert past[0] == view
        assert [each async for each in b.threads.history("t", limit=1)] == [view]
        assert [each async for each in b.threads.history("t", before=view.checkpoint)] == past[1:]
        assert (view.next, view.interrupts) == ((), ())

    async def test_it_describes_itself(self, team: list[RunManager]) -> None:
        described = await team[0].assistants.named(self.name).describe()
        assert "steps" in described.input_schema["properties"]

    # -- losing the thread

    async def test_a_run_that_lost_its_thread_writes_nothing_more(self, team: list[RunManager]) -> None:
        """The run is forced: its fence is stale, so its late writes are refused."""
        a, b = team
        await self.done(a, tag="a")
        run = await self.begun(a, **FOR_EVER, tag="s")
        await self.steps(b, 3)
        await assembly_of(a).loops.stop()
        await assembly_of(a).pacemaker.stop()

        async def ended() -> bool:
            return (await b.runs.explain(run.run_id)).run.status is RunStatus.error

        await wait_until(ended, description="its peer has ended it", timeout=20)
        kept = await self.log(b)
        new = await self.begun(b, "enqueue", tag="n")
        assert (await b.wait(new.run_id, timeout=20))["log"] == [*kept, "n:1"]
        await asyncio.sleep(0.05)
        assert await self.log(b) == [*kept, "n:1"]
