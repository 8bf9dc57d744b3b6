"""LangGraph's own savers, and ours: the same rows, the same answers, one database for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from itertools import count, product
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
from langgraph.checkpoint.memory import InMemorySaver

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


@asynccontextmanager
async def both_filled(
    database: CheckpointDatabase,
    twin: CheckpointDatabase,
    names: Iterable[str],
    durability: Durability = "async",
) -> AsyncGenerator[tuple[BaseCheckpointSaver[str], BaseCheckpointSaver[str]]]:
    """Yields our saver and the stock one, after each of these scenes was written through both, on a thread of
    its name."""
    if isinstance(database, PostgresDatabase) and isinstance(twin, PostgresDatabase):
        await database.clone(twin)
    async with AsyncExitStack() as stack:
        stock = await stack.enter_async_context(twin.stock())
        states = database.states()
        await stack.enter_async_context(states.opened())
        for name in names:
            scene = SCENES[name]
            driver = Driver(scene.graph(), states, thread_id=name, durability=durability)
            driver.saver = Both(states.saver, stock)
            driver.graph = driver.graph.copy(update={"checkpointer": driver.saver})
            await scene.before(driver)
            await scene.run(driver)
        yield states.saver, stock


@pytest.mark.parametrize("durability", get_args(Durability))
async def test_the_same_writes_are_the_same_rows_and_read_the_same(
    database: CheckpointDatabase, twin: CheckpointDatabase, durability: str
) -> None:
    async with both_filled(database, twin, SCENES, cast("Durability", durability)) as (ours, stock):
        rows = await database.rows()
        assert rows == await twin.rows()
        assert all(rows.values())
        for config in [None, *({"configurable": {"thread_id": name}} for name in SCENES)]:
            await _compare_lists(ours, stock, cast("RunnableConfig | None", config))


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


THREADS = ("fork", "answer in a persistent subgraph", "answer in a subgraph")
"""Scenes with several branches and several namespaces, each on a thread of its name."""


async def all_of(saver: BaseCheckpointSaver[str]) -> list[CheckpointTuple]:
    return [one async for one in saver.alist(None)]


def in_memory(checkpoints: Sequence[CheckpointTuple]) -> InMemorySaver:
    """LangGraph's saver in memory with these checkpoints."""
    saver = InMemorySaver()
    for one in checkpoints:
        keys = one.config.get("configurable", {})
        parent = (one.parent_config or {}).get("configurable", {}).get("checkpoint_id")
        saver.put(
            {"configurable": {**keys, "checkpoint_id": parent}},
            one.checkpoint,
            one.metadata,
            one.checkpoint["channel_versions"],
        )
    return saver


def config_forms(one: CheckpointTuple) -> list[Any]:
    """The configs that a list or a read accepts: with and without namespace and id, known and unknown."""
    keys = one.config.get("configurable", {})
    thread = {"thread_id": keys["thread_id"]}
    forms: list[dict[str, Any]] = [
        thread,
        {"thread_id": "unknown"},
        {**thread, "checkpoint_ns": ""},
        {**thread, "checkpoint_ns": keys["checkpoint_ns"]},
        {**thread, "checkpoint_ns": "unknown"},
        {**thread, "checkpoint_id": keys["checkpoint_id"]},
        {**thread, "checkpoint_id": None},
        {**thread, "checkpoint_id": ""},
        {**thread, "checkpoint_ns": "", "checkpoint_id": "unknown"},
        dict(keys),
    ]
    return [{"configurable": form} for form in forms]


def before_forms(one: CheckpointTuple, other: CheckpointTuple) -> list[Any]:
    keys, others = one.config.get("configurable", {}), other.config.get("configurable", {})
    only_id = {"checkpoint_id": keys["checkpoint_id"]}
    forms: list[dict[str, Any]] = [
        only_id,
        {**only_id, "thread_id": keys["thread_id"]},
        {**only_id, "checkpoint_ns": "unknown"},
        dict(keys),
        dict(others),
        {"checkpoint_id": "0"},
        {"checkpoint_id": "z"},
    ]
    return [None, *({"configurable": form} for form in forms)]


async def test_each_form_of_a_list_reads_as_the_stock_saver(
    database: CheckpointDatabase, twin: CheckpointDatabase
) -> None:
    """The engine names the checkpoint before which it reads by its id alone, when it replays a subgraph."""
    async with both_filled(database, twin, THREADS) as (ours, stock):
        all_ = await all_of(ours)
        within = [one for one in all_ if one.config.get("configurable", {})["checkpoint_ns"]]
        middle, other = within[len(within) // 2], all_[len(all_) // 3]
        forms: Any = product(
            [None, *config_forms(middle)],
            before_forms(middle, other),
            (None, 0, 1, 3),
            (None, {}, {"source": "loop"}, {"source": "input", "step": -1}),
        )
        memory, listed, calls = in_memory(all_), 0, list(forms)
        for config, before, limit, chosen in calls:
            options: Any = {"before": before, "limit": limit, "filter": chosen}
            ids = [_id(one) async for one in ours.alist(config, **options)]
            assert ids == [_id(one) async for one in stock.alist(config, **options)], (config, options)
            if limit is None:  # which orders the namespaces of a thread one after another
                assert sorted(ids) == sorted(map(_id, memory.list(config, **options))), (config, options)
            listed += len(ids)
        assert listed > len(calls)
        await asyncio.to_thread(_check_synchronous_lists, ours, memory, calls)


def _check_synchronous_lists(
    ours: BaseCheckpointSaver[str], memory: InMemorySaver, calls: Sequence[tuple[Any, Any, Any, Any]]
) -> None:
    for config, before, limit, chosen in calls:
        if limit is None and chosen is None:
            expected = sorted(map(_id, memory.list(config, before=before)))
            assert sorted(map(_id, ours.list(config, before=before))) == expected, (config, before)


async def test_each_form_of_a_read_reads_as_the_stock_saver(
    database: CheckpointDatabase, twin: CheckpointDatabase
) -> None:
    async with both_filled(database, twin, THREADS) as (ours, stock):
        all_ = await all_of(ours)
        for one in all_:
            for config in config_forms(one):
                assert await ours.aget_tuple(config) == await stock.aget_tuple(config), config
                read = await asyncio.to_thread(ours.get_tuple, config)
                assert read == await ours.aget_tuple(config), config


async def test_list_that_names_no_thread_or_no_checkpoint_reads_as_the_saver_in_memory(
    database: CheckpointDatabase, twin: CheckpointDatabase
) -> None:
    """The other stock savers disagree: they fail, or return nothing."""
    async with both_filled(database, twin, THREADS) as (ours, _):
        all_ = await all_of(ours)
        memory = in_memory(all_)
        no_ids: list[Any] = [
            {},
            {"configurable": {}},
            {"configurable": {"thread_id": "fork", "checkpoint_id": None}},
        ]
        configs: list[Any] = [None, {}, *config_forms(all_[0])]
        for config, before in product(configs, no_ids):
            expected = sorted(map(_id, memory.list(config, before=before)))
            assert sorted([_id(one) async for one in ours.alist(config, before=before)]) == expected


async def test_config_without_a_thread_is_refused(states: GraphStates) -> None:
    for config in [RunnableConfig(configurable={}), RunnableConfig(configurable={"checkpoint_ns": ""})]:
        with pytest.raises(KeyError, match="thread_id"):
            await anext(states.saver.alist(config))


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
