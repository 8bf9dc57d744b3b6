"""LangGraph's own savers, and ours: the same rows, the same answers, one database for both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from itertools import count
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import urlsplit, urlunsplit

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.conformance import (
    checkpointer_test,
    validate,
)

from coordinator.langgraph.states import GraphStates
from tests.langgraph.savers.databases import CheckpointDatabase, PostgresDatabase, SQLiteDatabase
from tests.langgraph.savers.running import Driver, Durability, questions, resume, run_of
from tests.langgraph.savers.scenes import SCENES


class Both(BaseCheckpointSaver[str]):
    """Writes with two savers, and reads with the first."""

    def __init__(self, inner: BaseCheckpointSaver[str], also: BaseCheckpointSaver[str] | None) -> None:
        super().__init__()
        self._inner, self._also = inner, also

    def writing(self, thread_id: str) -> AbstractAsyncContextManager[object]:
        """Around each write."""
        return nullcontext()

    def get_next_version(self, current: str | None, channel: None) -> str:
        return self._inner.get_next_version(current, channel)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await self._inner.aget_tuple(config)

    def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[CheckpointTuple]:
        return self._inner.alist(config, **options)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        if self._also is not None:
            await self._also.aput(config, checkpoint, metadata, new_versions)
        async with self.writing(config.get("configurable", {})["thread_id"]):
            return await self._inner.aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        if self._also is not None:
            await self._also.aput_writes(config, writes, task_id, task_path)
        async with self.writing(config.get("configurable", {})["thread_id"]):
            await self._inner.aput_writes(config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        if self._also is not None:
            await self._also.adelete_thread(thread_id)
        async with self.writing(thread_id):
            await self._inner.adelete_thread(thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """The conformance suite prunes with the saver, the coordinator with the states."""
        for thread_id in thread_ids:
            await self._prune(thread_id, strategy)

    async def _prune(self, thread_id: str, strategy: str) -> None:
        raise NotImplementedError


class AnyThread(Both):
    """Makes each write a run of its own: the conformance suite knows no runs."""

    def __init__(self, states: GraphStates) -> None:
        super().__init__(states.saver, None)
        self._states, self._fences = states, count(1)

    def writing(self, thread_id: str) -> AbstractAsyncContextManager[object]:
        fence = next(self._fences)
        return run_of(self._states, thread_id, f"run-{fence}", fence)

    async def _prune(self, thread_id: str, strategy: str) -> None:
        if strategy == "delete":
            await self.adelete_thread(thread_id)
            return
        fence = next(self._fences)
        async with run_of(self._states, thread_id, f"run-{fence}", fence):
            await self._states.keep_latest(thread_id, f"run-{fence}", fence)


@pytest.mark.parametrize("capability", ["put", "put_writes", "get_tuple", "list", "delete_thread", "prune"])
async def test_conformance(states: GraphStates, capability: str) -> None:
    async def factory() -> Any:
        yield AnyThread(states)

    registered = checkpointer_test(name="coordinator")(factory)
    report = await validate(registered, capabilities={capability})
    result = report.results[capability]
    assert result.passed, result.failures
    assert result.tests_passed


def twin_of(database: CheckpointDatabase, path: Path | None) -> CheckpointDatabase:
    """Another database of the same kind."""
    if isinstance(database, SQLiteDatabase):
        assert path is not None
        return SQLiteDatabase(path / "twin.db")
    assert isinstance(database, PostgresDatabase)
    url = urlsplit(database.url)
    return PostgresDatabase(urlunsplit(url._replace(path=f"{url.path}_twin")))


@pytest.fixture
def twin(database: CheckpointDatabase, tmp_path: Path) -> CheckpointDatabase:
    return twin_of(database, tmp_path)


@pytest.mark.parametrize("durability", get_args(Durability))
async def test_the_same_writes_are_the_same_rows_and_read_the_same(
    database: CheckpointDatabase, twin: CheckpointDatabase, durability: str
) -> None:
    if isinstance(database, PostgresDatabase) and isinstance(twin, PostgresDatabase):
        await database.clone(twin)
    async with AsyncExitStack() as stack:
        stock = await stack.enter_async_context(twin.stock())
        states = database.states()
        await stack.enter_async_context(states.opened())
        for name, scene in SCENES.items():
            driver = Driver(scene.graph(), states, thread_id=name, durability=cast("Durability", durability))
            driver.saver = Both(states.saver, stock)
            driver.graph = driver.graph.copy(update={"checkpointer": driver.saver})
            await scene.before(driver)
            await scene.run(driver)
        rows = await database.rows()
        assert rows == await twin.rows()
        assert all(rows.values())
        for config in [None, *({"configurable": {"thread_id": name}} for name in SCENES)]:
            await _compare_lists(states.saver, stock, cast("RunnableConfig | None", config))


async def _compare_lists(
    ours: BaseCheckpointSaver[str], stock: BaseCheckpointSaver[str], config: RunnableConfig | None
) -> None:
    listed = [one async for one in ours.alist(config)]
    expected = [one async for one in stock.alist(config)]
    assert _by_id(listed) == _by_id(expected)
    assert [_id(one) for one in listed] == sorted((_id(one) for one in expected), reverse=True)
    for one in listed:
        assert await ours.aget_tuple(one.config) == await stock.aget_tuple(one.config)
    if config is None or not listed:
        return
    middle = listed[len(listed) // 2].config
    options: list[Mapping[str, Any]] = [
        {"limit": 2},
        {"limit": 0},
        {"before": middle},
        {"before": middle, "limit": 1},
        {"filter": {"source": "loop"}},
        {"filter": {"source": "loop", "step": 1}},
        {"filter": {"step": None}},
        {"filter": {"parents": {}}},
        {"filter": {"unknown": "x"}},
    ]
    for each in options:
        ids = [_id(one) async for one in ours.alist(config, **each)]
        assert ids == [_id(one) async for one in stock.alist(config, **each)], each
    assert await ours.aget_tuple(config) == await stock.aget_tuple(config)


def _id(one: CheckpointTuple) -> str:
    return str(one.config.get("configurable", {})["checkpoint_id"])


def _by_id(listed: Sequence[CheckpointTuple]) -> Mapping[str, CheckpointTuple]:
    assert len({_id(one) for one in listed}) == len(listed)
    return {_id(one): one for one in listed}


async def test_a_thread_moves_between_the_savers(database: CheckpointDatabase) -> None:
    """Two questions: begun by theirs, one answer by ours, the second by theirs, and a new run by ours."""
    graph, config = questions("one", "two"), {"configurable": {"thread_id": "thread"}}
    async with database.stock() as stock:
        theirs = graph.copy(update={"checkpointer": stock})
        await theirs.ainvoke({"log": ["input"]}, config)
    before = await database.rows()
    states = database.states()
    async with states.opened():
        ours = Driver(graph, states)
        await ours.run(resume("first"))
        await ours.restore()
        assert await database.rows() == before
        await ours.run(resume("first"))
    async with database.stock() as stock:
        theirs = graph.copy(update={"checkpointer": stock})
        values = await theirs.ainvoke(resume("second"), config)
        assert values["log"] == ["input", "before", "one first", "two second", "after"]
    states = database.states()
    async with states.opened():
        ours = Driver(graph, states)
        ours.fence = 5
        assert await ours.run({"log": ["more"]}) == [*values["log"], "more", "before"]
