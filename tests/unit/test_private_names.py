"""What the product relies on inside its dependencies, and that nothing else is relied on.

A dependency may change a private name in any release. So each is listed here with its reason and has an upper
bound in pyproject.toml, and a scan finds those that are not listed. Names of the standard library cannot be
bounded: where they are missing the product has to do without.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import coordinator
import stores

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Use(NamedTuple):
    """`package` None: the standard library."""

    module: str
    name: str
    package: str | None
    why: str


_REDIS, _UVICORN = "coordinator.redis.connections", "coordinator.gateway.server.protocol"
_GRAPHS, _AUTH = "coordinator.langgraph.state_types", "coordinator.langgraph.auth"

PRIVATE = (
    Use(_REDIS, "_connection_arguments", "redis", "connects to an address that was looked up before"),
    Use(_REDIS, "_reader", "redis", "the stream of an open connection, which no public part has"),
    Use(_REDIS, "_writer", "redis", "its transport: all calls of one turn of the loop are one write"),
    Use(_UVICORN, "_unset_keepalive_if_required", "uvicorn", "phases bound the time between two requests"),
    Use("coordinator.gateway.server.sockets", "_types", "uvicorn", "the type of a method, for the checker"),
    Use(_GRAPHS, "_internal", "langgraph", "holds the next one"),
    Use(
        _GRAPHS,
        "_serde",
        "langgraph",
        "finds the types in states, which checkpoints may contain",
    ),
    Use(
        "coordinator.langgraph.stores",
        "_task",
        "langgraph-checkpoint",
        "ends with the store, not when it is collected",
    ),
    Use(
        _AUTH, "_authenticate_handler", "langgraph-sdk", "the user's function, of which nothing public reads"
    ),
    Use(_AUTH, "_handlers", "langgraph-sdk", "the same, by resource and action"),
    Use(_AUTH, "_global_handlers", "langgraph-sdk", "the same, for all of them"),
    Use("coordinator.workers.stall", "_context", None, "names the run that stalls the loop"),
    Use("coordinator.runs.task_cancel", "_cancel_message", None, "finds a cancel that was swallowed"),
)
"""Private names of dependencies."""

DOCUMENTED = {"_asdict", "_replace", "_fields", "_make", "_exit", "_current_frames", "_name_", "_value_"}
"""Underscores that are public: of named tuples, `os`, `sys` and enumerations."""

METACLASS = {"_abc_impl", "_is_protocol"}
"""Set by Python in every class."""

OWN = {
    ("coordinator.servers.postgres", "_run"),
    ("coordinator.servers.postgres", "_write_settings"),
    ("coordinator.servers.postgres", "_data"),
    ("coordinator.testing.store", "_cx"),
    ("coordinator.testing.store", "_alone"),
    ("coordinator.testing.store", "_now"),
    ("stores.plain", "_cx"),
    ("stores.plain", "_alone"),
}
"""Of other objects of the same class, or of its base."""

UNDOCUMENTED: dict[str, tuple[str, set[str]]] = {
    "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol": (
        "uvicorn",
        {
            "client", "connections", "cycle", "data_received", "expect_100_continue", "flow", "headers",
            "loop",
            "on_body", "on_header", "on_headers_complete", "on_message_begin", "on_message_complete",
            "on_response_complete", "parser", "pipeline", "send_400_response", "server_state", "shutdown",
            "transport",
        },
    ),
    "uvicorn.protocols.http.httptools_impl.RequestResponseCycle": (
        "uvicorn",
        {"disconnected", "message_event", "response_complete", "response_started"},
    ),
    "uvicorn.Server": (
        "uvicorn",
        {"capture_signals", "lifespan", "server_state", "servers", "should_exit", "started", "startup"},
    ),
    "fastapi.routing.APIRoute": (
        "fastapi",
        {"endpoint", "methods", "name", "param_convertors", "path", "path_format", "path_regex"},
    ),
    "redis.asyncio.SSLConnection": ("redis", {"ssl_context"}),
}  # fmt: skip
"""Parts without an underscore that no documentation promises."""


# -- what is listed is there


@cache
def source_of(kind: type) -> ast.Module:
    """Empty where a class has none, or hides its module."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):
        return ast.Module([], [])


def own_names(kind: type[object]) -> set[str]:
    """Of the class, and of its instances as far as its methods set them."""
    assigned = {
        node.attr
        for node in ast.walk(source_of(kind))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value)
    }
    return assigned | vars(kind).keys() | set(getattr(kind, "__annotations__", ()))


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", UNDOCUMENTED)
def test_undocumented_parts_are_there(path: str) -> None:
    kind: type = of(path)
    there = {name for base in kind.__mro__ for name in own_names(base)}
    assert not UNDOCUMENTED[path][1] - there


def test_private_names_of_redis_are_there() -> None:
    from redis.asyncio import Connection, SSLConnection

    from coordinator.redis.connections import check_library

    assert hasattr(Connection, "_connection_arguments")
    assert hasattr(SSLConnection, "_connection_arguments")
    check_library(Connection())


def test_private_names_of_the_standard_library_are_there() -> None:
    """Without them a stall names no run, and a swallowed cancel may be missed."""
    import asyncio

    loop = asyncio.new_event_loop()
    handle = loop.call_soon(print)
    try:
        assert hasattr(handle, "_context")

        async def nothing() -> None:
            pass

        task = loop.create_task(nothing())
        assert hasattr(task, "_cancel_message")
        loop.run_until_complete(task)
    finally:
        handle.cancel()
        loop.close()


def test_route_is_matched_by_what_the_lazy_one_sets() -> None:
    """`LazyRoute` leaves out `APIRoute.__init__`; starlette matches with these alone."""
    from coordinator.gateway.lazy import LazyRoute

    def endpoint() -> None: ...

    route = LazyRoute("/a/{b}", endpoint)
    scope: dict[str, Any] = {"type": "http", "path": "/a/1", "method": "GET", "headers": []}
    match, child = route.matches(scope)
    assert match.name == "FULL"
    assert child["path_params"] == {"b": "1"}
    assert "dependant" not in vars(route)


# -- nothing else is relied on


def modules() -> Iterator[str]:
    for package in (coordinator, stores):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                yield module.name


MODULES = sorted(modules())


def tree_of(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text())


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def names_of_others(tree: ast.Module) -> Iterator[str]:
    """Private names of anything but `self`: behind a dot, in a string, or imported from elsewhere."""
    for node in ast.walk(tree):
        yield from (name for name in names_in(node) if is_private(name))


def names_in(node: ast.AST) -> list[str]:
    match node:
        case ast.Attribute(value=value, attr=name) if not is_self(value) and ast.unparse(value) != "super()":
            return [name]
        case ast.Call(
            func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"),
            args=[_, ast.Constant(value=str(name)), *_],
        ):
            return [name]
        case ast.ImportFrom(module=str(source), names=imported):
            return [*source.split("."), *(alias.name for alias in imported)]
        case ast.Import(names=imported):
            return [part for alias in imported for part in alias.name.split(".")]
        case _:
            return []


def root_of(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def names_of_bases(module: str) -> Iterator[str]:
    """Private names of classes of dependencies that their subclasses here use or override."""
    for kind in vars(importlib.import_module(module)).values():
        if not isinstance(kind, type) or kind.__module__ != module:
            continue
        foreign = [base for base in kind.__mro__ if root_of(base) not in {"coordinator", "stores", *SAFE}]
        if not foreign:
            continue
        used = {
            node.attr
            for node in ast.walk(source_of(kind))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"self", "cls", "super()"}
        }
        theirs = {name for base in foreign for name in own_names(base)}
        yield from (name for name in (used | vars(kind).keys()) & theirs - METACLASS if is_private(name))


SAFE = {"builtins", "abc", "typing", "enum", "collections", "asyncio", "logging", "threading", "pydantic"}
"""Of the standard library; and models, whose private names begin with two underscores or `model_`."""


def listed(module: str) -> set[str]:
    return {use.name for use in PRIVATE if use.module == module} | {name for at, name in OWN if at == module}


@pytest.mark.parametrize("module", MODULES)
def test_module_uses_no_private_name_that_is_not_listed(module: str) -> None:
    used = {*names_of_others(tree_of(module)), *names_of_bases(module)}
    assert used - listed(module) == set()


@pytest.mark.parametrize("use", [use[:2] for use in PRIVATE] + sorted(OWN), ids="/".join)
def test_what_is_listed_is_used(use: tuple[str, str]) -> None:
    module, name = use
    source = Path(str(importlib.import_module(module).__file__)).read_text()
    assert re.search(rf"\b{name}\b", source)


@pytest.mark.parametrize(
    "source",
    [
        "redis.Connection()._reader",
        "getattr(task, '_cancel_message', None)",
        "setattr(task, '_cancel_message', None)",
        "from pydantic._internal import config",
        "from asyncio import _get_running_loop",
        "import _socket",
    ],
)
def test_scan_finds_private_names(source: str) -> None:
    assert list(names_of_others(ast.parse(source)))


def test_scan_finds_private_names_of_bases() -> None:
    assert "_unset_keepalive_if_required" in set(names_of_bases("coordinator.gateway.server.protocol"))
    assert "_connection_arguments" in set(names_of_bases("coordinator.redis.connections"))


# -- tests

DOORS = {"inside.py", "inside_stores.py"}
"""In tests/support: private names of the product as functions."""

TESTS = {("simulation/store.py", "_getframe"), ("simulation/loop.py", "_set_running_loop")}
"""Of the standard library: no public part identifies the caller, or makes a loop the running one."""


def test_tests_reach_private_names_through_their_doors_alone() -> None:
    tests, reach = ROOT / "tests", re.compile(r"(?<!self)(?<!cls)\._[a-zA-Z]")
    suspects = {file for file in tests.rglob("*.py") if reach.search(file.read_text())}
    reached = {
        (str(file.relative_to(tests)), node.attr)
        for file in suspects
        if file.name not in DOORS
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_self(node.value)
    }
    assert reached == TESTS


# -- and each is bounded


def bound_of(package: str) -> str:
    extras = PROJECT["optional-dependencies"].values()
    (requirement,) = {
        line
        for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
        if re.match(rf"{package}\b(?!-)", line)
    }
    return requirement


BOUNDED = {use.package for use in PRIVATE if use.package} | {package for package, _ in UNDOCUMENTED.values()}


@pytest.mark.parametrize("package", sorted(BOUNDED))
def test_package_with_private_names_has_an_upper_bound(package: str) -> None:
    assert "<" in bound_of(package)


def test_python_has_no_upper_bound() -> None:
    assert PROJECT["requires-python"] == ">=3.11"
    assert sys.version_info >= (3, 11)
