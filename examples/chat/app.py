"""The assistant of the chat page: it counts, as slowly as a model. It needs no key and no network.

coordinator dev --assistants examples.chat.app:chat --page examples/chat/page/dist
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

from pydantic import BaseModel, Field

from coordinator import Interrupt, Outcome, RunContext, assistant

PAUSE = float(os.environ.get("CHAT_PAUSE", "0.05"))
"""Seconds between two numbers."""
SAVE_EVERY = 10
"""Numbers between two saves. What a worker that dies has counted since is counted again."""
LARGE = 1000
"""Before it counts further, the assistant requests an approval."""

Message = dict[str, Any]


class Turn(BaseModel):
    messages: list[Message] = Field(default_factory=list[Message])


@assistant(name="chat", input=Turn, retries=20)
async def chat(ctx: RunContext) -> Outcome | dict[str, Any]:
    """Counts to the number in the message, or to 40."""
    held, answer = begun(ctx)
    await ctx.save({"messages": [*held, answer] if answer["content"] else held})
    last = number_in(held[-1])
    if last > LARGE and ctx.request.command is None:
        question = Interrupt({"question": f"Count to {last}? That is a lot."}, id=ctx.run.run_id)
        return Outcome(values={"messages": held}, paused=True, interrupts=(question,))
    if ctx.request.command is not None and ctx.request.command.resume is not True:
        return {"messages": [*held, {**answer, "content": "As you wish."}]}
    try:
        await count(ctx, held, answer, last)
    except asyncio.CancelledError:
        await ctx.save({"messages": [*held, answer]})  # stopped: what was shown is kept
        raise
    return {"messages": [*held, answer]}


def begun(ctx: RunContext) -> tuple[list[Message], Message]:
    """Returns the messages before the answer, and the answer: empty, or what an attempt on another worker has
    saved of it. Its id is that of the run, so that the page replaces the answer of that attempt."""
    answer: Message = {"type": "ai", "id": ctx.run.run_id, "content": ""}
    values: Turn = Turn.model_validate(ctx.values or {})
    held = values.messages
    if held and held[-1]["id"] == answer["id"]:
        answer = held.pop()
    known = {message["id"] for message in held}
    given = ctx.input.messages if isinstance(ctx.input, Turn) else []
    return held + [message for message in given if message["id"] not in known], answer


async def count(ctx: RunContext, held: list[Message], answer: Message, last: int) -> None:
    done = len(answer["content"].split())
    if done:  # the page has counted further: begin again with what was saved
        await emit(ctx, answer, answer["content"])
    for number in range(done + 1, last + 1):
        answer["content"] += f"{number} "
        await emit(ctx, answer, f"{number} ")
        if number % SAVE_EVERY == 0:
            await ctx.save({"messages": [*held, answer]})
        await asyncio.sleep(PAUSE)


async def emit(ctx: RunContext, answer: Message, text: str) -> None:
    await ctx.emit("messages", [{"type": "AIMessageChunk", "id": answer["id"], "content": text}, {}])


def number_in(message: Message) -> int:
    match = re.search(r"\d+", str(message["content"]))
    return int(match[0]) if match else 40
