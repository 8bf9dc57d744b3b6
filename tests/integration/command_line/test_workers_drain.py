"""`coordinator workers drain`."""

from __future__ import annotations

from coordinator import RunManager, open_coordinator
from tests.support.command_line import DONE, FAILED, INTERRUPTED, USAGE, Busy, on_a_terminal
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
        in (await busy.cli("workers", "drain", "--all", "--grace", "0", "--yes")).out
    )


async def test_draining_all_workers_needs_a_confirmation(busy: Busy) -> None:
    """Without a terminal, and with --json, it is refused unless --yes is given."""
    for options in ((), ("--json",)):
        refused = await busy.cli("workers", "drain", "--all", *options)
        assert (refused.code, "1 worker" in refused.err, "--yes" in refused.err) == (USAGE, True, True)
    declined = await on_a_terminal(
        "workers", "drain", "--all", env={"COORDINATOR_STORE": busy.url}, typed="n\n"
    )
    assert declined.code == INTERRUPTED
    assert "Drain 1 worker of sqlite://" in declined.out
    assert not await requested(busy)
    assert (await busy.cli("workers", "drain", str(busy.manager.worker.epoch), "--yes")).code == USAGE
    confirmed = await on_a_terminal(
        "workers", "drain", "--all", env={"COORDINATOR_STORE": busy.url}, typed="y\n"
    )
    assert confirmed.code == DONE
    assert await requested(busy)


async def requested(busy: Busy) -> bool:
    tick = await busy.manager.store.tick(busy.manager.worker.epoch)
    return tick.drain is not None


async def test_db_check_and_workers_list_warn_that_workers_drain(busy: Busy) -> None:
    async with open_coordinator(busy.url) as second:
        await second.worker.request_drain(second.worker.epoch)
        await wait_until(lambda: drains(second), description="the second worker drains")
        for command in (("db", "check"), ("workers", "list")):
            answer = await busy.cli(*command)
            assert (answer.code, "1 of 2 workers drains" in answer.err) == (DONE, True)
        assert (await busy.cli("db", "check", "--json")).document["check"]["workers_draining"] == 1
        assert (await busy.cli("workers", "drain", "--all", "--yes")).code == DONE
        await wait_until(lambda: drains(busy.manager), description="all workers drain")
        for command in (("db", "check"), ("workers", "list")):
            assert "all workers drain: no run is admitted" in (await busy.cli(*command)).err


async def drains(manager: RunManager) -> bool:
    rows = await manager.worker.fleet()
    return next(row.state for row in rows if row.epoch == manager.worker.epoch) == "draining"
