"""A pytest plugin: writes how many seconds each test that passed took to `$MUTANT_DURATIONS`, as JSON."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

_seconds = defaultdict[str, float](float)
_failed = set[str]()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration
    if report.outcome != "passed":
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        passed = {test: seconds for test, seconds in _seconds.items() if test not in _failed}
        Path(os.environ["MUTANT_DURATIONS"]).write_text(json.dumps(passed))
