"""`coordinator workers drain`."""

from __future__ import annotations

from tests.support.command_line import FAILED, USAGE, Busy
from tests.support.waiting import wait_until


async def test_workers_drain(busy: Busy) -> None:
    epoch = busy.manager.worker.epoch
    missing = await busy.cli("workers", "drain", str(epoch + 9), "--json")
    assert (missing.code, missing.error["type"]) == (FAILED, "WorkerNotFound")
    for usage in ((), (str(epoch), "--all"), ("--all", "--grace", "-1"), ("x",)):
        assert (await busy.cli("workers", "drain", *usage)).code == USAGE
    assert not busy.manager.worker.draining
    answer = await busy.cli("workers", "drain", str(epoch), "--grace", "30", "--json")
    assert answer.document["asked"] == [{"epoch": epoch, "already": False}]
    await wait_until(lambda: busy.manager.worker.draining, description="the worker has read the request")
    assert (
        f"worker {epoch} is already draining"
        in (await busy.cli("workers", "drain", "--all", "--grace", "0")).out
    )
