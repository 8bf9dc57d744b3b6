"""Task factories that users set on their loops."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

FACTORIES: dict[str, Any] = {"no factory": None}
if (eager := getattr(asyncio, "eager_task_factory", None)) is not None:  # since Python 3.12
    FACTORIES["eager"] = eager


@contextmanager
def use(name: str) -> Generator[None]:
    """All tasks of the running loop are made by it, but for those that begin before."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(FACTORIES[name])
    try:
        yield
    finally:
        loop.set_task_factory(before)
