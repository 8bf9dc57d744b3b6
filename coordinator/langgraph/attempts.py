"""Further attempts of a graph's run: where it stops for a draining worker, where it begins elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import cast

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import RunControl
from langgraph.types import StateSnapshot

from coordinator.context import RunContext
from coordinator.langgraph.graph import Graph
from coordinator.langgraph.inputs import is_null_answer
from coordinator.langgraph.savers.saver import FencedSaver
from coordinator.langgraph.savers.traces import NULL_TASK
from coordinator.schemas import Command, Json, RunRequest
from stores.json_values import JsonObject

RESUME = "__resume__"
"""The channel of answers."""
NOT_SHOWN = "__"
"""Prefix of the nodes that `"*"` does not name."""


class DrainControl(RunControl):
    """Stops the graph between two steps, when their checkpoint is durable, once the worker drains."""

    __slots__ = ("_drains",)

    def __init__(self, drains: asyncio.Event) -> None:
        super().__init__()
        self._drains = drains

    @property
    def drain_requested(self) -> bool:
        return self._drains.is_set()


async def unanswered(saver: object, ctx: RunContext, head: JsonObject, command: Command) -> Command | None:
    """The answers that earlier attempts have not used, of a run that may have begun to write, but not a
    checkpoint of its root graph. None if it has used all: a second use would answer the next question."""
    if not isinstance(saver, FencedSaver) or not (command.resume is not None or is_null_answer(command)):
        return command
    traces = await saver.traces(ctx.run.thread_id, ctx.run.run_id)
    answered = traces.answered()
    given = _answers_by_id(command.resume)
    if traces.questions & given.keys():
        resume = {key: value for key, value in given.items() if key not in answered}
        return replace(command, resume=resume) if resume else None
    if traces.none or (traces.posed and not answered):
        return command
    if command.resume is not None:  # the stored answer, which names no question, is replaced by none
        config = cast("RunnableConfig", {"configurable": head})
        await saver.aput_writes(config, [(RESUME, None)], NULL_TASK)
    return None


def _answers_by_id(resume: Json) -> JsonObject:
    return cast("JsonObject", resume) if isinstance(resume, dict) else {}


async def stands_at_breakpoint(graph: Graph, head: StateSnapshot, request: RunRequest) -> bool:
    """Whether the run was to pause at its newest checkpoint `head`: its worker died between the write of that
    checkpoint and the pause. Without input the graph would pass the breakpoint."""
    before = _listed(request.interrupt_before, graph.interrupt_before_nodes)
    if _names(before, head.next):
        return True
    after = _listed(request.interrupt_after, graph.interrupt_after_nodes)
    if not after or not head.next or head.parent_config is None:
        return False
    if (head.metadata or {}).get("source") != "loop":
        return False
    parent = await graph.aget_state(cast("dict[str, Json]", head.parent_config), subgraphs=False)
    return _names(after, parent.next)


def _listed(requested: Json, compiled: Json) -> Json:
    """What the run requests takes the place of what the graph was compiled with."""
    return requested or compiled


def _names(listed: Json, nodes: Sequence[str]) -> bool:
    if listed == "*":
        return any(not node.startswith(NOT_SHOWN) for node in nodes)
    return any(node in cast("Collection[str]", listed or ()) for node in nodes)
