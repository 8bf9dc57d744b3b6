"""`coordinator reconcile`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.support.command_line import (
    DONE,
    Busy,
    cli,
)
from tests.support.forked import COMMAND_LINE, ROOT, ForkedProcess, fork

VICTIM = COMMAND_LINE._replace(target="tests.support.victim:main", path=str(ROOT))


@asynccontextmanager
async def victim(url: str, **environment: str) -> AsyncGenerator[tuple[ForkedProcess, str]]:
    """Another process with one run."""
    process = await fork(VICTIM, url, env=os.environ | environment)
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


@pytest.mark.multiprocess
async def test_reconcile_ends_the_runs_of_a_killed_worker_and_no_other(empty: str) -> None:
    async with victim(empty) as (dead, orphan), victim(f"{empty}") as (_, other):
        assert other == ""  # the thread is taken: it has failed
        dead.kill()
        await dead.wait()
        limited = await cli("reconcile", "--store", empty, "--before", "2020-01-01", "--json")
        assert (limited.code, limited.document["ended"]) == (DONE, []), limited.err
        answer = await cli("reconcile", "--store", empty, "--error", "gone [red]", "--json")
        (run,) = answer.document["ended"]
        assert (run["run_id"], run["status"], run["error"]) == (orphan, "error", "gone [red]")
        again = await cli("reconcile", "--store", empty)
        assert "nothing to end" in again.out


async def test_reconcile_leaves_a_living_worker_alone(busy: Busy) -> None:
    answer = await busy.cli("reconcile", "--json")
    assert answer.document == {"ended": [], "buried": [], "undecided": []}
    assert busy.running.status == "running"
    assert len(await busy.manager.workers()) == 1  # its own has left again


@pytest.mark.slow
@pytest.mark.multiprocess
async def test_reconcile_watches_a_worker_of_which_only_the_lease_is_over(empty: str) -> None:
    short_lease = {
        "COORDINATOR_LEASE_TTL": "2",
        "COORDINATOR_RENEW": "0.5",
        "COORDINATOR_LEASE_MARGIN": "0.5",
    }
    async with victim(empty, **short_lease) as (paused, orphan):
        paused.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.3)  # its lease has to end by the store's own clock
        at_once = await cli("reconcile", "--store", empty, "--no-wait", "--json")
        assert at_once.document["ended"] == []
        assert [worker["expired"] for worker in at_once.document["undecided"]] == [True]
        answer = await cli("reconcile", "--store", empty, "--json")
        assert [run["run_id"] for run in answer.document["ended"]] == [orphan]
        assert "watching the heartbeat" in answer.err
        paused.send_signal(signal.SIGCONT)
