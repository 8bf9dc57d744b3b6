"""A clone without the last release's commit reports that in red, and fails in CI."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.roll import __main__ as program
from tests.roll import versions


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_clone_without_the_baseline_fails_in_ci_with_what_to_do(
    ci: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(sys, "argv", ["roll"])
    monkeypatch.setattr(versions, "BASELINE", "0" * 40)
    monkeypatch.setattr(versions, "BUILT", tmp_path)
    assert program.main() == code
    output = capsys.readouterr().out
    assert f"{program.RED}THE ROLL WAS NOT RUN" in output
    assert "git fetch --unshallow" in output


def test_baseline_names_a_whole_commit() -> None:
    assert len(versions.BASELINE) == 40
    assert set(versions.BASELINE) <= set("0123456789abcdef")
