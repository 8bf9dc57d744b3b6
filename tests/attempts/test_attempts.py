"""The short form of `make attempts`, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_graphs_survive_kills_and_rolling_restarts(store: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "tests.attempts", "--store", store, "--kills", "6", "--restarts", "2"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "continued runs: 0" not in answer.stdout
