"""Stream modes that were asked for and of which nothing came: the assistant does not have them by itself.

A function emits values, and whatever its code emits: a client that asks it for `updates` would otherwise wait
for events that never come. The stream says so in a comment at its end, which parsers skip; the log says it
once for each assistant and mode.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

from coordinator.assistants.ports import Assistant

logger = logging.getLogger(__name__)

_told: set[tuple[str, str]] = set()


class SilentModes:
    """Of one stream that was followed from its beginning."""

    def __init__(
        self,
        assistant: Assistant | None,
        modes: Collection[str] | None,
        events_of: Callable[[str], Iterable[str]],
    ) -> None:
        self._assistant = assistant
        features = frozenset[str]() if assistant is None else assistant.features
        self._silent = {
            mode: frozenset(events_of(mode))
            for mode in (() if assistant is None else modes or ())
            if mode not in features
        }

    def came(self, event: str) -> None:
        """An event of the run: `mode`, or `mode|subgraph`."""
        if self._silent:
            kind = event.partition("|")[0]
            for mode in [mode for mode, events in self._silent.items() if kind in events]:
                del self._silent[mode]

    def comment(self) -> bytes | None:
        """What to say at the end of the stream; None = nothing."""
        if not self._silent or self._assistant is None:
            return None
        name, modes = self._assistant.name, ", ".join(self._silent)
        for mode in self._silent:
            if (name, mode) not in _told:
                _told.add((name, mode))
                logger.warning(
                    "A client asked assistant %r for stream_mode %r, and the run emitted no such event:"
                    " a function has the modes values and custom, and those that its code passes to ctx.emit",
                    name,
                    mode,
                )
        text = f": no event of stream_mode {modes}: assistant {name} emits none\r\n\r\n"
        return text.encode("utf-8", "replace")
