"""What workers do to each other's runs, each in a process of its own."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.support.processes import Fleet, Refused, everywhere

pytestmark = [pytest.mark.multiprocess, everywhere]


async def test_cancel_from_another_process(fleet: Fleet) -> None:
    """Reported failure 1."""
    owner, other = await fleet.of(2)
    run = await owner.do("admit", thread="t", unwinds=0.2)
    await owner.wait_for("started", run)
    assert await other.do("cancel", run=run, reason="enough", wait=10)
    returned = time.monotonic()
    stopped = await owner.wait_for("stopped", run)
    assert stopped["at"] <= returned, "wait returns when the task has stopped"
    assert not await other.do("inflight", thread="t")


async def test_of_three_at_the_same_moment_exactly_one_wins(fleet: Fleet) -> None:
    """Reported failure 9."""
    workers = await fleet.of(3)
    for number in range(50):
        thread, moment = f"t{number}", time.monotonic() + 0.03
        answers = await asyncio.gather(
            *(worker.do("admit_at", thread=thread, moment=moment) for worker in workers),
            return_exceptions=True,
        )
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        assert [error.name for error in refused] == ["ConflictError"] * 2, answers


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_the_new_run_starts_after_the_old_task_has_stopped(fleet: Fleet, strategy: str) -> None:
    """Reported failure 10."""
    one, two = await fleet.of(2)
    for number in range(5):
        thread = f"t{number}"
        old = await one.do("admit", thread=thread, saves={"by": "old"}, unwinds=0.1)
        await one.wait_for("started", old)
        new = await two.do("admit", thread=thread, strategy=strategy)
        started, stopped = await two.wait_for("started", new), await one.wait_for("stopped", old)
        assert stopped["at"] <= started["at"]
        assert started["values"] == (None if strategy == "rollback" else {"by": "old"})


async def test_an_old_rollback_does_not_overwrite_the_new_state(fleet: Fleet) -> None:
    """Reported failure 10."""
    one, two = await fleet.of(2)
    old = await one.do("admit", thread="t", saves={"by": "old"}, unwinds=0.2)
    await one.wait_for("started", old)
    new = await two.do("admit", thread="t", strategy="rollback", saves={"by": "new"}, lasts=0)
    await two.do("wait", run=new)
    last = await one.do("admit", thread="t")
    assert (await one.wait_for("started", last))["values"] == {"by": "new"}


async def test_the_line_is_first_in_first_out_over_three_processes(fleet: Fleet) -> None:
    """Reported failure 14."""
    workers = await fleet.of(3)
    first = await workers[0].do("admit", thread="t")
    line = [
        (workers[at % 3], await workers[at % 3].do("admit", thread="t", strategy="enqueue", lasts=0.01))
        for at in range(12)
    ]
    await workers[0].do("end", run=first)
    began: list[dict[str, Any]] = [await worker.wait_for("started", run, timeout=20) for worker, run in line]
    ended: list[dict[str, Any]] = [await worker.wait_for("stopped", run) for worker, run in line]
    moments = [event["at"] for event in began]
    assert moments == sorted(moments)
    for before, after in zip(ended, began[1:], strict=False):
        assert before["at"] <= after["at"], "two held the thread together"
