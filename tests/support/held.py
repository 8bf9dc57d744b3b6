"""Calls that block until they are released, so that a test can do something else in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Held:
    """`reached` is set when the first call blocks. All calls continue when `go_on` is set. `calls`: how many
    there were."""

    def __init__(self) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self.calls = 0

    async def stand(self) -> None:
        self.calls += 1
        self.reached.set()
        await self.go_on.wait()


def hold_calls(of: Any, name: str) -> Held:
    """Every call of `of.name` blocks before it is made."""
    call, held = getattr(of, name), Held()

    async def calling(*args: Any, **kwargs: Any) -> Any:
        await held.stand()
        return await call(*args, **kwargs)

    setattr(of, name, calling)
    return held


def hold_answers(of: Any, name: str, which: Callable[[Any], bool] = lambda _: True) -> Held:
    """Every call of `of.name` is made, and blocks before it returns an answer for which `which` holds."""
    call, held = getattr(of, name), Held()

    async def answering(*args: Any, **kwargs: Any) -> Any:
        answer = await call(*args, **kwargs)
        if which(answer):
            await held.stand()
        return answer

    setattr(of, name, answering)
    return held


def called(of: Any, name: str) -> asyncio.Event:
    """The event is set when a call of `of.name`, which is no coroutine function, has returned."""
    call, over = getattr(of, name), asyncio.Event()

    def calling(*args: Any, **kwargs: Any) -> Any:
        answer = call(*args, **kwargs)
        over.set()
        return answer

    setattr(of, name, calling)
    return over
