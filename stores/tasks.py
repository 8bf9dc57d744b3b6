"""Tasks whose maker may store something about them before they begin."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


def begin_soon(
    work: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
) -> asyncio.Task[T]:
    """A task whose first step comes in a later turn of the running loop.

    A task factory of the loop's may do otherwise: with `asyncio.eager_task_factory` a task has begun, and may
    be over, before its maker has got it. So where there is one it is passed by.
    """
    loop = asyncio.get_running_loop()
    if loop.get_task_factory() is None:
        return loop.create_task(work, name=name, context=context)
    return asyncio.Task(work, loop=loop, name=name, context=context)
