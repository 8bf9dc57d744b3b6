"""Resolves MODULE:OBJECT names to assistants or an ASGI app, and explains why a name cannot be resolved."""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Mapping
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
from coordinator.langgraph.extension import NO_EXTENSION, Extension

Named = dict[str, AgentFunction | Assistant]

_FORM = "Write it as MODULE:OBJECT, such as my_agents:assistants, where OBJECT maps names to async functions"

_APP_FORM = "Write it as MODULE:OBJECT, such as my_package.app:app"


def project_at(target: str, store: str) -> tuple[Named, Extension]:
    """Imports the assistants that `target` names, with the working folder first on sys.path, and what it adds
    to the gateway.

    The object is one of: a mapping of names to async functions, assistants or graphs, a list of named ones, a
    module that contains named ones, or a single one, registered under its own name. Instead, `target` may be
    the path of a langgraph.json, which alone may add something. `store`: URL of the store, beside which
    graphs keep their state. Raises CannotServe."""
    if target.endswith(".json"):
        return _configured_at(target, store)
    provided = _object_at(target, f"--assistants {target!r}", _FORM)
    return _named(target, _with_graphs_adapted(target, provided, store)), NO_EXTENSION


def _configured_at(path: str, store: str) -> tuple[Named, Extension]:
    try:
        from coordinator.langgraph.serving import project_of  # noqa: PLC0415 - an extra, and slow to import

        assistants, extension = project_of(Path(path), store)
        return dict(assistants), extension
    except InvalidArgument as error:
        raise CannotServe(str(error)) from None
    except ImportError as error:
        raise _not_installed(error) from None


def page_at(target: str) -> Path | None:
    """Returns the folder of the page if `target` is the path of a langgraph.json that names one."""
    if not target.endswith(".json"):
        return None
    from coordinator.langgraph.config import page_of  # noqa: PLC0415 - an extra

    return page_of(Path(target))


def _with_graphs_adapted(target: str, provided: object, store: str) -> object:
    """Returns `provided` with assistants in place of graphs, which only exist if langgraph was imported."""
    if "langgraph" not in sys.modules:
        return provided
    try:
        from coordinator.langgraph.loading import is_graph  # noqa: PLC0415 - an extra, and slow to import
        from coordinator.langgraph.serving import adapted  # noqa: PLC0415 - the same

        named = {target.rpartition(".")[2].rpartition(":")[2]: provided} if is_graph(provided) else provided
        if not isinstance(named, Mapping):
            return provided
        given = cast("Mapping[str, object]", named)
        graphs = {name: one for name, one in given.items() if is_graph(one)}
        return {**given, **adapted(graphs, store)} if graphs else provided
    except InvalidArgument as error:
        raise CannotServe(f"{target}: {error}") from None
    except ImportError as error:
        raise _not_installed(error) from None


def _not_installed(error: ImportError) -> CannotServe:
    return CannotServe(
        f"graphs need the extra langgraph: {error}",
        "Install it with: pip install 'run-coordinator[gateway,langgraph]'",
    )


def app_at(target: str) -> App:
    """Imports the ASGI app that `target` names. Raises CannotServe."""
    app = _object_at(target, f"the app {target!r}", _APP_FORM)
    if not callable(app):
        raise CannotServe(f"{target} is of type {type(app).__name__}, not an ASGI app", _APP_FORM)
    return cast("App", app)


def _object_at(target: str, description: str, form: str) -> object:
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute) or "/" in module_name:
        raise CannotServe(f"{description} does not name an object of a module", form)
    resolved: Any = _imported(module_name)  # Any: a module, then its attributes
    for part in attribute.split("."):
        if not hasattr(resolved, part):
            raise CannotServe(
                f"module {module_name!r} has no {attribute!r}", _suggestion(part, resolved, form)
            )
        resolved = getattr(resolved, part)
    return cast("object", resolved)


def _imported(name: str) -> object:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise CannotServe(
                f"module {name!r} does not exist in {folder} and is not installed",
                "Start in the folder that contains it, or put that folder on PYTHONPATH",
            ) from None
        raise _import_failed(name, error) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - any exception of the user's module is reported, also SystemExit
        raise _import_failed(name, error) from None


def _import_failed(name: str, error: BaseException) -> CannotServe:
    """Names the deepest frame outside the import machinery, which is in the user's code."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        location = f"{error.filename}, line {error.lineno}"
    else:
        frames = [one for one in traceback.extract_tb(error.__traceback__) if "importlib" not in one.filename]
        location = f"{frames[-1].filename}, line {frames[-1].lineno}" if len(frames) > 1 else name
    text = str(error.msg if isinstance(error, SyntaxError) else error)
    description = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return CannotServe(
        f"importing {name!r} raised {description} ({location})", f"Try: python -c 'import {name}'"
    )


def _suggestion(name: str, owner: object, form: str) -> str:
    public = [one for one in dir(owner) if not one.startswith("_")]
    near = difflib.get_close_matches(name, public, n=1)
    return f"Is it {near[0]!r}?" if near else form


def _named(target: str, provided: object) -> Named:
    try:
        named = {_own_name(target, provided): provided} if isfunction(provided) else named_agents(provided)
    except InvalidArgument as error:
        raise CannotServe(f"{target}: {error}", _FORM) from None
    if not named:
        raise CannotServe(f"{target} names no assistant", _FORM)
    for name, agent in named.items():
        _check_agent(target if agent is provided else f"{target}[{name!r}]", name, agent)
    return cast("Named", named)


def _own_name(target: str, function: object) -> str:
    """Returns the decorator's name for `function`, else the function's own."""
    return spec_of(function).name or getattr(function, "__name__", target)


def _check_agent(target: str, name: object, agent: object) -> None:
    if not isinstance(name, str) or not name:
        raise CannotServe(f"{target} has {name!r} as a name: names are non-empty strings", _FORM)
    if (unfit := unfit_function(agent)) is not None:
        raise CannotServe(f"{target} {unfit.why}", unfit.remedy)
    if iscoroutinefunction(agent) or iscoroutinefunction(getattr(agent, "__call__", None)):  # noqa: B004 - an object whose call is a coroutine function
        return
    if not isinstance(agent, type) and isinstance(agent, Assistant):
        return
    if callable(agent):
        raise CannotServe(f"{target} is a {type(agent).__name__} that is not async", "Write it as async def")
    raise CannotServe(f"{target} is of type {type(agent).__name__}, not an assistant", _FORM)
