"""kill -9 of a worker with a pending webhook: another worker delivers it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator import RunManager
from coordinator.webhooks.deliverer import Deliverer
from coordinator.webhooks.settings import WebhookSettings
from stores.states import WebhookState
from stores.webhooks import WebhookRow
from tests.support.children import Child
from tests.support.receiver import Receiver, receiving
from tests.support.teams import QUICK, team_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.multiprocess

WORKER = """
import asyncio, os
from coordinator import open_coordinator
from coordinator.webhooks import client, deliverer
deliverer._LEASE_MARGIN = 0.3
async def main():
    store, url, what, overrides = args[0], args[1], args[2], eval(args[3])
    async def agent(ctx):
        if what == "running":
            send("running")
            await asyncio.Event().wait()
        return {"n": 1}
    async def stop_here(self, url, headers, body, *, user_id=None):
        send("claimed")
        receive()
    if what == "claimed":
        client.Client.post = stop_here
    os.environ.update(COORDINATOR_WEBHOOK_ALLOW_PRIVATE="true", COORDINATOR_WEBHOOK_TIMEOUT="2",
                      COORDINATOR_WEBHOOK_POLL="0.05")
    async with open_coordinator(store, deliver_webhooks=True, **overrides) as manager:
        run = await manager.create_or_reject("t", webhook=url)
        send(run.run_id)
        manager.launch(run, agent)
        await asyncio.Event().wait()
asyncio.run(main())
"""
"""Admits a run with a webhook. `what` is the state that it reports and stays in: "claimed" or "running"."""

SETTINGS = WebhookSettings(webhook_allow_private=True, webhook_poll=0.05, webhook_backoff=0.05)


async def until_delivered(manager: RunManager, run_id: str) -> WebhookRow:
    async def delivered() -> bool:
        (row,) = await manager.webhooks.search(run_id=run_id)
        return row.state is WebhookState.delivered

    await wait_until(delivered, description="the webhook is delivered", timeout=10)
    (row,) = await manager.webhooks.search(run_id=run_id)
    return row


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def worker(folder: Path, receiver: Receiver, what: str) -> Child:
    return Child(WORKER, f"sqlite:///{folder / 'runs.db'}", receiver.url, what, repr(QUICK))


@pytest.mark.parametrize("when", ["claimed", "sent"])
async def test_webhook_of_worker_killed_between_claim_and_report_is_sent_again(
    tmp_path: Path, when: str
) -> None:
    async with (
        receiving(*((silent, 200) if when == "sent" else (200,))) as receiver,
        team_of(1, tmp_path) as (me,),
    ):
        with worker(tmp_path, receiver, when) as victim:
            run_id = await asyncio.to_thread(victim.receive)
            if when == "claimed":
                assert await asyncio.to_thread(victim.receive) == "claimed"
            else:
                await receiver.arrived.wait()
            victim.kill()
        async with Deliverer(me.webhooks, me.assistants, SETTINGS).running():
            row = await until_delivered(me, run_id)
    assert (row.attempts, row.claimed_by) == (2, me.worker.epoch)
    ids = [got.headers["webhook-id"] for got in receiver.received]
    assert ids == [run_id] * (2 if when == "sent" else 1)


async def test_webhook_of_killed_workers_run_is_delivered(tmp_path: Path) -> None:
    """The worker that ends the run of the dead worker queues its webhook."""
    async with (
        receiving() as receiver,
        team_of(1, tmp_path) as (me,),
        Deliverer(me.webhooks, me.assistants, SETTINGS).running(),
    ):
        with worker(tmp_path, receiver, "running") as victim:
            run_id = await asyncio.to_thread(victim.receive)
            assert await asyncio.to_thread(victim.receive) == "running"
            victim.kill()
        await until_delivered(me, run_id)
    (got,) = receiver.received
    assert got.document["status"] == "error"
    assert "is dead" in got.document["error"]


async def test_a_worker_delivers_by_a_setting(tmp_path: Path) -> None:
    async with receiving() as receiver, team_of(1, tmp_path) as (me,):
        with worker(tmp_path, receiver, "nothing") as child:
            run_id = await asyncio.to_thread(child.receive)
            row = await until_delivered(me, run_id)
    assert row.claimed_by not in {None, me.worker.epoch}
