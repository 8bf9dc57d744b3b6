"""`@assistant` gives an async function a name and says what it takes; `named_agents` finds such functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, TypeAlias, TypeVar, cast, overload

from pydantic import BaseModel

from coordinator import arguments as check
from coordinator.assistants.function import AgentFunction, AgentSpec, spec_of
from coordinator.assistants.ports import Assistant
from coordinator.errors import InvalidArgument

F = TypeVar("F", bound=AgentFunction)

Agents: TypeAlias = Mapping[str, AgentFunction | Assistant] | Iterable[AgentFunction | Assistant]
"""By name; or such as have a name: functions with `@assistant`, objects that implement the port."""


@overload
def assistant(function: F, /) -> F: ...
@overload
def assistant(
    *, name: str | None = None, input: type[BaseModel] | None = None, description: str | None = None
) -> Callable[[F], F]: ...
def assistant(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    input: type[BaseModel] | None = None,  # noqa: A002 - the word that its users know
    description: str | None = None,
) -> F | Callable[[F], F]:
    """Name an `async def agent(ctx)`, and say what it takes. The function itself stays as it is.

    `name`: its own, if none is given. `input`: a pydantic model; a run whose input does not fit is refused
    before it is admitted, and `ctx.input` is an instance of it. `description`: for people; else its
    docstring. Raises InvalidArgument.
    """

    def mark(function: F) -> F:
        if not callable(function):
            raise InvalidArgument("agent", f"must be an async function, not {type(function).__name__}")
        own = getattr(function, "__name__", type(function).__name__)
        setattr(function, "__assistant__", AgentSpec(name or own, input, description))  # noqa: B010 - functions have no such attribute to a type checker
        return function

    if name is not None:
        check.check_id("name", name)
    return mark if function is None else mark(function)


def named_agents(found: object) -> dict[str, AgentFunction | Assistant]:
    """By name, out of a mapping; one agent or a list of agents that have names; or a module, of which
    everything counts that is marked with `@assistant` or implements the port. Raises InvalidArgument."""
    if isinstance(found, Mapping):
        return dict(cast("Mapping[str, AgentFunction | Assistant]", found))
    if isinstance(found, ModuleType):
        agents: list[Any] = [thing for thing in vars(found).values() if _name(thing) is not None]
    else:
        agents = [found] if _name(found) is not None or not isinstance(found, Iterable) else [*found]
    by_name: dict[str, AgentFunction | Assistant] = {}
    for agent in agents:
        name = _name(agent)
        if name is None:
            raise InvalidArgument("assistants", f"{agent!r:.80} has no name: use @assistant, or a mapping")
        if by_name.setdefault(name, agent) is not agent:
            raise InvalidArgument("assistants", f"two are named {name!r}")
    return by_name


def _name(agent: object) -> str | None:
    if (name := spec_of(agent).name) is not None:
        return name
    return agent.name if not isinstance(agent, type) and isinstance(agent, Assistant) else None
