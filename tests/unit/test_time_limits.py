"""Tests that hang: each ends near its limit, as a failure, or with its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "pytest.ini": """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
timeout = 0.3
""",
    "conftest.py": """
from tests.support import time_limits

time_limits.AGAIN, time_limits.GRACE = 0.3, {grace}

def pytest_configure(config):
    config.pluginmanager.register(time_limits)
""",
    "test_that_hangs.py": """
import asyncio, pytest, threading

def block():
    threading.Event().wait()

async def test_in_a_callback():
    asyncio.get_running_loop().call_soon(block)
    await asyncio.Event().wait()

async def test_in_a_task():
    async def blocking():
        block()

    task = asyncio.create_task(blocking())
    await asyncio.wait([task])
    assert task.exception() is not None
    await asyncio.Event().wait()

@pytest.fixture
async def service():
    yield
    asyncio.get_running_loop().call_soon(block)
    await asyncio.Event().wait()

async def test_in_the_teardown_after_a_failure(service):
    raise AssertionError("of the test")

class Slow:
    def __repr__(self):
        threading.Event().wait(0.5)  # longer than until the signal is repeated
        return "slow"

def test_with_a_slow_report():
    slow = Slow()
    block()
""",
    "test_that_swallows.py": """
import threading

def test_every_limit():
    while True:
        try:
            threading.Event().wait()
        except BaseException:
            pass
""",
}


def run(folder: Path, file: str, *, grace: float) -> subprocess.CompletedProcess[str]:
    for name, text in FILES.items():
        (folder / name).write_text(text.format(grace=grace) if name == "conftest.py" else text)
    plugins = [f"-pno:{name}" for name in ("cacheprovider", "langsmith_plugin")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-rfE", "--showlocals", *plugins, file],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of tests that hang where the event loop or pytest-timeout would lose their limit."""
    return run(tmp_path_factory.mktemp("tests"), "test_that_hangs.py", grace=60).stdout


@pytest.mark.parametrize(
    "failure",
    [
        "FAILED test_that_hangs.py::test_in_a_callback",
        "FAILED test_that_hangs.py::test_in_a_task",
        "ERROR test_that_hangs.py::test_in_the_teardown_after_a_failure",
        "FAILED test_that_hangs.py::test_with_a_slow_report",
    ],
)
def test_hanging_test_fails_by_its_time_limit(report: str, failure: str) -> None:
    assert f"{failure} - Failed: Timeout (>0.3s) from pytest-timeout" in report


def test_tests_after_one_that_hangs_run(report: str) -> None:
    assert "4 failed, 1 error in " in report


def test_test_that_swallows_every_time_limit_ends_its_process(tmp_path: Path) -> None:
    ended = run(tmp_path, "test_that_swallows.py", grace=0.5)
    assert ended.returncode == 1
    assert "in test_every_limit" in ended.stderr
