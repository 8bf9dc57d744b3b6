"""MODULE:OBJECT: where a server finds its assistants, and what is wrong where it does not."""

from __future__ import annotations

import difflib
import sys
import traceback
from importlib import import_module
from inspect import iscoroutinefunction, isfunction
from pathlib import Path
from typing import Any, cast

from coordinator.assistants.decorator import named_agents
from coordinator.assistants.function import AgentFunction, spec_of, unfit_function
from coordinator.assistants.ports import Assistant
from coordinator.errors import InvalidArgument
from coordinator.gateway.server.failures import CannotServe
from coordinator.gateway.server.serving import App

Named = dict[str, AgentFunction | Assistant]

_FORM = "Write it as MODULE:OBJECT, such as my_agents:assistants, where OBJECT maps names to async functions"

_FORM_OF_APPS = "Write it as MODULE:OBJECT, such as my_package.app:app"


def assistants_at(place: str) -> Named:
    """A mapping of names to async functions or assistants, a list of such as have a name, a module with such,
    or one alone, which goes by its own name. The working folder is looked in first. Raises CannotServe."""
    return _named(place, _object_at(place, f"--assistants {place!r}", _FORM))


def app_at(place: str) -> App:
    """Raises CannotServe."""
    found = _object_at(place, f"the app {place!r}", _FORM_OF_APPS)
    if not callable(found):
        raise CannotServe(f"{place} is of type {type(found).__name__}, not an ASGI app", _FORM_OF_APPS)
    return cast("App", found)


def _object_at(place: str, what: str, form: str) -> object:
    module_name, colon, attribute = place.partition(":")
    if not (module_name and colon and attribute) or "/" in module_name:
        raise CannotServe(f"{what} does not name an object of a module", form)
    found: Any = _imported(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise CannotServe(f"module {module_name!r} has no {attribute!r}", _like(part, found, form))
        found = getattr(found, part)
    return cast("object", found)


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


def _like(name: str, owner: object, form: str) -> str:
    public = [one for one in dir(owner) if not one.startswith("_")]
    near = difflib.get_close_matches(name, public, n=1)
    return f"Is it {near[0]!r}?" if near else form


def _named(place: str, found: object) -> Named:
    try:
        named = {_own_name(place, found): found} if isfunction(found) else named_agents(found)
    except InvalidArgument as error:
        raise CannotServe(f"{place}: {error}", _FORM) from None
    if not named:
        raise CannotServe(f"{place} names no assistant", _FORM)
    for name, agent in named.items():
        _check(place if agent is found else f"{place}[{name!r}]", name, agent)
    return cast("Named", named)


def _own_name(place: str, function: object) -> str:
    """Of one that may do without a decorator."""
    return spec_of(function).name or getattr(function, "__name__", place)


def _check(place: str, name: object, agent: object) -> None:
    if not isinstance(name, str) or not name:
        raise CannotServe(f"{place} has {name!r} for a name: names are texts", _FORM)
    if (unfit := unfit_function(agent)) is not None:
        raise CannotServe(f"{place} {unfit.why}", unfit.remedy)
    if iscoroutinefunction(agent) or iscoroutinefunction(getattr(agent, "__call__", None)):  # noqa: B004 - an object whose call is a coroutine function
        return
    if not isinstance(agent, type) and isinstance(agent, Assistant):
        return
    if callable(agent):
        raise CannotServe(f"{place} is a {type(agent).__name__} that is not async", "Write it as async def")
    raise CannotServe(f"{place} is of type {type(agent).__name__}, not an assistant", _FORM)
