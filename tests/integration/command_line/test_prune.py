"""`coordinator prune`."""

from __future__ import annotations

import sqlite3

import pytest

from tests.support.command_line import (
    DONE,
    USAGE,
    cli,
)


@pytest.fixture
async def old(empty: str) -> str:
    """Three runs that settled 40 days ago, on one thread."""
    with sqlite3.connect(empty.removeprefix("sqlite:///")) as cx:
        cx.execute("INSERT INTO threads (thread_id, created_at, updated_at) VALUES ('t', 1, 1)")
        cx.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3)"
            " INSERT INTO runs (run_id, thread_id, status, settled_at, started_at, created_at, created_us,"
            " updated_at) SELECT 'old' || n, 't', 'success', (unixepoch() - 40 * 86400) * 1000000, 1, '',"
            " n, 1 FROM n"
        )
    cx.close()
    return empty


async def test_age_without_unit_is_reported(old: str) -> None:
    answer = await cli("prune", "--older-than", "30", "--dry-run", "--store", old)
    assert answer.code == USAGE
    assert "30 means 30 seconds: write the unit, for example 30d" in answer.err


async def test_prune_counts_and_removes_after_confirmation(old: str) -> None:
    expected = {"runs": 2, "transitions": 2, "workers": 0, "webhooks": 0}
    nothing = {"runs": 0, "transitions": 0, "workers": 0, "webhooks": 0}
    counted = await cli("prune", "--older-than", "30d", "--dry-run", "--json", "--store", old)
    assert (counted.code, counted.document) == (
        DONE,
        {"dry_run": True, "found": expected, "removed": nothing},
    )
    for options in ((), ("--json",)):
        refused = await cli("prune", "--older-than", "30d", *options, "--store", old)
        assert (refused.code, refused.out) == (USAGE, "")
        assert "2 runs, 2 transitions, 0 dead workers and 0 webhooks" in refused.err
        assert "--yes" in refused.err
    assert (await cli("prune", "--older-than", "6w", "--yes", "--store", old)).out == "nothing to remove\n"
    done = await cli("prune", "--older-than", "30d", "--yes", "--json", "--store", old)
    assert (done.code, done.document) == (DONE, {"dry_run": False, "found": expected, "removed": expected})
    left = await cli("runs", "list", "--json", "--store", old)
    assert [run["run_id"] for run in left.document["runs"]] == ["old3"]


@pytest.mark.parametrize("age", ["soon", "-3d", "10s", "1.5h", "99999999999d", ""])
async def test_prune_refuses_invalid_age(old: str, age: str) -> None:
    refused = await cli("prune", f"--older-than={age}", "--yes", "--json", "--store", old)
    assert (refused.code, refused.error["type"], refused.out) == (USAGE, "InvalidArgument", "")
