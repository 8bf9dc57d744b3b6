"""Reports stream modes that a client requested and of which the run emitted no event.

A function emits only values, updates and the events of its own code, so a client that requests `tasks` of it
receives none. The stream ends with a comment about that, which parsers skip, and the log has one warning for
each assistant and mode."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

from coordinator.assistants.ports import Assistant

logger = logging.getLogger(__name__)

_logged: set[tuple[str, str]] = set()


class SilentModes:
    """The requested modes of one stream for which no event has been sent yet. Modes that are features of the
    assistant are not reported."""

    def __init__(
        self,
        assistant: Assistant | None,
        modes: Collection[str] | None,
        events_of_mode: Callable[[str], Iterable[str]],
    ) -> None:
        self._assistant = assistant
        features = frozenset[str]() if assistant is None else assistant.features
        self._silent = {
            mode: frozenset(events_of_mode(mode))
            for mode in (() if assistant is None else modes or ())
            if mode not in features
        }

    def observe(self, event: str) -> None:
        """Records an event of the run: `mode`, or `mode|subgraph`."""
        if self._silent:
            kind = event.partition("|")[0]
            for mode in [mode for mode, events in self._silent.items() if kind in events]:
                del self._silent[mode]

    def comment(self) -> bytes | None:
        """Returns the comment for the end of the stream, or None. Logs each assistant and mode once."""
        if not self._silent or self._assistant is None:
            return None
        name, modes = self._assistant.name, ", ".join(self._silent)
        for mode in self._silent:
            if (name, mode) not in _logged:
                _logged.add((name, mode))
                logger.warning(
                    "a client requested stream_mode %r of assistant %r, and the run emitted no such event:"
                    " a function has the modes values, updates and custom, and those that its code passes to"
                    " ctx.emit",
                    mode,
                    name,
                )
        text = f": no event of stream_mode {modes}: assistant {name} emits none\r\n\r\n"
        return text.encode("utf-8", "replace")
