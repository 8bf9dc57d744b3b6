"""The event loop to which an object with futures and tasks belongs."""

from __future__ import annotations

import asyncio
import threading

from stores.errors import WrongEventLoop


class HomeLoop:
    """The loop of the first call. After that loop is closed, the loop of the next call replaces it, so that
    `asyncio.run` may be called several times in succession."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._loop: asyncio.AbstractEventLoop | None = None
        self._binding = threading.Lock()

    def check(self) -> None:
        """Raises WrongEventLoop if another loop runs in this thread. A caller without a running loop is
        accepted, because it cannot await anything. Cheap; may be called from any thread."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return
        if running is self._loop:
            return
        with self._binding:
            if self._loop is None or self._loop.is_closed():
                self._loop = running
            elif running is not self._loop:
                raise WrongEventLoop(self._owner)
