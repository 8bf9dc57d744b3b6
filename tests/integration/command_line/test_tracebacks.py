"""The traceback of a failed run is in a log: `runs show` and `explain` name that log."""

from __future__ import annotations

import os
import socket

import pytest

from coordinator import RunContext, RunFailed
from tests.support.command_line import Busy


async def fails(ctx: RunContext) -> None:
    raise ValueError("the model failed")


@pytest.mark.parametrize("command", [("runs", "show"), ("explain",)], ids=" ".join)
async def test_traceback_location_names_worker(busy: Busy, command: tuple[str, ...]) -> None:
    run = await busy.manager.create_or_reject("failing")
    busy.manager.launch(run, fails)
    with pytest.raises(RunFailed):
        await busy.manager.wait(run.run_id)
    answer = await busy.cli(*command, run.run_id)
    name = (
        f"worker {socket.gethostname()}-{os.getpid()} (epoch {busy.manager.worker.epoch}, pid {os.getpid()})"
    )
    assert "traceback" in answer.out
    assert f"in the log of {name}" in " ".join(answer.out.split())


@pytest.mark.parametrize("command", [("runs", "show"), ("explain",)], ids=" ".join)
async def test_successful_run_has_no_traceback(busy: Busy, command: tuple[str, ...]) -> None:
    answer = await busy.cli(*command, busy.done.run_id, "--json")
    assert (answer.document["run"] if "show" in command else answer.document)["traceback"] is None
