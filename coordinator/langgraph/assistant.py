"""GraphAssistant: a LangGraph graph behind the port of assistants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.errors import GraphDrained
from langgraph.types import StateSnapshot, StateUpdate

from coordinator.arguments import check_retries
from coordinator.assistants.requests import cleaned
from coordinator.context import RunContext
from coordinator.errors import InvalidArgument
from coordinator.langgraph import attempts, inputs, views
from coordinator.langgraph.contexts import Preset
from coordinator.langgraph.encoding import as_json
from coordinator.langgraph.graph import Graph, for_reading, reading
from coordinator.langgraph.loading import GraphEntry
from coordinator.langgraph.protocol import ProtocolStream
from coordinator.langgraph.runtime import Access, AccessContext, node_in
from coordinator.langgraph.savers.sqlite.behind import write_behind
from coordinator.langgraph.storage import GraphStates, store_of
from coordinator.langgraph.streaming import MODES, EventStream
from coordinator.runs.exits import contained
from coordinator.schemas import (
    PROTOCOL,
    CheckpointRef,
    Command,
    Description,
    Interrupt,
    Json,
    Outcome,
    RunRequest,
    StateStep,
    StateView,
    User,
)
from stores.json_values import JsonMapping, JsonObject
from stores.tasks import begin_soon

_FEATURES = frozenset({"command", "interrupt", "checkpoint", "history", "state"})
_PAGE = 25
"""States that are read at once: each may be large."""
_FILTERED_IN_STORAGE = frozenset({"source", "step", "run_id"})


class GraphAssistant:
    """Runs one graph. `preset` is added to the config and the context of all its runs; several assistants may
    share an entry and a storage.

    Sync nodes run in the default executor of the loop: `manager.worker.install_executor()` makes a thread
    wait for those of a cancelled run.
    """

    features = MODES | _FEATURES

    def __init__(
        self,
        graph: object,
        states: GraphStates,
        *,
        name: str,
        text: str | None = None,
        preset: Preset | None = None,
        retries: int = 1,
    ) -> None:
        """`graph`: one of the forms of `GraphEntry`, or an entry that assistants share. `states`:
        `sqlite_states`, `postgres_states`, or a `GraphStorage` that adds a store. `text`: the description.
        `retries`: how often a run is continued after a death of its worker; 0 = it ends as an error then, and
        is not handed over by a worker that drains. Raises InvalidArgument."""
        self.name, self.states, self.retries = name, states, check_retries(retries)
        self._entry = graph if isinstance(graph, GraphEntry) else GraphEntry(name, graph)
        self.graph_id: str | None = self._entry.name
        self.text, self._preset = text, preset or Preset()
        self._described: dict[bool | int, Description] = {}

    def validate(self, request: RunRequest) -> None:
        inputs.validate(request, self._entry.structure, self._preset)

    # -- runs

    async def run(self, ctx: RunContext, request: RunRequest) -> Outcome:
        """The graph runs in a task of its own that is cancelled once: a second cancel would end the task
        before the writes of its finished steps."""
        inner = begin_soon(contained(self._run(ctx, request)))
        cancelled: asyncio.CancelledError | None = None
        while not inner.done():
            try:
                await asyncio.wait((inner,))
            except asyncio.CancelledError as error:
                if cancelled is None:
                    cancelled = error
                    inner.cancel(*error.args)
        if cancelled is None:
            return inner.result()
        if not inner.cancelled():
            inner.exception()  # retrieved, so that asyncio does not log it
        raise cancelled

    async def _run(self, ctx: RunContext, request: RunRequest) -> Outcome:
        ctx.node_in = node_in
        config = inputs.run_config(ctx, request, self._entry.name, self._preset)
        context = self._preset.context_of(cleaned(request))
        async with self._open(Access("threads.create_run", ctx.user, config, context.values)) as graph:
            given, config = await self._given(graph, ctx, request, config)
            if ctx.attempt > 1 and given is None:
                snapshot = await self._snapshot(graph, ctx.run.thread_id)
                if await attempts.stands_at_breakpoint(graph, snapshot, request):
                    return await self._outcome(graph, snapshot, ctx.run.thread_id, paused=True)
            events = _events(ctx, request)
            options = _options(request, context.for_graph(graph))
            if self.retries and ctx.portable:
                options["control"] = attempts.DrainControl(ctx.drain_event)
            async with write_behind():
                try:
                    await events.follow(graph, given, config, options)
                except GraphDrained:
                    return Outcome(drained=True)
                snapshot = await self._snapshot(graph, ctx.run.thread_id)
            values = None if isinstance(events, ProtocolStream) else as_json(events.values)
            return await self._outcome(
                graph, snapshot, ctx.run.thread_id, paused=events.paused, result=values
            )

    async def _outcome(
        self, graph: Graph, snapshot: StateSnapshot, thread_id: str, *, paused: bool, result: Json = None
    ) -> Outcome:
        """`result`: None = what is in the snapshot."""
        return Outcome(
            values=as_json(snapshot.values),
            result=result,
            paused=paused,
            interrupts=await _interrupts(graph, snapshot, thread_id) if paused else (),
            checkpoint=views.ref_of(cast("JsonMapping", snapshot.config)),
            output=views.output_of(graph),
        )

    async def _given(
        self, graph: Graph, ctx: RunContext, request: RunRequest, config: JsonObject
    ) -> tuple[Json, JsonObject]:
        """Return the input of the graph, and the config to begin with. A run that has written the newest
        checkpoint of its thread is continued: its input is not given again. Raises InvalidArgument if the
        thread has no such checkpoint."""
        opened = cast("JsonObject", ctx.opened or {})
        if opened.get("head_run_id") == ctx.run.run_id:
            return None, inputs.without_checkpoint(config)
        if request.checkpoint is not None and request.checkpoint.checkpoint_id is not None:
            await _check_checkpoint(graph, ctx.run.thread_id, request.checkpoint)
        command: Command | None = request.command
        if command is None:
            return request.input, config
        if ctx.attempt > 1 and opened.get("head") is not None:
            head = inputs.at(ctx.run.thread_id, CheckpointRef(opened["head"]))["configurable"]
            command = await attempts.unanswered(graph.checkpointer, ctx, head, command)
        return None if command is None else await self._command(graph, ctx.run.thread_id, command), config

    async def _command(self, graph: Graph, thread_id: str, command: Command) -> Json:
        """The engine accepts null as an answer only by the id of its interrupt. Without an open interrupt it
        continues the graph. Raises InvalidArgument if several are open."""
        if not inputs.is_null_answer(command):
            return inputs.graph_command(command)
        interrupts = await _interrupts(graph, await self._snapshot(graph, thread_id), thread_id)
        if len(interrupts) > 1:
            raise InvalidArgument("command", "several interrupts are open: answer them by their ids")
        return inputs.graph_command(Command(resume={interrupts[0].id: None})) if interrupts else None

    # -- the state of a thread

    async def state(
        self,
        thread_id: str,
        at: CheckpointRef | None = None,
        *,
        subgraphs: bool = False,
        user: User | None = None,
    ) -> StateView | None:
        async with self._open(self._reading("threads.read", user, thread_id)) as graph:
            with reading(thread_id):
                snapshot = await self._snapshot(for_reading(graph), thread_id, at, subgraphs=subgraphs)
        return None if snapshot.created_at is None else self._view(snapshot, thread_id)

    async def history(
        self,
        thread_id: str,
        *,
        limit: int,
        namespace: str = "",
        before: CheckpointRef | None = None,
        metadata: Mapping[str, Json] | None = None,
        user: User | None = None,
    ) -> AsyncIterator[StateView]:
        left = limit
        conditions = {key: value for key, value in (metadata or {}).items() if key in _FILTERED_IN_STORAGE}
        async with self._open(self._reading("threads.read", user, thread_id)) as graph:
            while left > 0:
                page = min(left, _PAGE)
                at = None if before is None else inputs.at(thread_id, before, namespace)
                with reading(thread_id):
                    states = for_reading(graph).aget_state_history(
                        inputs.at(thread_id, None, namespace),
                        limit=page,
                        filter=conditions or None,
                        before=at,
                    )
                    snapshots = [one async for one in states]
                for view in (self._view(snapshot, thread_id) for snapshot in snapshots):
                    before = view.checkpoint
                    if view.carries(metadata) and left:
                        yield view
                        left -= 1
                if len(snapshots) < page:
                    return

    async def _snapshot(
        self, graph: Graph, thread_id: str, at: CheckpointRef | None = None, *, subgraphs: bool = False
    ) -> StateSnapshot:
        return await graph.aget_state(inputs.at(thread_id, at), subgraphs=subgraphs)

    def _view(self, snapshot: StateSnapshot, thread_id: str) -> StateView:
        view = views.view_of(snapshot, thread_id)
        cast("JsonObject", view.metadata).setdefault("graph_id", self._entry.name)
        return view

    # -- updates

    async def update_state(
        self, ctx: RunContext, values: Json, *, as_node: str | None = None, at: CheckpointRef | None = None
    ) -> CheckpointRef:
        """A list of updates is applied in order, each as a step of its own; for `as_node="__copy__"` it is
        what the engine expects there."""
        several = isinstance(values, list) and as_node != inputs.COPY
        updates: list[Json] = cast("list[Json]", values) if several else [values]
        return await self._update(ctx, at, [[StateStep(update, as_node)] for update in updates])

    async def update_states(
        self, ctx: RunContext, supersteps: Sequence[Sequence[StateStep]]
    ) -> CheckpointRef:
        return await self._update(ctx, None, supersteps)

    async def _update(
        self, ctx: RunContext, at: CheckpointRef | None, supersteps: Sequence[Sequence[StateStep]]
    ) -> CheckpointRef:
        request = RunRequest(checkpoint=at)
        config = inputs.run_config(ctx, request, self._entry.name, self._preset)
        async with self._open(Access("threads.update", ctx.user, config)) as graph:
            if at is not None and at.checkpoint_id is not None:
                await _check_checkpoint(graph, ctx.run.thread_id, at)
            written = await for_reading(graph).abulk_update_state(
                config, [[_update_of(step) for step in steps] for steps in supersteps]
            )
        return views.ref_of(written)

    # -- descriptions

    async def describe(self, user: User | None = None, *, xray: bool | int = False) -> Description:
        known = self._described.get(xray)
        if known is not None:
            return known
        async with self._open(self._reading("assistants.read", user)) as graph:
            description = await views.description_of(graph, self.text, xray=xray)
        if self._entry.structure is not None:
            self._described[xray] = description
        return description

    async def subgraphs(
        self, namespace: str | None = None, *, recurse: bool = False, user: User | None = None
    ) -> Mapping[str, Description]:
        within = recurse or (namespace is not None and "|" in namespace)
        async with self._open(self._reading("assistants.read", user)) as graph:
            return {
                name: views.schemas_of(subgraph)
                async for name, subgraph in graph.aget_subgraphs(namespace=namespace, recurse=within)
            }

    def _open(self, access: Access) -> AbstractAsyncContextManager[Graph]:
        return self._entry.open(access, self.states.saver, store_of(self.states))

    def _reading(self, context: AccessContext, user: User | None, thread_id: str | None = None) -> Access:
        config = self._preset.config_of(RunRequest())
        if thread_id is not None:
            config["configurable"]["thread_id"] = thread_id
        return Access(context, user, config)


async def _interrupts(graph: Graph, snapshot: StateSnapshot, thread_id: str) -> tuple[Interrupt, ...]:
    return views.with_written(views.interrupts_of(snapshot), await _saved(graph, thread_id, None))


async def _check_checkpoint(graph: Graph, thread_id: str, ref: CheckpointRef | None) -> None:
    """The engine would begin anew at an unknown checkpoint. Raises InvalidArgument."""
    if await _saved(graph, thread_id, ref) is None:
        raise InvalidArgument("checkpoint", "the thread has no such checkpoint")


async def _saved(graph: Graph, thread_id: str, ref: CheckpointRef | None) -> CheckpointTuple | None:
    """Read with the saver of the graph, which restores the graph's types."""
    saver = cast("BaseCheckpointSaver[str]", graph.checkpointer)
    return await saver.aget_tuple(cast("RunnableConfig", inputs.at(thread_id, ref)))


def _events(ctx: RunContext, request: RunRequest) -> EventStream | ProtocolStream:
    if PROTOCOL in request.stream_mode:
        return ProtocolStream(ctx)
    return EventStream(ctx, request.stream_mode, subgraphs=request.stream_subgraphs)


def _options(request: RunRequest, context: Json) -> JsonObject:
    return {
        "interrupt_before": request.interrupt_before,
        "interrupt_after": request.interrupt_after,
        "durability": _durability(request),
        "context": context,
    }


def _durability(request: RunRequest) -> Json:
    """`checkpoint_during` is what `durability` was called before."""
    if request.durability is None and request.checkpoint_during is not None:
        return "async" if request.checkpoint_during else "exit"
    return request.durability


def _update_of(step: StateStep) -> StateUpdate:
    values = step.values if step.command is None else inputs.graph_command(step.command)
    return StateUpdate(cast("JsonObject", values), step.as_node)
