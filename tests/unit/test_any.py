"""The check of `Any` in the product (`tools/check_any.py`)."""

from __future__ import annotations

import pytest

from tools.check_any import lines_with_any, without_reason


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("from typing import Any, cast\n", []),
        ("from typing import (\n    Any,\n    cast,\n)\nx: Any\n", [5]),
        ("def f(a: Any, b: Any) -> None: ...\n", [1]),
        ('x = cast("dict[str, Any]", y)\nz = cast("Any", y)\n', [1, 2]),
        ('"""Any value. `Any` is none."""\n# Any\n', []),
    ],
)
def test_lines_that_use_any_are_counted_once(source: str, lines: list[int]) -> None:
    assert list(lines_with_any(source)) == lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("x: Any  # Any: whatever\n", []),
        ("# Any: whatever\nx: Any\n", []),
        ('X: TypeAlias = Any\n"""What it is. Any: whatever."""\n', []),
        ("x: Any  # whatever\n", [1]),
        ("x: Any\n\n# Any: of another line\n", [1]),
    ],
)
def test_use_without_a_reason_is_refused(source: str, lines: list[int]) -> None:
    assert list(without_reason(source)) == lines
