"""`coordinator runs cancel`."""

from __future__ import annotations

from pathlib import Path

from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer
from tests.support.command_line import (
    DONE,
    FAILED,
    Busy,
    busy_worker,
)
from tests.support.waiting import wait_until


async def test_cancel_commits_and_waits_without_registering_a_worker(busy: Busy) -> None:
    before = await busy.workers()
    answer = await busy.cli(
        "runs", "cancel", busy.running.run_id, "--reason", "why", "--actor", "me", "--wait", "5", "--json"
    )
    assert answer.code == DONE, answer.err
    cancel = answer.document["cancel"]
    assert (cancel["settled"], cancel["already"], cancel["redis"]) == (True, False, None)
    assert (cancel["reason"], cancel["actor"], cancel["cause"]) == ("why", "me", "admin")
    assert all(cancel[name] for name in ("requested_at", "delivered_at", "stopped_at", "settled_at"))
    assert await busy.workers() == before
    assert busy.running.status == "interrupted"
    again = await busy.cli("runs", "cancel", busy.running.run_id, "--json")
    assert (again.code, again.document["cancel"]["already"]) == (DONE, True)


async def test_cancel_with_rollback(busy: Busy) -> None:
    answer = await busy.cli("runs", "cancel", busy.running.run_id, "--action", "rollback", "--wait", "5")
    assert answer.code == DONE
    assert "rollback" in answer.out
    run = (await busy.cli("runs", "show", busy.running.run_id, "--json")).document["run"]
    assert (run["cancel_action"], run["status"]) == ("rollback", "interrupted")


async def test_cancel_of_finished_or_unknown_run_fails(busy: Busy) -> None:
    refused = await busy.cli("runs", "cancel", busy.done.run_id, "--json")
    assert (refused.code, refused.out) == (FAILED, "")
    assert refused.error["type"] == "NotCancellable"
    assert refused.error["run_id"] == busy.done.run_id
    missing = await busy.cli("runs", "cancel", "unknown")
    assert missing.code == FAILED
    assert missing.err.count("\n") == 1
    assert "'unknown'" in missing.err
    assert "coordinator runs list" in missing.err


async def test_unsettled_cancel_is_reported_as_committed(tmp_path: Path) -> None:
    async with busy_worker(tmp_path / "runs.db", tick=30, short_tick=30) as busy:
        answer = await busy.cli("runs", "cancel", busy.running.run_id, "--wait", "0.2", "--json")
        assert (answer.code, answer.error["type"]) == (FAILED, "NotSettled")
        run = (await busy.cli("runs", "show", busy.running.run_id, "--json")).document["run"]
        assert run["phase"] == "cancelling"


async def test_cancel_is_committed_without_redis(busy: Busy) -> None:
    answer = await busy.cli(
        "runs", "cancel", busy.running.run_id, "--wait", "5", "--redis", f"redis://127.0.0.1:{free_port()}"
    )
    assert answer.code == DONE
    assert "Redis does not answer" in answer.err
    assert busy.running.status == "interrupted"


async def test_cancel_through_redis_does_not_wait_for_a_tick(
    tmp_path: Path, shared_valkey: ValkeyServer, namespace: str
) -> None:
    settings = {"redis": shared_valkey.url, "namespace": namespace, "tick": 30, "short_tick": 30}
    async with busy_worker(tmp_path / "runs.db", **settings) as busy:
        await wait_until(lambda: busy.manager.worker.connectivity == "connected", description="connected")
        where = ("--redis", shared_valkey.url, "--namespace", namespace)
        answer = await busy.cli("runs", "cancel", busy.running.run_id, "--wait", "5", "--json", *where)
        assert (answer.code, answer.document["cancel"]["redis"]) == (DONE, "ok"), answer.err
