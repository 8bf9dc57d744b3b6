"""What `tools/check_wheel.py` refuses."""

from __future__ import annotations

import pytest

from tools.check_wheel import MAX_DEMO_LINES, imported, misplaced


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    from e.f import g\n"
    assert imported(source) == {"a.b", "c", "e.f"}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("coordinator/manager.py", "from tests.support import kit"),
        ("coordinator/testing/cluster.py", "import pytest"),
        ("coordinator/cli/demo/stage.py", "from coordinator.testing.cluster import cluster"),
        ("coordinator/manager.py", "import coordinator.testing"),
        ("coordinator/testing/history/check.py", ""),
        ("coordinator/testing/graphlike/states.py", ""),
        ("coordinator/cli/demo/claims.py", "\n" * (MAX_DEMO_LINES + 1)),
    ],
)
def test_module_that_does_not_belong_in_the_wheel_is_refused(name: str, source: str) -> None:
    (problem,) = misplaced({name: source})
    assert name in problem or "demo" in problem


def test_kit_may_import_itself_and_the_product() -> None:
    assert not misplaced(
        {"coordinator/testing/a.py": "from coordinator.testing.b import c\nimport coordinator"}
    )
