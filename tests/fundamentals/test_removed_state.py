"""State that assistants keep outside of our store goes with its thread, whatever fails in between."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from coordinator import InvalidArgument, RunManager, StaleFence, open_coordinator
from stores.thread_states import RemovedState
from tests.graphlike import CheckpointStates, GraphLikeAssistant
from tests.support.held import hold_answers
from tests.support.inside import assembly_of
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

GRAPH = "graph"


class Storage(CheckpointStates):
    """Checkpoints of one worker; `fails` is raised by each removal."""

    fails: BaseException | None = None
    hangs = False

    async def delete(self, thread_id: str, run_id: str, fence: int) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        await super().delete(thread_id, run_id, fence)


@pytest.fixture
def storage(tmp_path: Path) -> Callable[[], Storage]:
    return lambda: Storage(tmp_path / "checkpoints.db")


@pytest.fixture
async def team(
    storage: Callable[[], Storage], tmp_path: Path, no_task_left: None
) -> AsyncGenerator[list[RunManager]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(worker(tmp_path, storage())) for _ in range(2)]


def worker(
    folder: Path, states: Storage | None = None, **settings: Any
) -> AbstractAsyncContextManager[RunManager]:
    assistants = {} if states is None else {GRAPH: GraphLikeAssistant(states, name=GRAPH)}
    return open_coordinator(f"sqlite:///{folder}/runs.db", assistants=assistants, **{**QUICK, **settings})


def storage_of(manager: RunManager) -> Storage:
    states = manager.assistants.named(GRAPH).states
    assert isinstance(states, Storage)
    return states


async def done(manager: RunManager, thread: str = "t", *, temporary: bool = False, **given: Any) -> Any:
    run = await manager.create_or_reject(thread, GRAPH, kwargs={"input": given}, temporary_thread=temporary)
    manager.launch(run)
    return await manager.wait(run.run_id, timeout=20)


def left(folder: Path) -> list[tuple[str, str]]:
    """Thread and kind of what removed threads have left."""
    with closing(sqlite3.connect(folder / "runs.db")) as cx:
        return cx.execute("SELECT thread_id, kind FROM thread_states WHERE removed_fence > 0").fetchall()


def make_due(folder: Path) -> None:
    """What was tried and failed is due again."""
    with closing(sqlite3.connect(folder / "runs.db", isolation_level=None)) as cx:
        cx.execute("UPDATE thread_states SET due_at = 0")


async def gone(folder: Path, *storages: Storage) -> None:
    await wait_until(
        lambda: not left(folder) and not any(storage.dump() for storage in storages),
        description="nothing is left of the threads",
        timeout=20,
    )


async def test_expired_thread_leaves_nothing_in_the_storage_of_its_assistant(
    team: list[RunManager], tmp_path: Path
) -> None:
    a, b = team
    await asyncio.gather(*(done(a, f"t{n}", temporary=True, steps=2) for n in range(3)))
    await done(b, "kept")
    assert {row[0] for row in storage_of(a).dump()} == {"t0", "t1", "t2", "kept"}
    await wait_until(
        lambda: {row[0] for row in storage_of(a).dump()} == {"kept"},
        description="the state of the expired threads is removed",
        timeout=20,
    )
    await wait_until(lambda: not left(tmp_path), description="the outbox is empty")
    assert {thread for _, thread in storage_of(a).undo_log()} <= {"kept"}


async def test_removal_that_fails_is_tried_again_by_any_worker(
    team: list[RunManager], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = team
    storage_of(a).fails = storage_of(b).fails = OSError("disk on fire")
    await done(a, temporary=True)

    async def removed() -> bool:
        return await b.store.thread("t") is None and "disk on fire" in caplog.text

    with caplog.at_level(logging.WARNING):
        await wait_until(removed, description="its thread is removed, and its state is not", timeout=20)
    assert "'t'" in caplog.text
    assert "tried again" in caplog.text
    assert left(tmp_path) == [("t", "graphlike")]
    assert storage_of(a).dump()
    storage_of(b).fails = None

    def removed_by_b() -> bool:
        make_due(tmp_path)
        return not left(tmp_path)

    await wait_until(removed_by_b, description="the worker that can has removed it", timeout=20)
    assert storage_of(a).dump() == []


async def test_storage_that_hangs_delays_no_other_sweep(
    storage: Callable[[], Storage], tmp_path: Path, no_task_left: None
) -> None:
    async with worker(tmp_path, storage(), restore_timeout=0.1) as manager:
        storage_of(manager).hangs = True
        await done(manager, temporary=True)
        await manager.threads.create("u", ttl=0.1)

        async def removed() -> bool:
            return all([await manager.store.thread(thread) is None for thread in "tu"])

        await wait_until(removed, description="both threads are removed", timeout=20)
        assert left(tmp_path) == [("t", "graphlike")]


@pytest.mark.parametrize("dies", ["before", "after"], ids=lambda when: f"{when} the storage has removed it")
async def test_deletion_whose_worker_dies_between_both_stores_is_completed(
    storage: Callable[[], Storage], tmp_path: Path, no_task_left: None, dies: str
) -> None:
    async with worker(tmp_path, storage()) as dying:
        await done(dying)
        if dies == "before":
            storage_of(dying).fails = OSError("the process is killed")
            await dying.threads.delete("t")
        else:
            held = hold_answers(storage_of(dying), "delete")
            deleting = asyncio.create_task(dying.threads.delete("t"))
            await held.reached.wait()
            deleting.cancel()
            await asyncio.wait((deleting,))
        assert await dying.store.thread("t") is None
        assert left(tmp_path) == [("t", "graphlike")]
        assert bool(storage_of(dying).dump()) is (dies == "before")
    make_due(tmp_path)
    async with worker(tmp_path, storage()) as successor:
        await gone(tmp_path, storage_of(successor))


async def test_deleted_thread_leaves_nothing(team: list[RunManager], tmp_path: Path) -> None:
    a, b = team
    await done(a)
    await b.threads.delete("t")
    assert storage_of(a).dump() == []
    assert left(tmp_path) == []


async def test_copied_thread_leaves_nothing_when_it_expires(team: list[RunManager], tmp_path: Path) -> None:
    a, b = team
    await done(a)
    await b.threads.copy("t", "copy")
    assert {row[0] for row in storage_of(a).dump()} == {"t", "copy"}
    await b.threads.update("copy", ttl=0.1)
    await wait_until(
        lambda: {row[0] for row in storage_of(a).dump()} == {"t"}, description="it is gone", timeout=20
    )


async def test_thread_that_is_made_again_begins_anew_and_keeps_its_state(
    team: list[RunManager], tmp_path: Path
) -> None:
    """The state of the earlier thread is still in the storage when the first run of the later one begins."""
    a, b = team
    storage_of(a).fails = storage_of(b).fails = OSError("disk on fire")
    await done(a, tag="old", steps=2)
    await a.threads.delete("t")
    assert storage_of(a).dump()
    storage_of(a).fails = storage_of(b).fails = None
    assert (await done(b, tag="new"))["log"] == ["new:1"]
    assert left(tmp_path) == []
    state = storage_of(a).dump()
    make_due(tmp_path)
    for manager in team:
        await assembly_of(manager).expiry.sweep()
    assert storage_of(a).dump() == state
    await a.threads.delete("t")
    assert storage_of(a).dump() == []


async def test_run_does_not_begin_with_the_state_of_an_earlier_thread(
    team: list[RunManager], tmp_path: Path
) -> None:
    """The storage does not remove it, so the run ends as an error."""
    a, b = team
    storage_of(a).fails = storage_of(b).fails = OSError("disk on fire")
    await done(a, tag="old")
    await a.threads.delete("t")
    with pytest.raises(Exception, match="disk on fire"):
        await done(b, tag="new")
    storage_of(a).fails = storage_of(b).fails = None
    assert (await done(a, tag="newer"))["log"] == ["newer:1"]


async def test_removal_that_comes_late_leaves_the_state_of_a_later_thread(
    team: list[RunManager], tmp_path: Path
) -> None:
    """A worker has claimed the removal, and pauses; meanwhile the thread is made again."""
    a, b = team
    await done(a, tag="old")
    thread = await a.threads.get("t")
    await a.threads.delete("t")
    await done(b, tag="new")
    state = storage_of(a).dump()
    with pytest.raises(StaleFence):
        await storage_of(a).delete("t", "", thread.fence + 1)
    await assembly_of(a).shared.removal.of_thread((await holder(a))._replace(fence=thread.fence + 1))
    assert storage_of(a).dump() == state


async def holder(manager: RunManager) -> Any:
    async with manager.threads.hold("elsewhere", "any") as own:
        return own._replace(thread_id="t")


async def test_worker_without_the_storage_leaves_its_state_to_others(
    storage: Callable[[], Storage], tmp_path: Path, no_task_left: None
) -> None:
    async with worker(tmp_path, storage()) as manager:
        await done(manager, tag="a")
        await manager.threads.update("t", ttl=0.5)
        states = storage_of(manager)
    async with worker(tmp_path) as manager:

        async def removed() -> bool:
            return await manager.store.thread("t") is None

        await wait_until(removed, description="its thread has expired", timeout=20)
        await assembly_of(manager).expiry.sweep()
        assert left(tmp_path) == [("t", "graphlike")]
        assert states.dump()
    async with worker(tmp_path, storage()):
        await gone(tmp_path, states)


async def test_state_of_many_threads_is_removed_in_one_sweep(
    storage: Callable[[], Storage], tmp_path: Path, no_task_left: None
) -> None:
    async with worker(tmp_path, storage(), sweep=3600) as manager:
        await done(manager)
        with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as cx:
            cx.executemany(
                "INSERT INTO thread_states (thread_id, kind, removed_fence) VALUES (?, 'graphlike', 1)",
                [(f"t{n}",) for n in range(250)],
            )
        await assembly_of(manager).expiry.sweep()
        assert left(tmp_path) == []
        claimed: list[RemovedState] = await assembly_of(manager).shared.store.claim_removed_states(  # type: ignore[attr-defined]  # an optional port
            ["graphlike"], limit=10
        )
        assert claimed == []


async def test_former_states_stay_where_the_storage_cannot_remove_them(
    storage: Callable[[], Storage], tmp_path: Path, no_task_left: None
) -> None:
    """The worker does not know the assistant, or the storage has no such method."""
    async with worker(tmp_path, storage()) as manager:
        for tag in "ab":
            await done(manager, tag=tag)
        state = storage_of(manager).dump()
        with pytest.raises(InvalidArgument, match="cannot remove former states"):
            await manager.threads.keep_latest("t")
        async with worker(tmp_path) as other:
            with pytest.raises(InvalidArgument, match="is not known to this worker"):
                await other.threads.keep_latest("t")
        assert storage_of(manager).dump() == state
        assert len(await manager.store.checkpoints("t")) == 2
