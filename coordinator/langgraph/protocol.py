"""From what a graph streams to events of the Agent Streaming Protocol, for runs that it has started.

The name of an event is its channel, and for a subgraph the parts of the namespace, joined by `|`. Each event
of the log is one event of the protocol: `messages` in blocks of content, `lifecycle` of subgraphs, `input`
for each interrupt, once, where it was raised. `__node` in the data of a message or tool is its node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import aclosing
from typing import cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.types import Interrupt

from coordinator.langgraph.encoding import encoded
from coordinator.langgraph.graph import Graph
from coordinator.langgraph.streaming import Emitter
from coordinator.langgraph.views import INTERRUPT, checkpoint_of
from coordinator.schemas import Json
from stores.json_values import JsonMapping, JsonObject

_MODES = ["checkpoints", "custom", "messages", "tasks", "tools", "updates", "values"]
_BLOCKS = "__pregel_stream_messages_v2"
"""The key of a config that makes the engine stream messages in blocks of content."""
_ROLES = ((AIMessage, "ai"), (HumanMessage, "human"), (SystemMessage, "system"))
_NODE = "__node"

Namespace = tuple[str, ...]


class ProtocolStream:
    """Emits the events of one attempt. `paused`: the graph stopped, at a breakpoint or because nodes have
    interrupted it."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._interrupts = set[str]()
        self._subgraphs = _Subgraphs()
        self.paused = False

    async def follow(self, graph: Graph, given: Json, config: JsonObject, options: JsonObject) -> None:
        """Run the graph and emit what it streams. When this returns or raises, it has stopped."""
        options = {**options, "stream_mode": _MODES, "subgraphs": True, "version": "v2"}
        config = {**config, "configurable": {**config["configurable"], _BLOCKS: True}}
        async with aclosing(graph.astream(given, config, **options)) as parts:
            async for part in parts:
                await self._emit_part(tuple(part["ns"]), part)

    async def _emit_part(self, namespace: Namespace, part: JsonMapping) -> None:
        mode, data = part["type"], part["data"]
        if mode == "updates" and INTERRUPT in data:
            self.paused = self.paused or not namespace
            await self._emit_interrupts(namespace, data[INTERRUPT])
            data = {key: value for key, value in data.items() if key != INTERRUPT}
            if not data:
                return
        elif mode == "values":
            await self._emit_interrupts(namespace, part.get("interrupts") or ())
        elif mode == "messages":
            message, metadata = data
            for event in _events_of(message, metadata.get("langgraph_node")):
                await self._emit(namespace, mode, event)
            return
        elif mode == "checkpoints":
            data = _checkpoint(data)
        elif mode == "tasks":
            await self._emit_lifecycle(self._subgraphs.ended(namespace, data))
        await self._emit_lifecycle(self._subgraphs.begun(namespace, data if mode == "tasks" else {}))
        await self._emit(namespace, mode, data)

    async def _emit_interrupts(self, namespace: Namespace, interrupts: Json) -> None:
        """A subgraph's interrupt is streamed again by each graph around it."""
        for interrupt in cast("tuple[Interrupt[Json], ...]", interrupts):
            if interrupt.id not in self._interrupts:
                self._interrupts.add(interrupt.id)
                data = {"interrupt_id": interrupt.id, "payload": interrupt.value}
                await self._emit(namespace, "input", data)

    async def _emit_lifecycle(self, events: Iterator[tuple[Namespace, JsonObject]]) -> None:
        for namespace, data in events:
            await self._emit(namespace, "lifecycle", data)

    async def _emit(self, namespace: Namespace, mode: str, data: object) -> None:
        await self._emitter.emit_encoded("|".join((mode, *namespace)), encoded(data))


class _Subgraphs:
    """Which subgraphs have begun, and which tasks of the graph around them end them."""

    def __init__(self) -> None:
        self._seen, self._open = set[Namespace](), dict[Namespace, str]()
        self._calls: dict[str, str] = {}
        """Ids of the calls of tools that tasks execute, by the id of the task."""

    def begun(self, namespace: Namespace, task: JsonMapping) -> Iterator[tuple[Namespace, JsonObject]]:
        """Yields what has begun, with the first event of it. `task`: the event, if it is one of a task."""
        if "input" in task and (call := _call_of(task["input"])) is not None:
            self._calls[task["id"]] = call
        for depth in range(1, len(namespace) + 1):
            one = namespace[:depth]
            name, _, task_id = one[-1].partition(":")
            if one in self._seen or not task_id:
                continue
            self._seen.add(one)
            self._open[one] = task_id
            metadata = cast("JsonObject", task.get("metadata") or {})
            agent = metadata.get("lc_agent_name") if one == namespace else None
            data: JsonObject = {"event": "started", "graph_name": agent or name}
            if (call := self._calls.get(task_id)) is not None:
                data["cause"] = {"type": "toolCall", "tool_call_id": call}
            yield one, data

    def ended(self, namespace: Namespace, task: JsonMapping) -> Iterator[tuple[Namespace, JsonObject]]:
        """Yields what has ended with a task of the graph `namespace`."""
        if "result" not in task:
            return
        for one, task_id in list(self._open.items()):
            if one[:-1] == namespace and task_id == task["id"]:
                del self._open[one]
                yield one, {"graph_name": one[-1].partition(":")[0], **_end_of(task)}


def _end_of(task: JsonMapping) -> JsonObject:
    if task.get("interrupts"):
        return {"event": "interrupted"}
    error = task.get("error")
    return {"event": "completed"} if not error else {"event": "failed", "error": str(error)}


def _call_of(given: object) -> str | None:
    """Returns the id of the call of a tool that is the input of a task."""
    call = cast("JsonMapping", given).get("tool_call") if isinstance(given, Mapping) else None
    call_id = cast("JsonMapping", call).get("id") if isinstance(call, Mapping) else None
    return call_id if isinstance(call_id, str) else None


def _checkpoint(data: JsonMapping) -> JsonObject:
    own, parent = checkpoint_of(data.get("config")), checkpoint_of(data.get("parent_config"))
    metadata = cast("JsonObject", data.get("metadata") or {})
    envelope: JsonObject = {
        "id": (own or {}).get("checkpoint_id"),
        "step": metadata.get("step"),
        "source": metadata.get("source"),
    }
    return envelope if parent is None else {**envelope, "parent_id": parent.get("checkpoint_id")}


def _events_of(message: object, node: str | None) -> Iterator[JsonObject]:
    """Yields the events of one part of a message, or of a whole message that a node has returned."""
    sender: JsonObject = {} if node is None else {_NODE: node}
    if isinstance(message, Mapping):
        yield {**cast("JsonObject", message), **sender}
        return
    role = next((role for kind, role in _ROLES if isinstance(message, kind)), None)
    if role is None:
        return
    whole = cast("BaseMessage", message)
    yield {"event": "message-start", "role": role, "id": str(whole.id), **sender}
    for index, block in enumerate(whole.content_blocks):
        yield {"event": "content-block-start", "index": index, "content": block, **sender}
        yield {"event": "content-block-finish", "index": index, "content": block, **sender}
    usage = getattr(whole, "usage_metadata", None)
    yield {"event": "message-finish", **({} if usage is None else {"usage": usage}), **sender}
