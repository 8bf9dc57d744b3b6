"""Agents whose results and errors cannot be read, or cannot be stored."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

from coordinator import Interrupt, Outcome, RunContext
from coordinator.assistants.function import FunctionAssistant
from coordinator.assistants.values import StoredValues
from coordinator.schemas import RunRequest

OddAgent = Callable[[RunContext], Awaitable[Any]]


class UnreadableError(Exception):
    """Its text cannot be made: an attribute of it was never set."""

    detail: str

    def __str__(self) -> str:
        return self.detail


class NoText(Exception):
    def __str__(self) -> Any:
        return None  # noqa: PLE0307 - this is what is odd about it


class Unreadable:
    """An attribute of an outcome that raises when it is read."""

    def __iter__(self) -> Any:
        raise UnreadableError


async def raises_unreadable(ctx: RunContext) -> None:
    raise UnreadableError


async def raises_no_text(ctx: RunContext) -> None:
    raise NoText


async def raises_group_of_unreadable(ctx: RunContext) -> None:
    raise ExceptionGroup("several", [UnreadableError(), ValueError("the other")])


async def raises_surrogate(ctx: RunContext) -> None:
    raise ValueError("half a character: \ud83d, and NUL: \0")


async def interrupts_hold_a_lock(ctx: RunContext) -> Outcome:
    lock: Any = threading.Lock()
    return Outcome(interrupts=(Interrupt(lock, "i"),))


async def interrupts_are_dicts(ctx: RunContext) -> Any:
    interrupts: Any = ({"value": "ok?"},)
    return Outcome(interrupts=interrupts, paused=True)


async def interrupts_are_none(ctx: RunContext) -> Any:
    interrupts: Any = None
    return Outcome(result=1, interrupts=interrupts)


async def interrupts_cannot_be_read(ctx: RunContext) -> Any:
    interrupts: Any = Unreadable()
    return Outcome(result=1, interrupts=interrupts)


async def result_is_no_json(ctx: RunContext) -> Any:
    return {"client": threading.Lock()}


async def result_is_not_a_number(ctx: RunContext) -> Any:
    return {"score": float("nan")}


async def result_is_nested_too_deep(ctx: RunContext) -> Any:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


async def result_holds_itself(ctx: RunContext) -> Any:
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    return cycle


ODD_AGENTS: tuple[OddAgent, ...] = (
    raises_unreadable,
    raises_no_text,
    raises_group_of_unreadable,
    raises_surrogate,
    interrupts_hold_a_lock,
    interrupts_are_dicts,
    interrupts_are_none,
    interrupts_cannot_be_read,
    result_is_no_json,
    result_is_not_a_number,
    result_is_nested_too_deep,
    result_holds_itself,
)
"""Each of their runs ends as `error`, with a text that can be read."""


class ReturnsDict(FunctionAssistant):
    """An assistant of a user's own whose `run` returns a dict and no `Outcome`."""

    def __init__(self, states: StoredValues) -> None:
        super().__init__(raises_unreadable, states, name="returns-dict")

    async def run(self, ctx: RunContext, request: RunRequest) -> Any:
        del ctx, request
        return {"a": 1}
