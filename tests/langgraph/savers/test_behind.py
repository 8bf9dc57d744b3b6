"""Writes that a run does not wait for, and the head of its thread in memory."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint

from coordinator.errors import StoreUnavailable
from coordinator.langgraph.savers.sqlite.behind import write_behind
from coordinator.langgraph.states import GraphStates, sqlite_states
from tests.langgraph.savers.running import Driver, plain, questions, run_of

IN_SYNC = {"__pregel_durability": "sync"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints.db"


@asynccontextmanager
async def _run(path: Path, **options: Any) -> AsyncGenerator[GraphStates]:
    """A run that holds the thread."""
    states = sqlite_states(path, **options)
    async with states.opened(), run_of(states, "thread", "run", 1):
        yield states


def _config(checkpoint_id: str | None = None, **more: str) -> Any:
    keys = {"thread_id": "thread", "checkpoint_ns": "", **more}
    return {"configurable": keys if checkpoint_id is None else {**keys, "checkpoint_id": checkpoint_id}}


def _checkpoint(number: int) -> Checkpoint:
    return {**empty_checkpoint(), "id": f"{number:08}"}


async def _put(states: GraphStates, number: int, **more: str) -> None:
    await states.saver.aput(_config(**more), _checkpoint(number), {}, {})


def _stored(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as cx:
        return [row[0] for row in cx.execute("SELECT checkpoint_id FROM checkpoints ORDER BY 1")]


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """By another connection, as another process has it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as cx:
        cx.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            cx.execute("ROLLBACK")


async def test_checkpoint_is_durable_when_the_scope_exits(path: Path) -> None:
    async with _run(path) as states:
        exiting = asyncio.Event()

        async def run() -> None:
            async with write_behind():
                await _put(states, 1)  # returns although the file is locked
                await _put(states, 2)
                exiting.set()

        with _locked(path):
            task = asyncio.ensure_future(run())
            await exiting.wait()
            await asyncio.wait((task,), timeout=0.05)
            assert not task.done()
        await task
        assert _stored(path) == ["00000001", "00000002"]


@pytest.mark.parametrize("special", [False, True], ids=["sync", "interrupt"])
async def test_write_that_the_graph_waits_for_is_durable(path: Path, special: bool) -> None:
    async with _run(path) as states, write_behind():
        with _locked(path):
            await _put(states, 1)
            if special:
                writes: Any = [("__interrupt__", "question")]
                work = states.saver.aput_writes(_config("00000001"), writes, "task")
            else:
                work = _put(states, 2, **IN_SYNC)
            waiting = asyncio.ensure_future(work)
            await asyncio.wait((waiting,), timeout=0.05)
            assert not waiting.done()
        await waiting
        assert _stored(path)[0] == "00000001"


async def test_writes_are_durable_before_a_cancel_is_raised(path: Path) -> None:
    async with _run(path) as states:
        put = asyncio.Event()

        async def run() -> None:
            async with write_behind():
                await _put(states, 1)
                put.set()

        with _locked(path):
            task = asyncio.ensure_future(run())
            await put.wait()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,), timeout=0.05)
            assert not task.done()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert _stored(path) == ["00000001"]


async def test_no_checkpoint_follows_one_that_was_not_written(path: Path) -> None:
    async with _run(path, busy_timeout=0.1) as states:

        async def run() -> None:
            async with write_behind():
                with _locked(path):
                    await _put(states, 1)
                    with pytest.raises(StoreUnavailable):
                        await _put(states, 2, **IN_SYNC)
                with pytest.raises(StoreUnavailable):
                    await _put(states, 3)

        with pytest.raises(StoreUnavailable):
            await run()
        assert _stored(path) == []


async def test_error_of_the_run_hides_that_of_its_writes(path: Path) -> None:
    async with _run(path, busy_timeout=0.1) as states:

        async def run() -> None:
            async with write_behind():
                await _put(states, 1)
                raise ZeroDivisionError

        with _locked(path), pytest.raises(ZeroDivisionError):
            await run()


async def test_run_reads_what_it_has_queued(path: Path) -> None:
    async with _run(path) as states, write_behind():
        await _put(states, 1)
        head: Any = await states.saver.aget_tuple(_config())
        assert head.checkpoint["id"] == "00000001"
        by_id: Any = await states.saver.aget_tuple(_config("00000001"))
        assert by_id.checkpoint == head.checkpoint
        await _put(states, 2)
        assert [one.checkpoint["id"] async for one in states.saver.alist(_config())] == [
            "00000002",
            "00000001",
        ]


@pytest.mark.parametrize("writes_first", [False, True])
async def test_head_has_its_writes(path: Path, writes_first: bool) -> None:
    async with _run(path) as states, write_behind():
        work = [_put(states, 1), states.saver.aput_writes(_config("00000001"), [("log", "x")], "task")]
        for each in reversed(work) if writes_first else work:
            await each
        head: Any = await states.saver.aget_tuple(_config())
        assert head.pending_writes == [("task", "log", "x")]


async def test_older_checkpoint_is_not_the_head(path: Path) -> None:
    async with _run(path) as states, write_behind():
        await _put(states, 2)
        await _put(states, 1)
        head: Any = await states.saver.aget_tuple(_config())
        assert head.checkpoint["id"] == "00000002"


async def test_code_of_no_run_reads_the_file(path: Path) -> None:
    """A worker that has lost the thread without notice shows what the new owner wrote."""
    states = sqlite_states(path)
    other = sqlite_states(path)
    async with states.opened(), other.opened():
        await states.open("thread", "run", 1)
        async with run_of(other, "thread", "new", 2):
            await _put(other, 1)
        head: Any = await states.saver.aget_tuple(_config())
        assert head.checkpoint["id"] == "00000001"


async def test_head_of_a_removed_thread_is_not_kept(path: Path) -> None:
    async with _run(path) as states:
        async with write_behind():
            await _put(states, 1)
            await states.saver.adelete_thread("thread")
        assert await states.saver.aget_tuple(_config()) is None


async def test_copy_into_an_open_thread_is_read(path: Path) -> None:
    states = sqlite_states(path)
    async with states.opened():
        await Driver(plain(), states, thread_id="source").run({"log": ["x"]})
        async with run_of(states, "thread", "copying", 1):
            await states.copy("source", "thread", "copying", 1)
            assert await states.saver.aget_tuple(_config()) is not None


@pytest.mark.parametrize("graph", [plain(), questions("one")], ids=["finished", "interrupted"])
async def test_head_in_memory_is_that_of_the_file(path: Path, graph: Any) -> None:
    """Before the first step of the next run, and at the end of a run."""
    states = sqlite_states(path)
    async with states.opened():
        driver = Driver(graph, states)
        await driver.run({"log": ["x"]})
        from_file = await states.saver.aget_tuple(_config())
        async with driver.holding():
            assert await states.saver.aget_tuple(_config()) == from_file
            async with write_behind():
                await driver.graph.ainvoke({"log": ["again"]}, driver.config())
                in_memory = await states.saver.aget_tuple(_config())
        assert in_memory == await states.saver.aget_tuple(_config())
