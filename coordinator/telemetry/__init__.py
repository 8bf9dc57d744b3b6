"""What happens, told to whoever wants to know. Hooks observe; they never change an answer."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from coordinator.telemetry.events import Event

__all__ = ["Event", "Hook", "Telemetry"]

logger = logging.getLogger(__name__)


class Hook(Protocol):
    """Called on the event loop, must not block. What it raises is logged and goes no further."""

    def __call__(self, event: Event, /) -> None: ...


class Telemetry:
    """Fans events out to hooks."""

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self._hooks = tuple(hooks)

    def add(self, hook: Hook) -> None:
        """From the next event on."""
        self._hooks = (*self._hooks, hook)

    def emit(self, event: Event) -> None:
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:
                logger.exception("Telemetry hook %r failed on %s", hook, type(event).__name__)
