"""A pytest plugin: what a process that a test starts runs counts as run by the test.

Coverage in such a process has its settings from a variable that it inherits (`patch = subprocess`): the id of
the test is added to it. A server that several tests share counts for the first of them."""

from __future__ import annotations

import os

import pytest
from coverage.config import CoverageConfig

_VARIABLE = "COVERAGE_PROCESS_CONFIG"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if settings := os.environ.get(_VARIABLE):
        config = CoverageConfig.deserialize(settings)
        config.context = item.nodeid
        os.environ[_VARIABLE] = config.serialize()
