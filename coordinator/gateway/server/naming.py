"""MODULE:OBJECT: where a server finds its assistants, and what is wrong where it does not."""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Mapping
from importlib import import_module
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, cast

from coordinator.assistants.function import AgentFunction
from coordinator.assistants.ports import Assistant
from coordinator.gateway.server.failures import CannotServe

Named = dict[str, AgentFunction | Assistant]

_FORM = "Write it as MODULE:OBJECT, such as my_agents:assistants, where OBJECT maps names to async functions"


def assistants_at(place: str) -> Named:
    """A mapping of names to async functions or assistants; one alone goes by its own name. The working
    folder is looked in first. Raises CannotServe."""
    module_name, colon, attribute = place.partition(":")
    if not (module_name and colon and attribute) or "/" in module_name:
        raise CannotServe(f"--assistants {place!r} does not name an object of a module", _FORM)
    module = _imported(module_name)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise CannotServe(f"module {module_name!r} has no {attribute!r}", _like(part, found))
        found = getattr(found, part)
    return _named(place, found)


def _imported(name: str) -> object:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise CannotServe(
                f"there is no module {name!r} in {folder}, nor is one installed",
                "Start in the folder that holds it, or put that folder on PYTHONPATH",
            ) from None
        raise _broken(name, error) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever their module raises, SystemExit too, is theirs to mend
        raise _broken(name, error) from None


def _broken(name: str, error: BaseException) -> CannotServe:
    """Where in their own code it happened: the deepest line below the import machinery."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        where = f"{error.filename}, line {error.lineno}"
    else:
        frames = [one for one in traceback.extract_tb(error.__traceback__) if "importlib" not in one.filename]
        where = f"{frames[-1].filename}, line {frames[-1].lineno}" if len(frames) > 1 else name
    said = str(error.msg if isinstance(error, SyntaxError) else error)
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return CannotServe(f"importing {name!r} raised {what} ({where})", f"Try: python -c 'import {name}'")


def _like(name: str, owner: object) -> str:
    public = [one for one in dir(owner) if not one.startswith("_")]
    near = difflib.get_close_matches(name, public, n=1)
    return f"Is it {near[0]!r}?" if near else _FORM


def _named(place: str, found: object) -> Named:
    if isinstance(found, Mapping):
        entries = cast("Mapping[object, object]", found)
        if not entries:
            raise CannotServe(f"{place} maps no name to an assistant", _FORM)
        return {_name(place, name): _runnable(f"{place}[{name!r}]", agent) for name, agent in entries.items()}
    agent = _runnable(place, found)
    name = (
        agent.name if isinstance(agent, Assistant) else getattr(agent, "__name__", place.rpartition(":")[2])
    )
    return {name: agent}


def _name(place: str, name: object) -> str:
    if isinstance(name, str) and name:
        return name
    raise CannotServe(f"{place} has {name!r} for a name: names are texts", _FORM)


def _runnable(place: str, agent: object) -> AgentFunction | Assistant:
    if iscoroutinefunction(agent) or iscoroutinefunction(getattr(agent, "__call__", None)):  # noqa: B004
        return cast("AgentFunction", agent)
    if not isinstance(agent, type) and isinstance(agent, Assistant):
        return agent
    if callable(agent):
        raise CannotServe(f"{place} is a {type(agent).__name__} that is not async", "Write it as async def")
    raise CannotServe(f"{place} is of type {type(agent).__name__}, not an assistant", _FORM)
