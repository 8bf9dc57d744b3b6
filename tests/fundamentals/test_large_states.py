"""Large values of an assistant with a storage of its own are in no row, and all readers get them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunContext, RunManager, RunRecord, ThreadQuery, open_coordinator
from coordinator.assistants.references import referenced
from tests.graphlike import CheckpointStates, GraphLikeAssistant
from tests.support.teams import QUICK

LARGE: dict[str, Any] = {"steps": 20, "tag": "x" * 1_000}
SMALL: dict[str, Any] = {"steps": 2, "tag": "x"}


class Graph(GraphLikeAssistant):
    features = GraphLikeAssistant.features | {"state"}


class CopiedGraph(GraphLikeAssistant):
    """Without the feature `state`: its values are copied, whatever their size."""


async def sees(ctx: RunContext) -> Any:
    return {"seen": ctx.values}


@pytest.fixture
async def team(tmp_path: Path) -> AsyncGenerator[list[RunManager]]:
    async with AsyncExitStack() as stack:
        managers: list[RunManager] = []
        for _ in range(2):
            states = CheckpointStates(tmp_path / "checkpoints.db")
            assistants = {
                "graph": Graph(states, name="graph"),
                "copied": CopiedGraph(states, name="copied"),
                "sees": sees,
            }
            opened = open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=assistants, **QUICK)
            managers.append(await stack.enter_async_context(opened))
        yield managers


async def run(manager: RunManager, assistant: str, thread: str, given: Any) -> RunRecord:
    record = await manager.create_or_reject(thread, assistant, kwargs={"input": given})
    manager.launch(record)
    await manager.ended(record.run_id, timeout=20)
    return record


async def stored(manager: RunManager, record: RunRecord) -> tuple[Any, Any]:
    """Returns the values in the thread's row and the result in the run's row."""
    thread, row = await manager.store.thread(record.thread_id), await manager.store.row(record.run_id)
    assert thread is not None
    assert row is not None
    return thread.values, row.result


async def test_large_values_are_in_no_row_and_all_readers_get_them(team: list[RunManager]) -> None:
    a, b = team
    record = await run(a, "graph", "t", LARGE)
    assert all(referenced(value) for value in await stored(a, record))
    view = await b.threads.state("t")
    assert view is not None
    values: Any = view.values
    assert len(values["log"]) == 20
    for manager in team:
        assert await manager.wait(record.run_id) == values
        assert (await manager.ended(record.run_id)).result == values
        assert (await manager.threads.get("t")).values == values
        assert [row.values for row in await manager.threads.search()] == [values]
        assert (await manager.threads.update("t", metadata={"a": 1})).values == values
    assert (await b.threads.get("t", with_values=False)).values is None
    assert [row.values for row in await b.threads.search(with_values=False)] == [None]


async def test_small_values_are_copied(team: list[RunManager]) -> None:
    record = await run(team[0], "graph", "t", SMALL)
    values, result = await stored(team[0], record)
    assert values == result == {"done": 2, "steps": 2, "log": ["x:1", "x:2"]}
    assert [row.thread_id for row in await team[1].threads.search(ThreadQuery(values={"done": 2}))] == ["t"]


async def test_values_of_an_assistant_without_the_feature_are_copied(team: list[RunManager]) -> None:
    values, result = await stored(team[0], await run(team[0], "copied", "t", LARGE))
    assert len(values["log"]) == len(result["log"]) == 20


async def test_run_keeps_its_result_when_later_runs_change_the_thread(team: list[RunManager]) -> None:
    a, b = team
    first = await run(a, "graph", "t", LARGE)
    before = await b.wait(first.run_id)
    second = await run(b, "graph", "t", SMALL)
    assert await b.wait(first.run_id) == await a.wait(first.run_id) == before
    after: Any = await a.wait(second.run_id)
    assert len(after["log"]) == 22
    assert (await a.threads.get("t")).values == after


async def test_update_of_a_large_state_is_not_copied(team: list[RunManager]) -> None:
    a, b = team
    record = await run(a, "graph", "t", LARGE)
    await b.threads.update_state("t", {"title": "x"})
    assert referenced((await stored(a, record))[0])
    values: Any = (await a.threads.get("t")).values
    assert (values["title"], len(values["log"])) == ("x", 20)


async def test_large_state_of_a_failed_run_is_not_copied(team: list[RunManager]) -> None:
    a, b = team
    record = await run(a, "graph", "t", LARGE | {"fail": True})
    assert referenced((await stored(a, record))[0])
    values: Any = (await b.threads.get("t")).values
    assert len(values["log"]) == 19


async def test_search_ends_its_page_at_the_size_of_the_values_that_it_reads(team: list[RunManager]) -> None:
    for number in range(3):
        await run(team[0], "graph", f"t{number}", LARGE)
    page = await team[1].threads.search(ThreadQuery(max_bytes=50_000))
    assert (len(page), page.cut) == (2, True)
    page = await team[1].threads.search(ThreadQuery(max_bytes=1))
    assert (len(page), page.cut) == (1, True)


async def test_function_on_a_thread_with_a_large_state_sees_no_reference(team: list[RunManager]) -> None:
    await run(team[0], "graph", "t", LARGE)
    record = await run(team[1], "sees", "t", None)
    assert await team[1].wait(record.run_id) == {"seen": None}


async def test_thread_whose_state_cannot_be_read_is_listed_without_values(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await run(team[0], "graph", "t", LARGE)

    async def fails(*_: Any, **__: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Graph, "state", fails)
    assert [row.values for row in await team[0].threads.search()] == [None]
    assert "The state of thread 't' cannot be read" in caplog.text
    with pytest.raises(OSError, match="the disk is gone"):
        await team[0].threads.get("t")
