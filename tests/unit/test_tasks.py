"""Where tasks are created, and when they begin."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import coordinator
import stores
from stores.tasks import begin_soon
from tests.support.factories import FACTORIES, use

ROOTS = [Path(module.__file__ or "").parent for module in (coordinator, stores)]
OWN_LOOP = ("cli", "testing")
"""Programs and servers for tests: they make the loop that they run on."""


def _makers(path: Path) -> list[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return [
        f"{path}:{node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", None)) in ("create_task", "ensure_future")
    ]


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.name)
def test_tasks_are_made_in_one_place(root: Path) -> None:
    """`stores.tasks.begin_soon`, wherever the event loop may be one of the application."""
    paths = [path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in OWN_LOOP]
    assert len(paths) > 20
    makers = [maker for path in paths for maker in _makers(path)]
    assert [maker for maker in makers if "stores/tasks.py" not in maker] == []


@pytest.mark.parametrize("factory", FACTORIES)
async def test_a_task_begins_in_a_later_turn(factory: str) -> None:
    begun = list[str]()

    async def work() -> str:
        begun.append("begun")
        return "done"

    with use(factory):
        task = begin_soon(work(), name="work")
    assert begun == []
    assert task.get_name() == "work"
    assert await task == "done"
