"""A chat model that needs neither a key nor a network: it answers by rules, token by token."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

HELP = (
    "I am the desk of a small shop, and I follow rules instead of a model. Try one of these:\n\n"
    "- refund 20 for order 7\n"
    "- refund 250 for order 1042 (needs your approval)\n"
    "- where is order 1042?\n"
    "- research return policies\n"
    "- count to 100\n"
    "- crash (an error of the model)"
)


class RuleModel(BaseChatModel):
    """Streams the reply of `reply_to`. Any other chat model with the tools of `agent.py` takes its place."""

    pause: float = float(os.environ.get("DESK_PAUSE", "0.03"))
    """Seconds between two tokens."""

    @property
    def _llm_type(self) -> str:
        return "rules"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=reply_to(messages))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for message in chunks_of(reply_to(messages)):
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                await run_manager.on_llm_new_token(str(message.content), chunk=chunk)
            yield chunk
            await asyncio.sleep(self.pause)


def chunks_of(reply: AIMessage) -> Iterator[AIMessageChunk]:
    for token in re.findall(r"\S+\s*|\s+", str(reply.content)):
        yield AIMessageChunk(content=token)
    for index, call in enumerate(reply.tool_calls):
        args = ", ".join(f'"{name}": {_json(value)}' for name, value in call["args"].items())
        part = tool_call_chunk(name=call["name"], args=f"{{{args}}}", id=call["id"], index=index)
        yield AIMessageChunk(content="", tool_call_chunks=[part])


def _json(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


# -- the rules

TOOLS = {
    "refund": r"refund (?P<amount>\d+) for order (?P<order>\d+)",
    "order_status": r"where is order (?P<order>\d+)",
    "research": r"research (?P<topic>\w[\w ,'-]*)",
}
"""The question that calls a tool, with the arguments of the call."""


def reply_to(messages: list[BaseMessage]) -> AIMessage:
    last = messages[-1] if messages else None
    if isinstance(last, ToolMessage):
        return AIMessage(str(last.content))
    text = str(last.content).strip().rstrip("?.!") if isinstance(last, HumanMessage) else ""
    for tool, pattern in TOOLS.items():
        if match := re.search(pattern, text, re.IGNORECASE):
            return _call(tool, match.groupdict())
    return AIMessage(_text(text))


def _text(question: str) -> str:
    if question.lower() == "crash":
        raise ConnectionError("the model does not answer")
    if match := re.search(r"count to (\d{1,4})", question, re.IGNORECASE):
        return " ".join(str(number) for number in range(1, int(match[1]) + 1))
    if question.startswith("summarise:"):
        return f"In short: {question.removeprefix('summarise:').strip()}"
    return HELP


def _call(tool: str, args: dict[str, str]) -> AIMessage:
    typed = {name: int(value) if value.isdecimal() else value for name, value in args.items()}
    call = {"name": tool, "args": typed, "id": f"call_{uuid4().hex[:12]}", "type": "tool_call"}
    return AIMessage("", tool_calls=[call])
