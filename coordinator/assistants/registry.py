"""The assistants of this process by name. What is registered can be run by any worker that knows it too."""

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
    unfit_function,
)
from coordinator.assistants.ports import Assistant, ThreadStates
from coordinator.assistants.values import StoredValues
from coordinator.context import RunContext
from coordinator.errors import InvalidArgument
from coordinator.schemas import Json

NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""Ids are the same in every process and for ever. This one is used by other servers of the Runs API as well,
so that an id which a client has written down means the same assistant here."""


class Assistants:
    """The key is the `assistant_id` of runs, whatever the assistant calls itself; its `id_of` is taken
    for it everywhere. Complete when the worker registers: the names are written down there, and peers
    rely on them."""

    def __init__(self, agents: Agents, states: StoredValues) -> None:
        self._states = states
        self._by_name: dict[str, Assistant] = {}
        self._names: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._kinds: dict[str, ThreadStates] = {states.kind: states}
        self._sealed = False
        for name, agent in named_agents(agents).items():
            self.register(agent, name=name)

    def register(self, agent: AgentFunction | Assistant, *, name: str | None = None) -> Assistant:
        """Before the worker registers. The same agent under the same name again changes nothing. Raises
        InvalidArgument: no agent, a name that is taken, or too late."""
        given = name or spec_of(agent).name
        new = as_assistant(agent, self._states, name=given)
        key = check.check_id("name", given or new.name)
        if isinstance(new, FunctionAssistant) and (unfit := unfit_function(agent)) is not None:
            named = getattr(agent, "__qualname__", type(agent).__qualname__)
            raise InvalidArgument("agent", f"{named} {unfit.why}. {unfit.remedy}")
        if (known := self._by_name.get(key)) is not None and agent in (known, _function(known)):
            return known
        if known is not None:
            raise InvalidArgument("name", f"another assistant is registered as {key!r}")
        if self._sealed:
            raise InvalidArgument("agent", "register assistants before the manager opens: peers were told")
        if (kind := self._kinds.setdefault(new.states.kind, new.states)) is not new.states:
            raise InvalidArgument("agent", f"two stores of state are of the kind {kind.kind!r}: share one")
        self._by_name[key] = new
        self._ids[key] = self.id_of(key)
        self._names[self._ids[key]] = key
        return new

    def seal(self) -> tuple[str, ...]:
        """For the worker that registers now: the names, to which none is added from here on."""
        self._sealed = True
        return self.names

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, assistant_id: object) -> bool:
        return isinstance(assistant_id, str) and self.name_of(assistant_id) in self._by_name

    def id_of(self, name: str) -> str:
        """The UUID of an assistant's name, registered or not: the same on every worker."""
        return self._ids.get(name) or str(uuid5(NAMESPACE, name))

    def client_id(self, assistant_id: str | None) -> str | None:
        """The UUID of what a run carries as its assistant."""
        return None if assistant_id is None else self.id_of(self.name_of(assistant_id) or assistant_id)

    def name_of(self, assistant_id: str | None) -> str | None:
        """The name that is registered under this name or UUID; what is not known stays as it is."""
        if assistant_id is None or assistant_id in self._by_name:
            return assistant_id
        return self._names.get(assistant_id.lower(), assistant_id)

    def get(self, assistant_id: str | None) -> Assistant | None:
        """By name or UUID."""
        name = self.name_of(assistant_id)
        return None if name is None else self._by_name.get(name)

    def named(self, assistant_id: str | None) -> Assistant:
        """By name or UUID. Raises InvalidArgument where nobody registered it."""
        if (found := self.get(assistant_id)) is None:
            raise InvalidArgument("agent", f"give one: no assistant is registered as {assistant_id!r}")
        return found

    def reading(self, assistant_id: str | None) -> Assistant:
        """For the state of a thread: where its assistant is not known here, the stored values are read."""
        return self.get(assistant_id) or FunctionAssistant(
            _nobody, self._states, name=assistant_id or _nobody.__name__
        )

    # -- where threads keep their state

    @property
    def kinds(self) -> tuple[ThreadStates, ...]:
        """Each once."""
        return tuple(self._kinds.values())

    def states_of(self, rollback_ref: Json) -> ThreadStates:
        """Whose reference this is. Raises LookupError for one that is not known in this process."""
        ref = cast("dict[str, Json]", rollback_ref if isinstance(rollback_ref, dict) else {})
        kind = ref.get("kind")
        if kind is None:
            return self._states
        if kind not in self._kinds:
            raise LookupError(f"no assistant of this worker keeps state of the kind {kind!r}")
        return self._kinds[kind]


def _function(known: Assistant) -> object:
    return known.function if isinstance(known, FunctionAssistant) else known


async def _nobody(ctx: RunContext) -> Json:
    """Only read from, never run."""
    raise InvalidArgument("agent", f"no assistant is registered as {ctx.run.assistant_id!r}")
