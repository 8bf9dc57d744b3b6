"""Resolution of MODULE:OBJECT names, and the errors of unresolvable ones."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from coordinator.gateway.server.failures import USAGE, CannotServe
from coordinator.gateway.server.naming import project_at

MODULE = """
from coordinator.assistants.decorator import assistant
@assistant(name="decorated")
async def other(ctx): ...
async def agent(ctx): ...
def plain(ctx): ...
class Callable:
    async def __call__(self, ctx): ...
async def parts(ctx): yield 1
def generator(ctx): yield 1
async def nothing(): ...
async def pair(ctx, database): ...
class Inner:
    agents = {"first": agent, "second": Callable()}
assistants = {"one": agent}
empty = {}
numbers = {1: agent}
mixed = {"good": agent, "bad": plain}
number = 7
several = [other]
nameless = [agent]
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A module `mine_for_naming` in the working folder, removed afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "mine_for_naming.py"
    file.write_text(MODULE)
    yield file
    sys.modules.pop("mine_for_naming", None)


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("assistants", ["one"]),
        ("agent", ["agent"]),
        ("Inner.agents", ["first", "second"]),
        ("other", ["decorated"]),
        ("several", ["decorated"]),
    ],
)
def test_named_object_is_resolved(mine: Path, place: str, names: list[str]) -> None:
    assert list(project_at(f"mine_for_naming:{place}", "memory://")[0]) == names


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mine_for_naming", "does not name an object of a module"),
        ("mine_for_naming:", "does not name an object of a module"),
        (":agent", "does not name an object of a module"),
        ("folder/mine.py:agent", "does not name an object of a module"),
        ("mine_for_namin:agent", "module 'mine_for_namin' does not exist"),
        ("mine_for_naming.deeper:agent", "module 'mine_for_naming.deeper' does not exist"),
        ("mine_for_naming:agnet", "has no 'agnet'. Is it 'agent'?"),
        ("mine_for_naming:empty", "names no assistant"),
        ("mine_for_naming:numbers", "names are non-empty strings"),
        ("mine_for_naming:nameless", "has no name: use @assistant"),
        ("mine_for_naming:plain", "is not async. Write it as async def"),
        ("mine_for_naming:mixed", "mixed['bad'] is a function that is not async"),
        ("mine_for_naming:parts", "parts is an async generator. Return the result instead of yielding"),
        ("mine_for_naming:generator", "generator is a generator. Write it as async def generator(ctx)"),
        ("mine_for_naming:nothing", "Write it as async def nothing(ctx)"),
        ("mine_for_naming:pair", "pair cannot be called with one positional argument"),
        ("mine_for_naming:number", "has no name"),
        ("mine_for_naming:Inner", "has no name"),
    ],
)
def test_unresolvable_name_is_explained(mine: Path, place: str, message: str) -> None:
    with pytest.raises(CannotServe) as refused:
        project_at(place, "memory://")
    assert message in str(refused.value)
    assert refused.value.code == USAGE


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n1 / 0", "ZeroDivisionError: division by zero"),
        ("import not_installed_at_all", "No module named 'not_installed_at_all'"),
        ("x = 1\n1 +", "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
    ],
)
def test_import_error_names_file_and_line(mine: Path, code: str, message: str) -> None:
    mine.write_text(code)
    with pytest.raises(CannotServe) as refused:
        project_at("mine_for_naming:agent", "memory://")
    assert message in refused.value.message
    assert f"{mine}, line {code.count(chr(10)) + 1}" in refused.value.message
