"""Telemetry: events are passed to hooks. A hook observes; it cannot change the outcome of an operation."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from coordinator.telemetry.events import Event

__all__ = ["Event", "Hook", "Telemetry"]

logger = logging.getLogger(__name__)


class Hook(Protocol):
    """Called on the event loop for every event; must not block. Its exceptions are logged and suppressed."""

    def __call__(self, event: Event, /) -> None: ...


class Telemetry:
    """Passes each event to all hooks, in the order in which they were added."""

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self._hooks = tuple(hooks)

    def add(self, hook: Hook) -> None:
        """Adds a hook, which receives events from the next one on."""
        self._hooks = (*self._hooks, hook)

    def emit(self, event: Event) -> None:
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:
                logger.exception(
                    "Telemetry hook %r failed for event %s; it did not receive that event",
                    hook,
                    type(event).__name__,
                )
