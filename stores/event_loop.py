"""The event loop that an object with futures and tasks of its own belongs to."""

from __future__ import annotations

import asyncio
import threading

from stores.errors import WrongEventLoop


class HomeLoop:
    """The loop of the first call. Once that loop is closed, the next call brings its own, so that
    `asyncio.run` may be used several times one after another."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._loop: asyncio.AbstractEventLoop | None = None
        self._binding = threading.Lock()

    def check(self) -> None:
        """Raise WrongEventLoop where another loop runs in this thread. A caller without a running loop
        passes: it cannot await anything. Cheap, from any thread."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            return
        if here is self._loop:
            return
        with self._binding:
            if self._loop is None or self._loop.is_closed():
                self._loop = here
            elif here is not self._loop:
                raise WrongEventLoop(self._owner)
