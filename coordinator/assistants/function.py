"""A plain `async def agent(ctx) -> result` as an Assistant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import (
    CO_COROUTINE,
    CO_ITERABLE_COROUTINE,
    getdoc,
    isasyncgenfunction,
    isawaitable,
    iscoroutinefunction,
    isfunction,
    isgeneratorfunction,
    signature,
)
from typing import Any, NamedTuple, TypeAlias, cast

from pydantic import BaseModel, ValidationError

from coordinator.assistants.checkpoints import START, begins_a_run
from coordinator.assistants.ports import Assistant
from coordinator.assistants.values import StoredValues, merged, updates_of
from coordinator.context import RunContext
from coordinator.errors import InvalidArgument
from coordinator.schemas import (
    CheckpointRef,
    Description,
    Json,
    Outcome,
    RunRequest,
    StateStep,
    StateView,
    User,
)

INTERRUPT = "__interrupt__"
"""The key of the questions of a paused run, in its updates and values."""

AgentFunction: TypeAlias = Callable[[RunContext], Awaitable[Any]]  # Any: a result of the user's


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """The arguments of `@assistant`."""

    name: str | None = None
    input: type[BaseModel] | None = None
    description: str | None = None
    retries: int = 0


class FunctionAssistant:
    """Wraps an async function. A returned dict replaces the thread's values: it is the last save of the run.
    A returned `Outcome` is used unchanged.

    Its outcome is emitted as graphs emit theirs: to requests that stream `values` the values, unless they
    were saved last, to those that stream `updates` the values under its name, and to both the questions of a
    run that has paused. Code that emits `updates` itself does that instead. Checkpoints of its threads: see
    `coordinator.assistants.checkpoints`.
    """

    features = frozenset({"values", "updates", "custom", "command", "checkpoint", "history"})
    graph_id: str | None = None

    def __init__(self, function: AgentFunction, states: StoredValues, *, name: str | None = None) -> None:
        spec = spec_of(function)
        self.function, self.states, self.input = function, states, spec.input
        self.name = name or spec.name or getattr(function, "__name__", type(function).__name__)
        self.retries = spec.retries
        self.text: str | None = spec.description or (getdoc(function) if isfunction(function) else None)

    def validate(self, request: RunRequest) -> None:
        """Raises InvalidArgument if the input does not match the input model."""
        self._parsed(request)

    def _parsed(self, request: RunRequest) -> Any:  # Any: JSON, or an instance of the user's model
        """Return the input as an instance of the model. A missing input is parsed as `{}`, because all fields
        may have defaults; unless the run is resumed, by a command or from an input checkpoint."""
        resumed = request.command is not None or begins_a_run(request.checkpoint)
        if self.input is None or (request.input is None and resumed):
            return request.input
        try:
            return self.input.model_validate({} if request.input is None else request.input)
        except ValidationError as error:
            raise InvalidArgument("input", _without_values(error)) from None

    async def run(self, ctx: RunContext, request: RunRequest) -> Outcome:
        if request.checkpoint is not None and request.checkpoint != CheckpointRef():
            request = await self._resume_from(ctx, request, request.checkpoint)
        ctx.input = self._parsed(request)
        answer = self.function(ctx)
        if not isawaitable(answer):
            raise InvalidArgument("agent", _not_awaitable(self.function, answer))
        result: Json = await answer
        if isinstance(result, Outcome):
            outcome = result
        else:
            values = cast("Json", result) if isinstance(result, dict) else None
            outcome = Outcome(values=values, result=result)
        await self._emit(ctx, outcome, request.stream_mode)
        return outcome

    async def _emit(self, ctx: RunContext, outcome: Outcome, modes: Collection[str]) -> None:
        """Emit the outcome in the requested modes. The questions come last: to clients, an update after them
        means that they are answered."""
        values, questions = outcome.values, [one.stored for one in outcome.interrupts if outcome.paused]
        if "updates" in modes and values is not None and not ctx.emitted_updates:
            await ctx.emit("updates", {self.name: values})
        if "updates" in modes and questions:
            await ctx.emit("updates", {INTERRUPT: questions})
        if "values" not in modes:
            return
        shown = ctx.values if values is None else values
        if questions and isinstance(shown or {}, dict):
            await ctx.show({**(shown or {}), INTERRUPT: questions})
        elif values is not None:
            await ctx.show(values)

    async def _resume_from(self, ctx: RunContext, request: RunRequest, ref: CheckpointRef) -> RunRequest:
        """Set the context's values to those of the checkpoint. From an input checkpoint, a request without
        input and command repeats the input of that run. Raises InvalidArgument."""
        base = None
        if ref.checkpoint_id is not None and not ref.checkpoint_ns:
            base = await self.states.checkpoints.base(ctx.run.thread_id, ref.checkpoint_id)
        if base is None:
            raise InvalidArgument(
                "checkpoint", f"the thread has no checkpoint {ref.checkpoint_id!r:.80}, or it was pruned"
            )
        ctx.values = base.values
        if request.input is None and request.command is None:
            request = ctx.request = replace(request, input=base.input)
        return request

    async def state(
        self,
        thread_id: str,
        at: CheckpointRef | None = None,
        *,
        subgraphs: bool = False,
        user: User | None = None,
    ) -> StateView | None:
        del subgraphs, user
        return await self.states.checkpoints.at(thread_id, at, self.name)

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
        left = limit
        if left < 1 or namespace:  # a function has no subgraphs
            return
        async for view in self.states.checkpoints.history(thread_id, self.name, before, limit):
            if view.carries(metadata):
                yield view
                left -= 1
                if not left:
                    return

    async def update_state(
        self, ctx: RunContext, values: Json, *, as_node: str | None = None, at: CheckpointRef | None = None
    ) -> CheckpointRef:
        """Merge `values` into the current values, or into those of checkpoint `at`; a list of updates is
        applied in order. Without an update, the values of the checkpoint are restored."""
        if as_node not in (None, self.name, START):
            raise InvalidArgument("as_node", f"must be {self.name!r} or {START!r}: it has no other nodes")
        updates = updates_of(values)
        view = await self.state(ctx.run.thread_id, at)
        if view is None:
            raise InvalidArgument("checkpoint", "the thread has no such checkpoint")
        head = view if at is None else await self.state(ctx.run.thread_id)
        if not updates and view == head:
            return view.checkpoint or CheckpointRef()
        await ctx.save(merged(view.values, updates))
        return CheckpointRef(ctx.run.run_id)

    async def update_states(
        self, ctx: RunContext, supersteps: Sequence[Sequence[StateStep]]
    ) -> CheckpointRef:
        """Apply all updates in order. Of a command, its `update`."""
        ref = CheckpointRef()
        for step in (step for superstep in supersteps for step in superstep):
            values = step.values if step.command is None else step.command.update
            ref = await self.update_state(ctx, values, as_node=step.as_node)
        return ref

    async def describe(self, user: User | None = None, *, xray: bool | int = False) -> Description:
        del user, xray
        schema = None if self.input is None else self.input.model_json_schema()
        return Description(text=self.text, input_schema=schema)

    async def subgraphs(
        self, namespace: str | None = None, *, recurse: bool = False, user: User | None = None
    ) -> Mapping[str, Description]:
        del namespace, recurse, user
        return {}


def spec_of(function: object) -> AgentSpec:
    spec = getattr(function, "__assistant__", None)
    return spec if isinstance(spec, AgentSpec) else AgentSpec()


def as_assistant(
    agent: Assistant | AgentFunction, states: StoredValues, *, name: str | None = None
) -> Assistant:
    """Wrap a function as an Assistant; objects that implement the port are returned unchanged. Raises
    InvalidArgument."""
    if not isfunction(agent) and isinstance(agent, Assistant):  # the second check is slow
        return agent
    if not callable(agent):
        raise InvalidArgument(
            "agent", f"must be an async function or an Assistant, not {type(agent).__name__}"
        )
    if (unfit := unfit_function(agent)) is not None:
        raise InvalidArgument("agent", f"{_shown(agent)} {unfit.why}. {unfit.remedy}")
    return FunctionAssistant(agent, states, name=name)


def _shown(function: object) -> str:
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def _not_awaitable(function: object, answer: object) -> str:
    name = getattr(function, "__name__", "__call__")
    return (
        f"{_shown(function)} returned {type(answer).__name__}, which cannot be awaited. Write it as"
        f" async def {name}(ctx)"
    )


class UnfitFunction(NamedTuple):
    """Why a function cannot be an assistant, and how to fix it."""

    why: str
    remedy: str


def unfit_function(agent: object) -> UnfitFunction | None:
    """Return why every run of this callable would fail; None if no reason can be detected without a call. A
    function that is not async may return an awaitable."""
    if _takes_context(agent):
        return None
    call = getattr(agent, "__call__", None)  # noqa: B004 - objects may have an async __call__
    name = getattr(agent, "__name__", "__call__")
    if isasyncgenfunction(agent) or isasyncgenfunction(call):
        return UnfitFunction(
            "is an async generator",
            "Return the result instead of yielding, and emit parts with `await ctx.emit(mode, part)`",
        )
    if _is_generator(agent) or _is_generator(call):
        return UnfitFunction(
            "is a generator",
            f"Write it as async def {name}(ctx): return the result instead of yielding, and emit parts with"
            " `await ctx.emit(mode, part)`",
        )
    is_async = iscoroutinefunction(agent) or iscoroutinefunction(call)
    if isinstance(agent, type) or not is_async or _accepts_one_argument(agent):
        return None
    return UnfitFunction(
        "cannot be called with one positional argument, the context of the run",
        f"Write it as async def {name}(ctx), with defaults for all other parameters",
    )


def _accepts_one_argument(function: object) -> bool:
    """By its signature; True if it has none."""
    try:
        # A decorator's wrapper may supply arguments that the wrapped function requires.
        parameters = signature(cast("Callable[..., object]", function), follow_wrapped=False)
    except (TypeError, ValueError):
        return True
    try:
        parameters.bind(None)
    except TypeError:
        return False
    return True


def _takes_context(agent: object) -> bool:
    """Whether it is an async function of the usual form, or an object with such a `__call__`. Other fit ones
    are detected by their signature, which takes ten times as long."""
    function, given = (agent, 1) if isfunction(agent) else (getattr(type(agent), "__call__", None), 2)  # noqa: B004
    if not isfunction(function) or not function.__code__.co_flags & CO_COROUTINE:
        return False
    code = function.__code__
    required = code.co_argcount - len(function.__defaults__ or ())
    return required <= given <= code.co_argcount and not code.co_kwonlyargcount


def _is_generator(function: object) -> bool:
    """Whether a call returns a generator; one of a function with `@types.coroutine` can be awaited."""
    code = getattr(function, "__code__", None)
    return isgeneratorfunction(function) and not getattr(code, "co_flags", 0) & CO_ITERABLE_COROUTINE


_MAX_SHOWN_ERRORS = 20
_MAX_COUNTED_ERRORS = 1000
"""Beyond this, no error is shown: pydantic builds the list of all errors to return one."""


def _without_values(error: ValidationError) -> str:
    """Describe the errors without the values, which may be large or secret."""
    count = error.error_count()
    if count > _MAX_COUNTED_ERRORS:
        return f"{count} of its values are invalid"
    errors = error.errors(include_url=False, include_input=False)[:_MAX_SHOWN_ERRORS]
    shown = [f"{'.'.join(map(str, each['loc'])) or 'input'}: {each['msg']}" for each in errors]
    more = [f"and {count - _MAX_SHOWN_ERRORS} more"] if count > _MAX_SHOWN_ERRORS else []
    return "; ".join(shown + more)
