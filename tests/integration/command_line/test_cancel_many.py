"""`coordinator runs cancel` with filters."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from coordinator import RunManager, open_coordinator
from tests.support.command_line import DONE, MAIN, USAGE, Busy, cli, on_a_terminal
from tests.support.waiting import wait_until


async def statuses(busy: Busy) -> list[str]:
    runs = (await busy.cli("runs", "list", "--json")).document["runs"]
    return [run["status"] for run in runs]


async def test_dry_run_counts_matching_runs_before_they_are_cancelled(busy: Busy) -> None:
    seen = await busy.cli("runs", "cancel", "--status", "pending", "--dry-run", "--json")
    counts = seen.document["cancel_many"]
    assert (counts["dry_run"], counts["matched"], counts["cancelled"]) == (True, 2, 0)
    assert counts["run_ids"] == sorted(run.run_id for run in busy.waiting)
    people = await busy.cli("runs", "cancel", "--status", "pending", "--dry-run")
    assert "would cancel 2 runs" in people.out
    assert all(run.run_id in people.out for run in busy.waiting)
    before = await busy.workers()
    done = await busy.cli(
        "runs", "cancel", "--status", "pending", "--yes", "--reason", "why", "--actor", "me", "--json"
    )
    assert done.code == DONE, done.err
    assert done.document["cancel_many"]["cancelled"] == 2
    assert await busy.workers() == before
    assert busy.running.status == "running"
    for run in busy.waiting:
        history = (await busy.cli("explain", run.run_id, "--json")).document
        (decided,) = [step for step in history["timeline"] if step["to_status"] == "interrupted"]
        assert (decided["cause"], decided["actor"], decided["detail"]) == ("admin", "me", "why")
    again = await busy.cli("runs", "cancel", "--status", "pending", "--yes")
    assert (again.code, f"no run in flight in {busy.url} matches" in again.out) == (DONE, True)


@pytest.mark.parametrize(
    ("filters", "matched"),
    [
        (("--status", "all"), 3),
        (("--thread", "t"), 3),
        (("--assistant", "agent"), 1),
        (("--user", "u"), 0),
        (("--metadata", "m=x"), 0),
        (("--older-than", "1h"), 0),
        (("--status", "running", "--older-than", "0"), 1),
    ],
    ids=str,
)
async def test_each_filter_selects_matching_runs(busy: Busy, filters: tuple[str, ...], matched: int) -> None:
    answer = await busy.cli("runs", "cancel", *filters, "--dry-run", "--json")
    assert answer.document["cancel_many"]["matched"] == matched


async def test_cancel_of_many_requires_confirmation_without_terminal(busy: Busy) -> None:
    for options in ((), ("--json",)):
        answer = await busy.cli("runs", "cancel", "--status", "all", *options)
        assert (answer.code, "--yes" in answer.err) == (USAGE, True)
    assert await statuses(busy) == ["pending", "pending", "running", "success"]


@pytest.mark.parametrize(("typed", "cancelled"), [("n\n", False), ("y\n", True)])
async def test_confirmation_on_a_terminal(busy: Busy, typed: str, cancelled: bool) -> None:
    env = {"COORDINATOR_STORE": busy.url}
    answer = await on_a_terminal("runs", "cancel", "--status", "pending", env=env, typed=typed)
    assert "Cancel 2 runs (interrupt)?" in answer.out
    assert (answer.code == DONE) is cancelled
    assert ((await statuses(busy))[:2] == ["interrupted"] * 2) is cancelled


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("r", "--status", "all"),
        ("--yes",),
        ("--status", "success"),
        ("--status", "all", "--wait", "1"),
        ("r", "--dry-run"),
        ("--older-than", "soon"),
        ("--status", "all", "--action", "stop"),
    ],
    ids=" ".join,
)
async def test_usage(busy: Busy, args: tuple[str, ...]) -> None:
    answer = await busy.cli("runs", "cancel", *args)
    assert (answer.code, answer.out) == (USAGE, "")
    assert await statuses(busy) == ["pending", "pending", "running", "success"]


async def test_interrupted_cancel_of_many_leaves_no_partial_cancel_and_can_be_repeated(
    tmp_path: Path,
) -> None:
    """2,000 delayed runs, and a kill after the first page."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with open_coordinator(url, grace=0, sqlite_synchronous="NORMAL") as manager:
        await asyncio.gather(
            *(manager.create_or_reject(f"t{n}", "agent", after_seconds=3600) for n in range(2000))
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", MAIN, "runs", "cancel", "--assistant", "agent", "--yes"),
            *("--store", url),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        assert b"500 of 2000 runs" in await process.stderr.readline()
        process.kill()
        await process.wait()
        left = await manager.runs.cancellable_ids()
        assert 0 < len(left) <= 1500
        for run_id in set(left[:20]):
            steps = (await manager.runs.explain(run_id)).transitions
            assert not [step for step in steps if step.what == "decided"]
        again = await cli("runs", "cancel", "--assistant", "agent", "--yes", "--json", "--store", url)
        assert again.document["cancel_many"]["cancelled"] == len(left)
        assert await manager.runs.cancellable_ids() == []
        await wait_until(lambda: all_settled(manager), description="none is in flight")


async def all_settled(manager: RunManager) -> bool:
    return await manager.runs.in_flight() == []
