"""Contains `sys.exit()` and KeyboardInterrupt in the code of a run. asyncio raises both out of the event
loop, which would end the process and every other run in it; contained, they end that run alone. A
KeyboardInterrupt that SIGINT raises is not contained."""

from __future__ import annotations

import asyncio
import functools
import signal
import threading
import traceback
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVar

from coordinator.context import current_run

T = TypeVar("T")


class RunExited(Exception):
    """Raised in place of SystemExit and KeyboardInterrupt."""

    def __init__(self, error: BaseException) -> None:
        what = f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"raised {error!r}"
        super().__init__(f"its code {what}, which ends nothing else")


@contextmanager
def containing() -> Generator[None]:
    """Raises RunExited if the block raises SystemExit or KeyboardInterrupt."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if by_signal(error):
            raise
        raise RunExited(error) from error


async def contained(work: Coroutine[object, object, T]) -> T:
    """Awaits `work`. Raises as `containing`."""
    with containing():
        return await work


def by_signal(error: BaseException) -> bool:
    """Whether SIGINT has raised the exception. Python's own handler leaves no trace in it: while that one is
    installed, each KeyboardInterrupt in the main thread counts as raised by the signal."""
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    handler: object = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True
    if isinstance(handler, functools.partial):
        handler = handler.func
    code = getattr(handler, "__code__", None)
    return code is not None and any(f.f_code is code for f, _ in traceback.walk_tb(error.__traceback__))


def contain_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Contains both also in tasks that the code of a run creates. For processes that serve. No effect
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
