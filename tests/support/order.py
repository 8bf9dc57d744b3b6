"""The order in which several processes share the files of tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest


def long_files_first(items: list[pytest.Item]) -> None:
    """Sorts the tests so that the files that take long begin first: one that begins last keeps one process at
    work when there is nothing left for the others. A test that takes a minute or more has a time limit of
    its own. So files with the highest limits come first, then those with many tests."""
    tests, limits = Counter(item.path for item in items), dict[Path, float]()
    for item in items:
        mark = item.get_closest_marker("timeout")
        limits[item.path] = max(limits.get(item.path, 0.0), 0.0 if mark is None else float(mark.args[0]))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, -limits[item.path], -tests[item.path]))
