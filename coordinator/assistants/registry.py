"""The assistants of this process by name. What is registered can be run by any worker that knows it too."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.assistants.function import AgentFunction, as_assistant
from coordinator.assistants.ports import Assistant, ThreadStates
from coordinator.errors import InvalidArgument


class Assistants:
    """The key is the `assistant_id` of runs, whatever the assistant calls itself. Fixed once made: the
    names are written down when the worker registers, and peers rely on them."""

    def __init__(self, assistants: Mapping[str, AgentFunction | Assistant], states: ThreadStates) -> None:
        self._by_name = {name: as_assistant(agent, states) for name, agent in assistants.items()}
        self.names = tuple(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def get(self, name: str | None) -> Assistant | None:
        return None if name is None else self._by_name.get(name)

    def named(self, name: str | None) -> Assistant:
        """Raises InvalidArgument where nobody registered it."""
        if (found := self.get(name)) is None:
            raise InvalidArgument("agent", f"give one: no assistant is registered as {name!r}")
        return found
