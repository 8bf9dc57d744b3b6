"""Tasks whose first step is executed after their creator's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
AnyFuture: TypeAlias = asyncio.Future[Any]
"""A future of any result. Any: the type of a future's result is invariant."""


def begin_soon(
    work: Coroutine[object, object, T], *, name: str | None = None, context: Context | None = None
) -> asyncio.Task[T]:
    """Creates a task whose first step is executed in a later turn of the running loop.

    A task factory may begin earlier: with `asyncio.eager_task_factory` a task may be done before its creator
    has stored it. So this function does not use the loop's task factory.
    """
    loop = asyncio.get_running_loop()
    if loop.get_task_factory() is None:
        return loop.create_task(work, name=name, context=context)
    return asyncio.Task(work, loop=loop, name=name, context=context)
