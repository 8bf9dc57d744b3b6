"""The assistants of this process by name. A run can be executed by every worker that registers its
assistant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast
from uuid import UUID, uuid5

from coordinator import arguments as check
from coordinator.assistants.decorator import Agents, named_agents
from coordinator.assistants.function import (
    AgentFunction,
    FunctionAssistant,
    as_assistant,
    spec_of,
)
from coordinator.assistants.ports import Assistant, ThreadStates
from coordinator.assistants.values import StoredValues
from coordinator.context import RunContext
from coordinator.errors import InvalidArgument
from coordinator.schemas import Json
from stores.rows import ThreadRow

MAX_LISTED = 20
"""Assistants that an error message lists at most."""

NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""Namespace of assistant ids; must never change. Other servers of the Runs API use the same one, so that ids
stored by clients stay valid here."""


class Assistants:
    """Assistants by the `assistant_id` of runs, which may differ from the assistant's own name; the UUID of
    `id_of` is accepted as well. Complete when the worker registers: the names are stored in its row, and
    peers rely on them. Not `executed`: the worker only admits their runs, and its row names none."""

    def __init__(self, agents: Agents, states: StoredValues, *, executed: bool = True) -> None:
        self._states, self._executed = states, executed
        self._by_name: dict[str, Assistant] = {}
        self._names: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._kinds: dict[str, ThreadStates] = {states.kind: states}
        self._sealed = False
        for name, agent in named_agents(agents).items():
            self.register(agent, name=name)

    def register(self, agent: AgentFunction | Assistant, *, name: str | None = None) -> Assistant:
        """Register an agent; allowed until the worker registers. Idempotent for the same agent and name.
        Raises InvalidArgument if it is not an agent, the name is in use, or the worker has registered."""
        own_name = name or spec_of(agent).name
        new = as_assistant(agent, self._states, name=own_name)
        key = check.check_id("name", own_name or new.name)
        if (known := self._by_name.get(key)) is not None and agent in (known, _function(known)):
            return known
        if known is not None:
            raise InvalidArgument("name", f"another assistant is registered as {key!r}")
        if self._sealed:
            raise InvalidArgument(
                "agent", "register assistants before the manager opens: peers already rely on the list"
            )
        if (kind := self._kinds.setdefault(new.states.kind, new.states)) is not new.states:
            raise InvalidArgument(
                "agent", f"two state storages have the kind {kind.kind!r}: share one object"
            )
        self._by_name[key] = new
        self._ids[key] = self.id_of(key)
        self._names[self._ids[key]] = key
        return new

    def seal(self) -> tuple[str, ...]:
        """Return the names for the worker's row, and reject registrations from now on."""
        self._sealed = True
        return self.names if self._executed else ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    @property
    def listed(self) -> str:
        """For error messages: the first `MAX_LISTED` names in order; "" if there is none."""
        shown = ", ".join(repr(name) for name in sorted(self.names)[:MAX_LISTED])
        return f"{shown}, …" if len(self) > MAX_LISTED else shown

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, assistant_id: object) -> bool:
        return isinstance(assistant_id, str) and self.name_of(assistant_id) in self._by_name

    def id_of(self, name: str) -> str:
        """The UUID of an assistant's name, the same on every worker; the name need not be registered."""
        return self._ids.get(name) or str(uuid5(NAMESPACE, name))

    def graph_of(self, name: str) -> str:
        """The graph of an assistant, by the name of the assistant: another registered one if that has the
        same graph and its name, else its own name."""
        assistant = self._by_name.get(name)
        graph: str | None = getattr(assistant, "graph_id", None)  # see `Listed`
        return graph if graph is not None and graph in self._by_name else name

    def client_id(self, assistant_id: str | None) -> str | None:
        """The UUID of a run's `assistant_id`, which may be a name or a UUID."""
        return None if assistant_id is None else self.id_of(self.name_of(assistant_id) or assistant_id)

    def name_of(self, assistant_id: str | None) -> str | None:
        """The registered name for a name or UUID; an unknown one is returned unchanged."""
        if assistant_id is None or assistant_id in self._by_name:
            return assistant_id
        return self._names.get(assistant_id.lower(), assistant_id)

    def get(self, assistant_id: str | None) -> Assistant | None:
        """By name or UUID."""
        name = self.name_of(assistant_id)
        return None if name is None else self._by_name.get(name)

    def named(self, assistant_id: str | None, *, remedy: str = "") -> Assistant:
        """By name or UUID. `remedy` ends the text of the error. Raises InvalidArgument if it is not
        registered."""
        if (registered := self.get(assistant_id)) is None:
            lacks = f"no assistant is registered as {assistant_id!r:.80}"
            why = "the run has no assistant_id" if assistant_id is None else lacks
            known = f"registered are {self.listed}" if self else "none is registered"
            raise InvalidArgument("agent", f"{why}; {known}{remedy}")
        return registered

    def reading(self, assistant_id: str | None) -> Assistant:
        """The assistant that reads a thread's state; if it is not registered, one that reads the stored
        values."""
        return self.get(assistant_id) or FunctionAssistant(
            _unregistered, self._states, name=assistant_id or _unregistered.__name__
        )

    def of_thread(self, thread: ThreadRow) -> str | None:
        """The assistant_id of a thread: that of its last run. Before the first run, the registered assistant
        that its metadata names as `assistant_id` or `graph_id`, which clients set when they create it."""
        if thread.assistant_id is not None:
            return thread.assistant_id
        named = (self.name_of(thread.metadata.get(key)) for key in ("assistant_id", "graph_id"))
        return next((name for name in named if name in self), None)

    # -- storage of thread state

    @property
    def kinds(self) -> tuple[ThreadStates, ...]:
        """All registered storages, each once."""
        return tuple(self._kinds.values())

    def states_of(self, rollback_ref: Json) -> ThreadStates:
        """The storage that created a rollback_ref. Raises LookupError if this process has none of its
        kind."""
        ref = cast("dict[str, Json]", rollback_ref if isinstance(rollback_ref, dict) else {})
        kind = ref.get("kind")
        if kind is None:
            return self._states
        if kind not in self._kinds:
            raise LookupError(f"no assistant of this worker has a state storage of kind {kind!r}")
        return self._kinds[kind]


def _function(known: Assistant) -> object:
    return known.function if isinstance(known, FunctionAssistant) else known


async def _unregistered(ctx: RunContext) -> Json:
    """Placeholder of an assistant whose state is only read."""
    raise InvalidArgument("agent", f"no assistant is registered as {ctx.run.assistant_id!r}")
