"""In which order several processes get the files of tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.order import long_files_first


class Item:
    """A collected test of `file`."""

    def __init__(self, file: str, *marks: pytest.MarkDecorator) -> None:
        self.path = Path(file)
        self._marks = {mark.name: mark.mark for mark in marks}

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self._marks.get(name)


SLOW = pytest.mark.slow


def test_files_begin_by_their_time_limits_and_then_by_their_numbers_of_tests() -> None:
    tests: list[Any] = [
        Item("quick, one test"),
        *[Item("quick, many tests")] * 3,
        Item("slow, one test", SLOW),
        *[Item("slow, many tests", SLOW)] * 3,
        Item("a minute", SLOW, pytest.mark.timeout(300)),
        Item("longest", SLOW),
        Item("longest", SLOW, pytest.mark.timeout(1200)),
    ]
    long_files_first(tests)
    assert list(dict.fromkeys(str(test.path) for test in tests)) == [
        "longest",
        "a minute",
        "slow, many tests",
        "slow, one test",
        "quick, many tests",
        "quick, one test",
    ]
