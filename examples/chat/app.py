"""A chat on a page: the gateway mounted in an app of one's own, beside the page that uses it.

    export COORDINATOR_STORE=sqlite:///chat.db COORDINATOR_REDIS=redis://localhost
    python -m examples.chat.app

Any worker answers: a message goes to one, is stopped at another, and the page is reloaded from a third.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from coordinator import RunContext, assistant, open_coordinator
from coordinator.gateway import create_gateway, serve

PAGE = Path(__file__).parent / "page"


class Question(BaseModel):
    text: str = Field(min_length=1, max_length=2000)
    words: int = Field(default=40, ge=1, le=1000, description="How long the answer is")
    pause: float = Field(default=0.08, ge=0, le=5, description="Seconds between two words")


class Thread(BaseModel):
    messages: list[dict[str, str]] = []


SAVE_EVERY = 10
"""Words between two saves. A worker that dies loses the words after its last save; a cancelled run saves its
whole answer."""


@assistant(name="chat", input=Question)
async def chat(ctx: RunContext) -> dict[str, Any]:
    """Answers word by word, as a model would."""
    question = Question.model_validate(ctx.request.input)
    thread = Thread.model_validate(ctx.values or {})
    messages = [*thread.messages, {"role": "user", "content": question.text}]
    await ctx.save({"messages": messages})
    answer = ""
    try:
        for count, word in enumerate(words(question), start=1):
            answer += f"{word} "
            await ctx.emit("messages", {"content": f"{word} "})
            if count % SAVE_EVERY == 0:
                await ctx.save({"messages": [*messages, {"role": "assistant", "content": answer}]})
            await asyncio.sleep(question.pause)
    except asyncio.CancelledError:
        await ctx.save({"messages": [*messages, {"role": "assistant", "content": answer}]})
        raise
    return {"messages": [*messages, {"role": "assistant", "content": answer}]}


def words(question: Question) -> list[str]:
    opening = [f"“{question.text}”", "is", "a", "good", "question."]
    return opening + [f"{number}," for number in range(1, question.words - len(opening) + 1)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with open_coordinator(assistants=[chat]) as manager:
        gateway = create_gateway(manager)
        async with gateway.running():
            app.mount("/api", gateway)
            app.mount("/", StaticFiles(directory=PAGE, html=True))
            yield


app = FastAPI(lifespan=lifespan)

if __name__ == "__main__":
    serve("examples.chat.app:app", workers=3)  # uvicorn, and at SIGTERM runs are drained first
