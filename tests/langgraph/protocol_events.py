"""What a thread's stream of the Agent Streaming Protocol has, read over plain HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import httpx

Event = dict[str, Any]

ALL = ["values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom"]


async def events(raw: httpx.AsyncClient, thread: str, **request: Any) -> AsyncGenerator[Event]:
    """The events of the thread from its server, until the caller stops."""
    body = {"channels": ALL, **request}
    async with raw.stream("POST", f"/threads/{thread}/stream/events", json=body, timeout=20) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


async def until(
    raw: httpx.AsyncClient, thread: str, last: Callable[[Event], bool], **request: Any
) -> list[Event]:
    """All events up to the one for which `last` holds."""
    seen: list[Event] = []
    async with aclosing(events(raw, thread, **request)) as stream:
        async for event in stream:
            seen.append(event)
            if last(event):
                return seen
    raise AssertionError(f"the stream has ended after {seen}")


def phase(event: Event) -> str | None:
    """The lifecycle of the root that an event shows."""
    if event.get("method") != "lifecycle" or event["params"]["namespace"]:
        return None
    return event["params"]["data"]["event"]


def is_end(event: Event) -> bool:
    return phase(event) in ("completed", "failed", "interrupted")


class Ends:
    """Holds at the end of the run of that number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, event: Event) -> bool:
        self._left -= is_end(event)
        return self._left == 0


def seqs(seen: list[Event]) -> list[int]:
    return [event["seq"] for event in seen]


async def command(raw: httpx.AsyncClient, thread: str, method: str, **params: Any) -> dict[str, Any]:
    response = await raw.post(
        f"/threads/{thread}/commands", json={"id": 7, "method": method, "params": params}
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["id"] == 7
    return answer
