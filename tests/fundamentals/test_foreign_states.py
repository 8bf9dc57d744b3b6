"""Assistants with a storage of their own for the state of threads, as graphs have: what the manager promises
them, and what their runs and operations find."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from coordinator import Event, InvalidArgument, RunContext, RunManager, current_run, open_coordinator
from coordinator.schemas import Json, Outcome, RunRequest
from tests.graphlike import CheckpointStates, GraphLikeAssistant
from tests.support.teams import QUICK
from tests.support.waiting import wait_until


class RecordingStates(CheckpointStates):
    """Records which run or operation calls it, and whether the storage was open."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.calls: list[tuple[str, bool, int | None]] = []
        self.restored_values = True

    def _note(self, call: str) -> None:
        run = current_run.get()
        self.calls.append((call, self.is_open, None if run is None else run.fence))

    async def open(self, thread_id: str, run_id: str, fence: int) -> Json:
        self._note("open")
        return await super().open(thread_id, run_id, fence)

    async def forget(self, run_ids: Sequence[str]) -> None:
        self._note("forget")
        await super().forget(run_ids)

    async def restore(self, thread_id: str, run_id: str, ref: Json, fence: int) -> Json:
        values = await super().restore(thread_id, run_id, ref, fence)
        return values if self.restored_values else None

    async def copy(self, source: str, target: str, run_id: str, fence: int) -> None:
        self._note("copy")
        await super().copy(source, target, run_id, fence)

    async def delete(self, thread_id: str, run_id: str, fence: int) -> None:
        self._note("delete")
        await super().delete(thread_id, run_id, fence)


class Graph(GraphLikeAssistant):
    """`before(ctx)` is called in each run before its steps."""

    opened: Json = None

    async def before(self, ctx: RunContext) -> None: ...

    async def run(self, ctx: RunContext, request: RunRequest) -> Outcome:
        self.opened = ctx.opened
        await self.before(ctx)
        return await super().run(ctx, request)


@pytest.fixture
def states(tmp_path: Path) -> RecordingStates:
    return RecordingStates(tmp_path / "checkpoints.db")


@pytest.fixture
def graph(states: RecordingStates) -> Graph:
    return Graph(states)


@pytest.fixture
async def manager(tmp_path: Path, graph: Graph) -> AsyncGenerator[RunManager]:
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=[graph], **QUICK) as manager:
        yield manager


async def done(manager: RunManager, thread: str = "t", **request: Any) -> Any:
    kwargs = request if "command" in request else {"input": request}
    record = await manager.create_or_reject(thread, "graphlike", kwargs=kwargs)
    manager.launch(record)
    return await manager.wait(record.run_id, timeout=20)


async def emitted(manager: RunManager, thread: str = "t") -> list[Event]:
    record = await manager.create_or_reject(thread, "graphlike", kwargs={"input": {"steps": 0}})
    manager.launch(record)
    await manager.wait(record.run_id, timeout=20)
    return [event for event in await manager.events(record.run_id) if isinstance(event, Event)]


async def test_storage_is_open_from_before_the_first_call_until_after_the_last(
    tmp_path: Path, states: RecordingStates, graph: Graph
) -> None:
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=[graph], **QUICK) as manager:
        assert states.is_open
        await done(manager)
    assert not states.is_open
    assert {call for call, _, _ in states.calls} == {"open", "forget"}
    assert all(is_open for _, is_open, _ in states.calls)


async def test_run_finds_what_open_has_returned(manager: RunManager, graph: Graph) -> None:
    await done(manager)
    view = await manager.threads.state("t")
    await done(manager)
    assert view is not None
    assert view.checkpoint is not None
    assert graph.opened == {"kind": "graphlike", "head": view.checkpoint.checkpoint_id}


async def test_copy_and_delete_have_their_operation_as_current_run(
    manager: RunManager, states: RecordingStates
) -> None:
    await done(manager)
    await manager.threads.copy("t", "copied")
    await manager.threads.delete("t")
    assert ("copy", True, 1) in states.calls
    assert ("delete", True, 2) in states.calls  # what is left of a state is removed without an operation
    assert current_run.get() is None


async def test_restore_without_values_keeps_those_that_the_coordinator_restored(
    manager: RunManager, states: RecordingStates
) -> None:
    states.restored_values = False
    before = await done(manager, tag="a")
    record = await manager.create_or_reject(
        "t", "graphlike", kwargs={"input": {"sleep": 0.01, "steps": 100_000}}
    )
    manager.launch(record)

    async def saved() -> bool:
        return (await manager.threads.get("t")).values != before

    await wait_until(saved, description="the run has saved values", timeout=20)
    assert await manager.cancel(record.run_id, action="rollback", wait=10)
    assert (await manager.threads.get("t")).values == before


TEXTS = ["plain", "é", "漢字", '😀 and \\ " \n', "\u2028"]


async def test_encoded_events_are_delivered_as_they_were_encoded(manager: RunManager, graph: Graph) -> None:
    async def emits(ctx: RunContext) -> None:
        for text in TEXTS:
            await ctx.emit_encoded("custom", json.dumps({"text": text}, ensure_ascii=False).encode())

    graph.before = emits
    events = await emitted(manager)
    assert [event.data for event in events if event.mode == "custom"] == [{"text": text} for text in TEXTS]
    assert all(event.json.isascii() for event in events)


async def test_encoded_event_that_is_not_utf8_is_refused(manager: RunManager, graph: Graph) -> None:
    async def emits(ctx: RunContext) -> None:
        with pytest.raises(InvalidArgument, match="UTF-8"):
            await ctx.emit_encoded("custom", b'"\xff"')

    graph.before = emits
    assert [event.mode for event in await emitted(manager)].count("custom") == 0
