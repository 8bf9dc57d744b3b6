"""`@assistant` names an async function and declares its input; `named_agents` collects such functions."""

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
"""A mapping from names; or named agents: functions with `@assistant`, objects that implement the port."""


@overload
def assistant(function: F, /) -> F: ...
@overload
def assistant(
    *,
    name: str | None = None,
    input: type[BaseModel] | None = None,
    description: str | None = None,
    retries: int = 0,
) -> Callable[[F], F]: ...
def assistant(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    input: type[BaseModel] | None = None,  # noqa: A002 - the public name of the option
    description: str | None = None,
    retries: int = 0,
) -> F | Callable[[F], F]:
    """Register name and input of an `async def agent(ctx)`. Returns the function unchanged.

    `name` defaults to the function's name. `input`: a pydantic model; a run with invalid input is rejected at
    admission, and `ctx.input` is an instance of the model. `description` defaults to the docstring.
    `retries`: how often a run is continued after a death of its worker, with `ctx.attempt` > 1 and the values
    that were saved before. Raises InvalidArgument.
    """
    check.check_retries(retries)

    def mark(function: F) -> F:
        if not callable(function):
            raise InvalidArgument("agent", f"must be an async function, not {type(function).__name__}")
        own = getattr(function, "__name__", type(function).__name__)
        setattr(function, "__assistant__", AgentSpec(name or own, input, description, retries))  # noqa: B010 - type checkers reject an assignment to this attribute
        return function

    if name is not None:
        check.check_id("name", name)
    return mark if function is None else mark(function)


def named_agents(source: object) -> dict[str, AgentFunction | Assistant]:
    """Return agents by name. `source`: a mapping; one named agent or a list of them; or a module, of which
    all objects marked with `@assistant` or implementing the port are taken. Raises InvalidArgument."""
    if isinstance(source, str | bytes):
        kind = type(source).__name__
        raise InvalidArgument("assistants", f"must be a mapping from names to agents, or agents, not {kind}")
    if isinstance(source, Mapping):
        return dict(cast("Mapping[str, AgentFunction | Assistant]", source))
    if isinstance(source, ModuleType):
        # Any: what is marked as an agent is callable, or has `run`.
        agents: list[Any] = [member for member in vars(source).values() if _name(member) is not None]
    else:
        agents = [source] if _name(source) is not None or not isinstance(source, Iterable) else [*source]
    by_name: dict[str, AgentFunction | Assistant] = {}
    for agent in agents:
        name = _name(agent)
        if name is None:
            raise InvalidArgument("assistants", f"{agent!r:.80} has no name: use @assistant, or a mapping")
        if by_name.setdefault(name, agent) is not agent:
            raise InvalidArgument("assistants", f"two agents are named {name!r}")
    return by_name


def _name(agent: object) -> str | None:
    if (name := spec_of(agent).name) is not None:
        return name
    return agent.name if not isinstance(agent, type) and isinstance(agent, Assistant) else None
