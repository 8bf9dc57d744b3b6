"""GraphLikeAssistant: takes what the demo assistant takes and does what that does, in the way of graphs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coordinator.assistants.values import merged, updates_of
from coordinator.context import RunContext
from coordinator.errors import InvalidArgument
from coordinator.schemas import (
    CheckpointRef,
    Description,
    Interrupt,
    Json,
    Outcome,
    RunRequest,
    StateStep,
    StateView,
    User,
)
from stores.times import iso
from tests.graphlike.states import Checkpoint, CheckpointStates, Writer

NODE, START = "step", "__start__"
_Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]


class GraphLikeInput(BaseModel):
    """The input of the demo, and: `pause_before`: the steps before which it pauses with a question. `thread`:
    how long (s) each step works in a thread, which nothing can cancel. `write`: how long (s) each write of a
    checkpoint takes, in a thread as well."""

    model_config = ConfigDict(extra="ignore")

    sleep: _Seconds = 0
    steps: Annotated[int, Field(ge=0, le=100_000)] = 1
    fail: bool = False
    tag: Annotated[str, Field(max_length=1_000)] = "run"
    pause_before: list[int] = []
    thread: _Seconds = 0
    write: _Seconds = 0


class GraphLikeAssistant:
    """`at_step(number)` is called in a thread in every step, `before_write(number)` in one before every
    write: for tests that decide when those go on. `saves=False`: its values are read through `state` alone,
    as a graph's are."""

    features = frozenset(
        {"values", "updates", "custom", "command", "interrupt", "checkpoint", "history", "attempts", "drain"}
    )

    def __init__(
        self,
        states: CheckpointStates,
        *,
        name: str = "graphlike",
        at_step: Callable[[int], object] | None = None,
        before_write: Callable[[int], object] | None = None,
        saves: bool = True,
    ) -> None:
        self.name, self.states, self.saves = name, states, saves
        self.at_step, self.before_write = at_step, before_write

    def validate(self, request: RunRequest) -> None:
        if request.input is not None:
            _parsed(request.input)
        for field in ("interrupt_before", "interrupt_after"):
            nodes = getattr(request, field)
            for node in () if nodes in (None, "*") else nodes:
                if node != NODE:
                    raise InvalidArgument(field, f"there is no node {node!r}")
        if request.command is not None and request.command.goto not in (None, [], NODE, [NODE]):
            raise InvalidArgument("command", f"there is no node {request.command.goto!r:.100}")

    # -- a run

    async def run(self, ctx: RunContext, request: RunRequest) -> Outcome:
        writer = Writer(ctx.run.thread_id, ctx.run.run_id, ctx.fence)
        point = await self._begin(ctx, request, writer)
        run_input = GraphLikeInput(**point.plan.get("input", {}))
        going_on = request.input is None  # past the place where it has paused
        while point.left:
            number: int = point.plan["next"]
            if ctx.drain_event.is_set():
                return _outcome(point, drained=True)
            if _named(request.interrupt_before) and not going_on:
                return _outcome(point, paused=True)
            if number in run_input.pause_before and not point.answered:
                return await self._pause_with_question(ctx, writer, point, number)
            going_on = False
            point = await self._step(ctx, writer, point, run_input)
            if _named(request.interrupt_after) and point.left:
                return _outcome(point, paused=True)
        return _outcome(point)

    async def _begin(self, ctx: RunContext, request: RunRequest, writer: Writer) -> Checkpoint:
        """Where this attempt begins. One that this run has left is its own: the input is not given again,
        or a repeated answer would answer the next question too."""
        head = await self.states.get(writer.thread_id)
        if head is not None and head.run_id == writer.run_id:
            return head
        base = head
        if request.checkpoint is not None and request.checkpoint.checkpoint_id is not None:
            base = await self.states.get(writer.thread_id, request.checkpoint.checkpoint_id)
            if base is None:
                raise InvalidArgument("checkpoint", "the thread has no such checkpoint")
        if request.command is not None and base is not None:
            answered = base.question is not None
            point = replace(base, answer=request.command.resume, answered=answered)
            point = replace(point, values=merged(point.values, updates_of(request.command.update)))
            await self._write(ctx, writer, point)  # onto a checkpoint of an earlier run
            return point
        if request.input is None and base is not None:
            return base
        run_input = _parsed(request.input)
        values = {**({} if base is None else base.values), "done": 0, "steps": run_input.steps}
        plan = {"next": 1, "steps": run_input.steps, "input": run_input.model_dump()}
        return await self._new(ctx, writer, base, values, plan, source="input")

    async def _pause_with_question(
        self, ctx: RunContext, writer: Writer, point: Checkpoint, number: int
    ) -> Outcome:
        question = {"question": f"go on with step {number}?"}
        await self._write(ctx, writer, replace(point, question=question))
        interrupt = Interrupt(question, point.checkpoint_id, task_id=_task_of(point))
        return _outcome(point, paused=True, interrupts=(interrupt,))

    async def _step(
        self, ctx: RunContext, writer: Writer, point: Checkpoint, run_input: GraphLikeInput
    ) -> Checkpoint:
        number: int = point.plan["next"]
        await asyncio.sleep(run_input.sleep)
        if run_input.thread or self.at_step is not None:
            work = partial(self._in_thread, number, run_input.thread)
            await ctx.track(asyncio.get_running_loop().run_in_executor(None, work))
        if run_input.fail and number == point.plan["steps"]:
            raise ValueError("demo failure requested")
        noted = f"{run_input.tag}:{number}" + (f":{point.answer}" if point.answered else "")
        log = [*point.values.get("log", []), noted]
        values = {**point.values, "done": number, "log": log}
        plan = {**point.plan, "next": number + 1}
        after = await self._new(ctx, writer, point, values, plan, source="loop", slowly=run_input.write)
        if "state" in self.features:
            await ctx.show(values)
        elif self.saves:
            await ctx.save(values)
        await ctx.emit("updates", {NODE: {"log": [noted]}})
        return after

    def _in_thread(self, number: int, seconds: float) -> None:
        time.sleep(seconds)
        if self.at_step is not None:
            self.at_step(number)

    async def _new(
        self,
        ctx: RunContext,
        writer: Writer,
        parent: Checkpoint | None,
        values: dict[str, Any],
        plan: dict[str, Any],
        *,
        source: str,
        slowly: float = 0.0,
    ) -> Checkpoint:
        checkpoint_id, created_us = self.states.new_id()
        point = Checkpoint(
            checkpoint_id=checkpoint_id,
            run_id=writer.run_id,
            values=values,
            plan=plan,
            parent_id=None if parent is None else parent.checkpoint_id,
            metadata={"source": source, "run_id": writer.run_id, "step": plan.get("next", 1) - 1},
            created_us=created_us,
        )
        await self._write(ctx, writer, point, slowly)
        return point

    async def _write(self, ctx: RunContext, writer: Writer, point: Checkpoint, slowly: float = 0.0) -> None:
        def write() -> None:
            if self.before_write is not None:
                self.before_write(point.plan.get("next", 1) - 1)
            self.states.write(writer, point, slowly)

        ctx.check()
        await ctx.track(asyncio.get_running_loop().run_in_executor(None, write))

    # -- a thread's state

    async def state(
        self,
        thread_id: str,
        at: CheckpointRef | None = None,
        *,
        subgraphs: bool = False,
        user: User | None = None,
    ) -> StateView | None:
        del subgraphs, user
        point = await self.states.get(thread_id, None if at is None else at.checkpoint_id)
        return None if point is None else self._view(thread_id, point)

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
        del user
        if namespace not in ("", "inner"):
            return
        until = None if before is None else before.checkpoint_id
        for point in await self.states.all(thread_id):
            view = self._view(thread_id, point)
            if namespace:  # every state of the subgraph is one of the graph
                view = replace(view, checkpoint=CheckpointRef(point.checkpoint_id, namespace))
            if (until is None or point.checkpoint_id < until) and view.carries(metadata):
                if limit < 1:
                    return
                limit -= 1
                yield view

    def _view(self, thread_id: str, point: Checkpoint) -> StateView:
        waits = point.question is not None and not point.answered
        interrupts = (
            (Interrupt(point.question, point.checkpoint_id, task_id=_task_of(point)),) if waits else ()
        )
        listed = [{"value": one.value, "id": one.id} for one in interrupts]
        task = {"id": _task_of(point), "name": NODE, "error": None, "interrupts": listed}
        return StateView(
            values=point.values,
            next=(NODE,) if point.left else (),
            checkpoint=CheckpointRef(point.checkpoint_id),
            parent=None if point.parent_id is None else CheckpointRef(point.parent_id),
            metadata={**point.metadata, "thread_id": thread_id, "graph_id": self.name},
            created_at=iso(point.created_us),
            tasks=(task,) if point.left else (),
            interrupts=interrupts,
        )

    async def update_state(
        self, ctx: RunContext, values: Json, *, as_node: str | None = None, at: CheckpointRef | None = None
    ) -> CheckpointRef:
        if as_node not in (None, NODE, START):
            raise InvalidArgument("as_node", f"there is no node {as_node!r}")
        writer = Writer(ctx.run.thread_id, ctx.run.run_id, ctx.fence)
        base = await self.states.get(writer.thread_id, None if at is None else at.checkpoint_id)
        if base is None and at is not None:
            raise InvalidArgument("checkpoint", "the thread has no such checkpoint")
        updates = updates_of(values)
        if any("refused" in update for update in updates):
            raise RuntimeError("the reducer refuses this")
        changed = merged({} if base is None else base.values, updates)
        plan = {} if base is None else base.plan
        point = await self._new(ctx, writer, base, changed, plan, source="update")
        return CheckpointRef(point.checkpoint_id)

    async def update_states(
        self, ctx: RunContext, supersteps: Sequence[Sequence[StateStep]]
    ) -> CheckpointRef:
        """The updates of one superstep do not see each other, and make one checkpoint."""
        ref = CheckpointRef()
        for updates in supersteps:
            together: list[Json] = []
            for step in updates:
                if step.as_node not in (None, NODE, START):
                    raise InvalidArgument("as_node", f"there is no node {step.as_node!r}")
                values = step.values if step.command is None else step.command.update
                together += updates_of(values)
            ref = await self.update_state(ctx, together)
        return ref

    async def subgraphs(
        self, namespace: str | None = None, *, recurse: bool = False, user: User | None = None
    ) -> Mapping[str, Description]:
        del user
        known = {"inner": Description(state_schema={"title": "Inner"})}
        if recurse:
            known["inner|innermost"] = Description(state_schema={"title": "Innermost"})
        return {name: each for name, each in known.items() if namespace in (None, name)}

    async def describe(self, user: User | None = None, *, xray: bool | int = False) -> Description:
        del user
        depth = 2 if xray is True else int(xray)
        inside = [{"id": each} for each in ("inner", "innermost")[:depth]]
        drawing = {
            "nodes": [{"id": START}, {"id": NODE}, *inside, {"id": "__end__"}],
            "edges": [{"source": START, "target": NODE}, {"source": NODE, "target": "__end__"}],
        }
        schema = GraphLikeInput.model_json_schema()
        return Description(text="Behaves as graphs do.", input_schema=schema, drawing=drawing)


def _parsed(given: Json) -> GraphLikeInput:
    try:
        return GraphLikeInput.model_validate({} if given is None else given)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)
        raise InvalidArgument("input", "; ".join(str(one["msg"]) for one in wrong)) from None


def _task_of(point: Checkpoint) -> str:
    return f"task-{point.checkpoint_id}"


def _outcome(point: Checkpoint, **more: Any) -> Outcome:
    return Outcome(values=point.values, checkpoint=CheckpointRef(point.checkpoint_id), **more)


def _named(nodes: list[str] | str | None) -> bool:
    return nodes == "*" or (nodes is not None and NODE in nodes)
