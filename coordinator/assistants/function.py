"""A plain `async def agent(ctx) -> result` as an Assistant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isfunction
from typing import Any, TypeAlias, cast

from coordinator.assistants.ports import Assistant, ThreadStates
from coordinator.context import RunContext
from coordinator.errors import InvalidArgument
from coordinator.schemas import Json, Outcome, RunRequest

AgentFunction: TypeAlias = Callable[[RunContext], Awaitable[Any]]


class FunctionAssistant:
    """Wraps an async function. A dict that it returns becomes the thread's values, unless the run
    has saved values itself: then its last save stands. An `Outcome` is taken as it is."""

    features = frozenset({"values", "custom"})

    def __init__(self, function: AgentFunction, states: ThreadStates) -> None:
        self.function = function
        self.states = states
        self.name = getattr(function, "__name__", type(function).__name__)

    def validate(self, request: RunRequest) -> None:
        """A function takes whatever it is given."""

    async def run(self, ctx: RunContext, request: RunRequest) -> Outcome:
        del request  # it is in the context
        result: Json = await self.function(ctx)
        if isinstance(result, Outcome):
            return result
        values = cast("Json", result) if isinstance(result, dict) and not ctx.saved else None
        return Outcome(values=values, result=result)


def as_assistant(agent: Assistant | AgentFunction, states: ThreadStates) -> Assistant:
    """Objects that implement the port are taken as they are. Raises InvalidArgument."""
    if not isfunction(agent) and isinstance(agent, Assistant):  # asked in this order: the second is slow
        return agent
    if not callable(agent):
        raise InvalidArgument(
            "agent", f"must be an async function or an Assistant, not {type(agent).__name__}"
        )
    return FunctionAssistant(agent, states)
