"""The shipped checks of assistants pass for functions and for graph-like assistants, and find broken ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator import open_coordinator
from coordinator.assistants.demo import agent
from coordinator.schemas import Json
from coordinator.testing import conformance
from coordinator.testing.conformance import AssistantCase
from tests.graphlike import CheckpointStates, GraphLikeAssistant
from tests.support.teams import QUICK


class WithState(GraphLikeAssistant):
    features = GraphLikeAssistant.features | {"state"}


class Forgetful(CheckpointStates):
    """Undoes nothing."""

    async def restore(self, thread_id: str, run_id: str, ref: Json, fence: int) -> Json:
        return None


def steps(number: int, tag: str) -> Json:
    return {"steps": number, "tag": tag, "sleep": 0.005}


def entries(values: Any) -> list[Any]:
    log: list[Any] = [] if values is None else values.get("log", [])
    return log


@asynccontextmanager
async def case_of(folder: Path, make: Callable[[], Any], **overrides: Any) -> AsyncGenerator[AssistantCase]:
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                open_coordinator(
                    f"sqlite:///{folder}/runs.db", assistants={"one": make()}, **QUICK, **overrides
                )
            )
            for _ in range(2)
        ]
        yield AssistantCase(first, second, "one", steps, entries)


KINDS: dict[str, Callable[[Path], Any]] = {
    "function": lambda _: agent,
    "graph": lambda folder: GraphLikeAssistant(CheckpointStates(folder / "checkpoints.db")),
    "graph without copies": lambda folder: WithState(CheckpointStates(folder / "checkpoints.db")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", conformance.ASSISTANT, ids=str)
async def test_assistant_passes(check: Any, kind: str, tmp_path: Path, no_task_left: None) -> None:
    async with case_of(tmp_path, lambda: KINDS[kind](tmp_path), state_copy_bytes=0) as case:
        await check(case)


async def test_storage_that_undoes_nothing_fails(tmp_path: Path) -> None:
    made = iter(range(100))

    @asynccontextmanager
    async def make() -> AsyncGenerator[AssistantCase]:
        folder = tmp_path / str(next(made))
        folder.mkdir()
        async with case_of(folder, lambda: GraphLikeAssistant(Forgetful(folder / "c.db"))) as case:
            yield case

    with pytest.raises(ExceptionGroup, match="`restore` undoes all writes of a run, and no others") as failed:
        await conformance.assistant(make)
    assert len(failed.value.exceptions) == 2
