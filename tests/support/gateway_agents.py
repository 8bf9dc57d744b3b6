"""Assistants that gateways under test offer, besides the demo."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from coordinator import RunContext
from coordinator.assistants.demo import agent
from coordinator.schemas import Interrupt, Outcome

UNWINDING = 0.1
"""Seconds."""


GATES: dict[str, asyncio.Event] = {}
"""Opened by the test that closed them, for runs of the same process."""


def _log(ctx: RunContext) -> list[str]:
    values: Any = ctx.values or {}
    return list(values.get("log", []))


async def _is_there(file: str) -> None:
    """A gate for runs of any process."""
    while not Path(file).exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.01)


async def gated(ctx: RunContext) -> dict[str, Any]:
    """Emits "waiting", waits for its gate (`gate`), or until a file is there (`until`), and emits
    "through"."""
    given: Any = ctx.input or {}
    log = _log(ctx)
    await ctx.emit("custom", "waiting")
    if file := given.get("until"):
        await _is_there(file)
    else:
        await GATES.setdefault(given["gate"], asyncio.Event()).wait()
    await ctx.emit("custom", "through")
    return {"log": [*log, f"{given.get('tag', 'run')}:through"]}


async def talker(ctx: RunContext) -> Outcome:
    """Emits an event of every kind, `times` times."""
    given: Any = ctx.input or {}
    for number in range(given.get("times", 1)):
        await ctx.emit("custom", {"number": number})
        await ctx.emit("messages", [{"content": f"word {number}"}, {}])
        await ctx.emit("messages/partial", [{"content": f"word {number}"}])
        await ctx.emit("updates", {"node": {"number": number}})
        await ctx.emit("updates|child:1", {"node": {"number": number}})
        await ctx.save({"number": number})
        await asyncio.sleep(given.get("sleep", 0))
    return Outcome(result={"number": given.get("times", 1)})


async def slow_to_stop(ctx: RunContext) -> dict[str, Any]:
    """Unwinds for `UNWINDING` when it is cancelled, or until a file is there (`until`)."""
    given: Any = ctx.input or {}
    values = {"log": [*_log(ctx), f"{given.get('tag', 'run')}:begun"]}
    await ctx.save(values)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await (_is_there(file) if (file := given.get("until")) else asyncio.sleep(UNWINDING))
        raise
    return values


async def asker(ctx: RunContext) -> Outcome:
    """Pauses with a question; resumed, it is done."""
    if ctx.request.command is not None:
        return Outcome(values={"answer": ctx.request.command.resume})
    return Outcome(values={"waits_for_answer": True}, paused=True, interrupts=(Interrupt("really?", "q1"),))


async def echo(ctx: RunContext) -> dict[str, Any]:
    """Returns the kwargs and the metadata of its run."""
    return {"kwargs": ctx.run.kwargs, "metadata": ctx.run.metadata}


async def words(ctx: RunContext) -> str:
    """Returns a string instead of an object."""
    del ctx
    return "just text"


async def surrogates(ctx: RunContext) -> dict[str, Any]:
    """Emits, saves and returns half a character."""
    await ctx.emit("custom", {"text": "\ud800 half"})
    await ctx.save({"text": "\ud800 half"})
    return {"text": "\ud800 half"}


AGENTS: dict[str, Any] = {
    "agent": agent,
    "gated": gated,
    "talker": talker,
    "slow_to_stop": slow_to_stop,
    "asker": asker,
    "echo": echo,
    "words": words,
    "surrogates": surrogates,
}
