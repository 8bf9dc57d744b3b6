"""A pytest plugin: writes how many seconds each test that passed took to `$MUTANT_DURATIONS`, as JSON.

Tests that stop coverage (`untraced`: measurements and long searches) are left out, because the context cannot
be switched while coverage is stopped."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

_seconds = defaultdict[str, float](float)
_failed = set[str]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    untraced = [item for item in items if "untraced" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=untraced)
    items[:] = [item for item in items if "untraced" not in getattr(item, "fixturenames", ())]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration
    if report.outcome != "passed":
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        passed = {test: seconds for test, seconds in _seconds.items() if test not in _failed}
        Path(os.environ["MUTANT_DURATIONS"]).write_text(json.dumps(passed))
