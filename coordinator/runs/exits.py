"""Contains `sys.exit()` in the code of a run. asyncio raises SystemExit out of the event loop, which would
end the process and every other run in it; contained, it ends that run alone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

from coordinator.context import current_run

T = TypeVar("T")


class RunExited(Exception):
    """Raised in place of SystemExit."""

    def __init__(self, code: object) -> None:
        super().__init__(f"its code called sys.exit({code!r}), which ends this run alone")


async def contained(work: Coroutine[object, object, T]) -> T:
    """Awaits `work`. Raises RunExited if `work` raises SystemExit."""
    try:
        return await work
    except SystemExit as error:
        raise RunExited(error.code) from error


def contain_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Contains SystemExit also in tasks that the code of a run creates. For processes that serve. No effect
    on a loop that has a task factory already."""
    if loop.get_task_factory() is None:
        loop.set_task_factory(_make)


def _make(
    loop: asyncio.AbstractEventLoop,
    work: Any,  # Any: also a generator, as the type of task factories has it
    *,
    name: str | None = None,
    context: Context | None = None,
    **more: Any,  # Any: `eager_start` of newer Pythons
) -> asyncio.Task[Any]:  # Any: of the type that its caller awaits
    of_run = (current_run.get() if context is None else context.get(current_run)) is not None
    if of_run and asyncio.iscoroutine(work):
        work = contained(work)
    return asyncio.Task(work, loop=loop, name=name, context=context, **more)
