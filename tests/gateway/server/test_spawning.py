"""Workers that are spawned before the supervisor has work for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from coordinator.gateway.server.process import UNKNOWN, WorkerProcess
from coordinator.gateway.server.spawning import Spawned, spawn, spawn_ahead, spawned_ahead
from tests.support.served import served
from tests.support.waiting import wait_until

pytestmark = pytest.mark.multiprocess


async def test_unused_spawned_worker_ends_silently(
    capfd: pytest.CaptureFixture[str],
) -> None:
    spawned = spawn()
    spawned.line.close()
    _, status = await asyncio.to_thread(os.waitpid, spawned.pid, 0)
    assert (status, capfd.readouterr()) == (0, ("", ""))


async def test_a_usage_error_leaves_no_worker_behind(tmp_path: Path) -> None:
    async with served("serve", "--no-such-option", folder=tmp_path) as server:
        _, status = await server.gone()
    assert status == 2
    await wait_until(
        lambda: not any(in_folder(tmp_path)),
        description="the worker that was spawned ahead is gone",
        timeout=20,
    )


def in_folder(folder: Path) -> Iterator[int]:
    """Returns the processes whose working folder is `folder`."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and entry.joinpath("cwd").readlink() == folder:
                yield int(entry.name)


def test_spawned_worker_is_handed_over_once() -> None:
    assert spawned_ahead() is None
    spawn_ahead()
    spawned = spawned_ahead()
    assert spawned is not None
    assert not spawned.line.get_inheritable()
    assert spawned_ahead() is None
    spawned.line.close()
    os.waitpid(spawned.pid, 0)


async def test_child_reaped_by_other_code_counts_as_ended() -> None:
    spawned = spawn()
    os.kill(spawned.pid, 9)
    await asyncio.to_thread(os.waitpid, spawned.pid, 0)
    worker = await WorkerProcess.connect(0, Spawned(spawned.pid, spawned.line))
    assert await worker.ended == UNKNOWN
