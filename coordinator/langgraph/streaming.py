"""From what a graph streams to the events of a run.

The name of an event is its mode; for a subgraph the parts of the namespace follow, joined by `|`. Clients
that request `messages` receive each message as it grows (`messages/metadata`, `messages/partial`,
`messages/complete`), those that request `messages-tuple`, with `messages` or without, each chunk
(`messages`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from itertools import pairwise
from typing import Protocol, cast
from uuid import UUID, uuid4

from langchain_core.messages import BaseMessage, BaseMessageChunk, message_chunk_to_message

from coordinator.langgraph.encoding import encoded
from coordinator.langgraph.graph import Graph, returns_untracked
from coordinator.langgraph.views import INTERRUPT, checkpoint_of
from coordinator.schemas import Json
from stores.json_values import JsonMapping, JsonObject

SAME_NAME = frozenset({"values", "updates", "custom", "tasks", "checkpoints", "debug"})
"""Modes that graphs have under the name that clients request."""
MODES = SAME_NAME | {"messages", "messages-tuple", "events"}


class Emitter(Protocol):
    def touch(self) -> None: ...
    async def emit_encoded(self, mode: str, data: bytes) -> None: ...


class EventStream:
    """Emits the requested events of one run, and encodes nothing else. `paused`: the graph stopped, at a
    breakpoint or because nodes have interrupted it. `values`: the newest ones that the graph has streamed, if
    some of them are in no checkpoint; else None."""

    def __init__(self, emitter: Emitter, requested: Collection[str], *, subgraphs: bool) -> None:
        self._emitter, self._requested, self._subgraphs = emitter, frozenset(requested), subgraphs
        self._messages: dict[str, BaseMessage] = {}
        self._keeps_values = False
        self.paused = False
        self.values: Json = None

    def _modes(self) -> list[str]:
        """The modes to stream. `updates` is always among them: it shows interrupts."""
        modes = (self._requested & SAME_NAME) | {"updates"}
        if self._requested & {"messages", "messages-tuple"}:
            modes |= {"messages"}
        if self._keeps_values:
            modes |= {"values"}
        return sorted(modes)

    async def follow(self, graph: Graph, given: Json, config: JsonObject, options: JsonObject) -> None:
        """Run the graph and emit what it streams. When this returns or raises, it has stopped."""
        self._keeps_values = returns_untracked(graph)
        options = {
            **options,
            "stream_mode": self._modes(),
            "subgraphs": self._subgraphs,
            "output_keys": graph.output_channels,
        }
        if "events" in self._requested:
            run_id: UUID = config.get("run_id") or uuid4()
            config = {**config, "run_id": run_id}
            events = graph.astream_events(given, config, version="v2", **options)
            await self._follow_events(events, str(run_id))
        else:
            async with aclosing(graph.astream(given, config, **options)) as parts:
                async for part in parts:
                    await self._emit_part(part)

    async def _follow_events(self, stream: AsyncGenerator[JsonObject], run_id: str) -> None:
        """Emit the events, and the parts that the graph itself streamed under the names of their modes, which
        would otherwise come twice."""
        async with aclosing(stream) as events:
            async for event in events:
                self._emitter.touch()
                if "langsmith:hidden" in (event.get("tags") or ()):
                    continue
                if event["event"] == "on_chain_stream" and event["run_id"] == run_id:
                    await self._emit_part(event["data"]["chunk"])
                else:
                    await self._emitter.emit_encoded("events", encoded(_visible_event(event)))

    async def _emit_part(self, part: Json) -> None:
        """`part`: mode and data, with subgraphs after the namespace. Each step has one, whether it is
        requested or not."""
        self._emitter.touch()
        await self._emit(*part) if self._subgraphs else await self._emit((), *part)

    async def _emit(self, namespace: tuple[str, ...], mode: str, data: Json) -> None:
        if mode == "updates" and not namespace and INTERRUPT in data:
            self.paused = True
        if self._keeps_values and mode == "values" and not namespace:
            self.values = _without_interrupt(data) or self.values
        if mode == "messages":
            await self._emit_message(*data, namespace=namespace)
        elif mode in self._requested:
            await self._emitter.emit_encoded(_name(mode, namespace), encoded(_visible(mode, data)))

    async def _emit_message(
        self, message: BaseMessage, metadata: JsonMapping, *, namespace: tuple[str, ...]
    ) -> None:
        if "messages-tuple" in self._requested:
            await self._emitter.emit_encoded(_name("messages", namespace), encoded([message, metadata]))
            return
        if "messages" not in self._requested:
            return
        key = str(message.id)
        known = self._messages.get(key)
        if known is None:
            await self._emitter.emit_encoded("messages/metadata", encoded({key: {"metadata": metadata}}))
        is_chunk = isinstance(message, BaseMessageChunk)
        # A whole message replaces the chunks of which it consists.
        whole = known + message if is_chunk and isinstance(known, BaseMessageChunk) else message
        self._messages[key] = cast("BaseMessage", whole)
        name = "messages/partial" if is_chunk else "messages/complete"
        await self._emitter.emit_encoded(name, encoded([message_chunk_to_message(self._messages[key])]))


def _without_interrupt(values: Json) -> Json:
    if not isinstance(values, Mapping):
        return values
    return {key: value for key, value in cast("JsonMapping", values).items() if key != INTERRUPT}


def _name(mode: str, namespace: tuple[str, ...]) -> str:
    return "|".join((mode, *namespace))


def _visible_event(event: JsonObject) -> JsonObject:
    """Return the event; where it contains parts that a graph has streamed, those as clients see them."""
    data: JsonObject = event["data"]
    return {**event, "data": {key: _visible_parts(value) for key, value in data.items()}}


def _visible_parts(value: Json) -> Json:
    """Return a value of an event. A part is a tuple that ends with mode and data; a chain joins several."""
    if not isinstance(value, tuple):
        return value
    parts = list(cast("tuple[Json, ...]", value))
    for at, (mode, data) in enumerate(pairwise(parts), start=1):
        match mode, data:
            case ("checkpoints", {"tasks": _}) | ("debug", {"payload": {"tasks": _}}):
                parts[at] = _visible(mode, data)
            case _:
                pass
    return tuple(parts)


def _visible(mode: str, data: Json) -> Json:
    """Return the data of an event without the configs of the server, which name users and their rights."""
    if mode == "checkpoints":
        return _visible_checkpoint(data)
    if mode == "debug" and data.get("type") == "checkpoint":
        return {**data, "payload": _visible_checkpoint(data["payload"])}
    return data


def _visible_checkpoint(payload: Mapping[str, Json]) -> JsonObject:
    own, parent = checkpoint_of(payload.get("config")), checkpoint_of(payload.get("parent_config"))
    return {
        **payload,
        "config": None if own is None else {"configurable": own},
        "parent_config": None if parent is None else {"configurable": parent},
        "checkpoint": own,
        "parent_checkpoint": parent,
        "tasks": [_visible_task(task) for task in payload["tasks"]],
    }


def _visible_task(task: Mapping[str, Json]) -> JsonObject:
    state: Json = task.get("state")
    if not isinstance(state, Mapping) or "configurable" not in state:
        return dict(task)
    shown = {key: value for key, value in task.items() if key != "state"}
    return {**shown, "checkpoint": checkpoint_of(cast("JsonMapping", state))}
