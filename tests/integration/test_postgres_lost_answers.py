"""Every write of the store's ports, made again after the answer to any of its statements was lost: a reset of
the connection that comes after the commit. The caller gets the same answer as without the loss.

The writes are those of the protocols, so that a new one has to be added here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from stores.assistants import AssistantQuery, AssistantStore
from stores.base import CoordinationStore
from stores.catalogue import NewThread, ThreadPatch
from stores.crons import CronStore, Firing
from stores.events import EventStore, NewEvents
from stores.postgres import Options, PostgresStore
from stores.projections import FailedChange, ProjectionStore, RunChange
from stores.pruning import PruningStore, Retention
from stores.rows import Limits, Outcome, Ownership
from stores.states import CancelAction
from stores.webhooks import WebhookReport, WebhookStore
from tests.conformance.run_store.assistants import new_assistant
from tests.conformance.run_store.crons import new_cron
from tests.support.builders import (
    ENDED,
    SUCCESS,
    StoreClock,
    cancel,
    fence_epoch,
    holding,
    new_run,
    new_worker,
    row_of,
    running,
    waiting,
    worker_row,
)
from tests.support.postgres import Database
from tests.support.proxy import Proxy

pytestmark = pytest.mark.usefixtures("no_task_left")

PORTS = (
    CoordinationStore,
    WebhookStore,
    CronStore,
    AssistantStore,
    PruningStore,
    EventStore,
    ProjectionStore,
)
READS = """
aclose aggregate_tokens_by_thread assistant assistant_versions assistants
checkpoints claimable claimable_children claimants count_assistants count_crons count_threads count_webhooks
cron crons due_crons events events_version find_runs get has_expired_threads holder ids_from inflight_runs
list_by_thread list_inflight log_tops next_change next_cron next_webhook open open_run_ids pending_changes
pending_on projections proven_alive proven_dead row run runs standing started_runs thread thread_of_key
thread_runs threads tick transitions unclaimed waiting_line webhooks workers
"""
MOST = 20
"""Answers of the longest write."""


class Stage(NamedTuple):
    """For one write: a live worker's epoch, and a thread of its own."""

    store: PostgresStore
    epoch: int
    clock: StoreClock
    thread: str

    async def peer(self) -> int:
        return await self.store.register(new_worker())

    async def rolling_back(self) -> Ownership:
        await self.store.finish(await running(self.store, self.epoch, self.thread), _with({"n": 0}))
        own = await running(self.store, self.epoch, self.thread)
        await self.store.save(own, {"n": 1})
        await cancel(self.store, own.run_id, CancelAction.rollback)
        return own

    async def dead_webhook(self) -> str:
        run_id, attempt = await self.claimed_webhook()
        assert await self.store.report_webhook(run_id, attempt=attempt, report=GIVEN_UP)
        return run_id

    async def claimed_webhook(self) -> tuple[str, int]:
        own = await self.due_webhook()
        claimed = await self.store.claim_webhooks(epoch=self.epoch, lease=40, limit=1000)
        return next((hook.run_id, hook.attempt) for hook in claimed if hook.run_id == own.run_id)

    async def due_webhook(self) -> Ownership:
        own = await running(self.store, self.epoch, self.thread, webhook="https://example.com/")
        await self.store.finish(own, SUCCESS)
        return own


Act = Callable[[], Awaitable[Any]]
Scenario = Callable[[Stage], Awaitable[Act]]
SCENARIOS: dict[str, Scenario] = {}
GIVEN_UP = WebhookReport(delivered=False, error="410", status_code=410)


def _with(values: Any) -> Outcome:
    return SUCCESS._replace(values=values)


def scenario(act: Scenario) -> Scenario:
    """The result of the returned act is compared: the answer to the caller, and the rows written."""
    SCENARIOS[act.__name__] = act
    return act


# ---- admission, decisions, ownership -------------------------------------------------------------------


@scenario
async def admit(s: Stage) -> Act:
    before = await running(s.store, s.epoch, s.thread)

    async def act() -> Any:
        run = new_run(s.thread, multitask_strategy="interrupt")
        answer = await s.store.admit(run, epoch=s.epoch, limits=Limits())
        steps = [step.what for step in await s.store.transitions(run.run_id)]
        return answer.run_id == run.run_id, answer.holds, steps, (await row_of(s.store, before.run_id)).status

    return act


@scenario
async def insert(s: Stage) -> Act:
    async def act() -> Any:
        run = new_run(s.thread)
        answer = await s.store.insert(run, epoch=s.epoch)
        return answer.run_id == run.run_id, len(await s.store.runs(thread_id=s.thread))

    return act


@scenario
async def claim(s: Stage) -> Act:
    own = await running(s.store, s.epoch, s.thread)
    next_one = await waiting(s.store, s.epoch, s.thread)
    await s.store.finish(own, SUCCESS)

    async def act() -> Any:
        claimed = await s.store.claim(s.thread, epoch=s.epoch)
        return claimed is not None and (claimed.run_id == next_one, claimed.fence - own.fence)

    return act


@scenario
async def withdraw(s: Stage) -> Act:
    own = await holding(s.store, s.epoch, s.thread)

    async def act() -> Any:
        decision = await s.store.withdraw(own.run_id, epoch=s.epoch)
        return decision and (decision.status, decision.settled)

    return act


@scenario
async def decide(s: Stage) -> Act:
    own = await running(s.store, s.epoch, s.thread)

    async def act() -> Any:
        decision = await cancel(s.store, own.run_id, reason="a\0b", actor="u")
        later = await cancel(s.store, own.run_id, reason="another", actor="u")
        steps = [step.what for step in await s.store.transitions(own.run_id)]
        return decision.status, decision.won, decision.settled, later.reason, later.won, steps

    return act


@scenario
async def start(s: Stage) -> Act:
    own = await holding(s.store, s.epoch, s.thread)

    async def act() -> Any:
        started = await s.store.start(own, {"kind": "values"})
        steps = [step.what for step in await s.store.transitions(own.run_id)]
        return started and (started.decision.status, started.values), steps

    return act


@scenario
async def finish(s: Stage) -> Act:
    own = await running(s.store, s.epoch, s.thread)
    await waiting(s.store, s.epoch, s.thread)

    async def act() -> Any:
        answer = await s.store.finish(own, _with({"n": 1}))
        return answer.status, answer.lost, answer.next_home == s.epoch

    return act


@scenario
async def settle(s: Stage) -> Act:
    own = await running(s.store, s.epoch, s.thread)
    await cancel(s.store, own.run_id)

    async def act() -> Any:
        answer = await s.store.settle(own, ENDED)
        return answer.status, answer.lost

    return act


@scenario
async def hand_over(s: Stage) -> Act:
    own = await running(s.store, s.epoch, s.thread)

    async def act() -> Any:
        standing = await s.store.hand_over(own)
        row = await s.store.row(own.run_id)
        return standing and standing.status, row and (
            row.owner_epoch == own.epoch,
            row.stopped_at is not None,
        )

    return act


@scenario
async def refence(s: Stage) -> Act:
    own = await running(s.store, s.epoch, s.thread)

    async def act() -> Any:
        again = await s.store.refence(own)
        return again and again.fence - own.fence

    return act


@scenario
async def readopt(s: Stage) -> Act:
    own = await s.rolling_back()

    async def act() -> Any:
        again = await s.store.readopt(own)
        return again and again.fence - own.fence

    return act


@scenario
async def save(s: Stage) -> Act:
    own = await running(s.store, s.epoch, s.thread)

    async def act() -> Any:
        await s.store.save(own, {"n": 1})
        await cancel(s.store, own.run_id)
        await s.store.save(own, {"n": 2}, last=True)
        thread = await s.store.thread(s.thread)
        steps = [step.what for step in await s.store.transitions(own.run_id)]
        return thread and thread.values, steps

    return act


@scenario
async def restore(s: Stage) -> Act:
    own = await s.rolling_back()

    async def act() -> Any:
        return await s.store.restore(own)

    return act


@scenario
async def delete_thread(s: Stage) -> Act:
    own = await running(s.store, s.epoch, s.thread, kind="op")

    async def act() -> Any:
        await s.store.delete_thread(own)
        return await s.store.thread(s.thread)

    return act


# ---- workers -------------------------------------------------------------------------------------------


@scenario
async def register(s: Stage) -> Act:
    async def act() -> Any:
        worker = new_worker()
        epoch = await s.store.register(worker)
        return [row.epoch == epoch for row in await s.store.workers() if row.worker_id == worker.worker_id]

    return act


@scenario
async def beat(s: Stage) -> Act:
    async def act() -> Any:
        return await s.store.beat(s.epoch)

    return act


@scenario
async def drain(s: Stage) -> Act:
    """The runs handed over are returned once: after a lost answer other workers find them by their ticks."""
    peer = await s.peer()
    await running(s.store, s.epoch, s.thread)
    run_id = await waiting(s.store, peer, s.thread, portable=True)

    async def act() -> Any:
        await s.store.drain(peer)
        return (await worker_row(s.store, peer)).state, (await row_of(s.store, run_id)).home_epoch

    return act


@scenario
async def request_drain(s: Stage) -> Act:
    async def act() -> Any:
        peer = await s.peer()
        return [request.epoch == peer for request in await s.store.request_drain(peer, grace=1.0)]

    return act


@scenario
async def retire(s: Stage) -> Act:
    peer = await s.peer()
    own = await running(s.store, peer, s.thread)

    async def act() -> Any:
        ended = await s.store.retire(peer)
        return [one.run_id == own.run_id for one in ended], (await worker_row(s.store, peer)).state

    return act


@scenario
async def fence_worker(s: Stage) -> Act:
    row = await worker_row(s.store, await s.peer())

    async def act() -> Any:
        return await s.store.fence_worker(row, by=s.epoch, proven=True)

    return act


@scenario
async def declare_dead(s: Stage) -> Act:
    peer = await s.peer()

    async def act() -> Any:
        return await s.store.declare_dead(peer, by=s.epoch, actor="ops"), (
            await worker_row(s.store, peer)
        ).state

    return act


@scenario
async def sweep(s: Stage) -> Act:
    peer = await s.peer()
    own = await running(s.store, peer, s.thread)
    await fence_epoch(s.store, peer, by=s.epoch)

    async def act() -> Any:
        ended = await s.store.sweep(by=s.epoch, error="gone")
        return [(one.status, one.decided) for one in ended if one.run_id == own.run_id]

    return act


# ---- the catalogue, records ----------------------------------------------------------------------------


@scenario
async def create_thread(s: Stage) -> Act:
    async def act() -> Any:
        made = await s.store.create_thread(NewThread(s.thread, user_id="u", metadata={"a": [1]}, ttl_ms=5))
        return made.thread_id == s.thread, made.metadata

    return act


@scenario
async def update_extra(s: Stage) -> Act:
    run_id = await _record(s)

    async def act() -> Any:
        return await s.store.update_extra(run_id, {"b": 2}, user_id=None, max_bytes=100)

    return act


@scenario
async def keep_latest_checkpoint(s: Stage) -> Act:
    for number in range(2):
        await s.store.finish(await running(s.store, s.epoch, s.thread), _with({"n": number}))
    own = await running(s.store, s.epoch, s.thread, kind="op")

    async def act() -> Any:
        await s.store.keep_latest_checkpoint(own)
        return [one.values for one in await s.store.checkpoints(s.thread, before=None, limit=9)]

    return act


@scenario
async def patch_thread(s: Stage) -> Act:
    await s.store.create_thread(NewThread(s.thread, metadata={"a": 1}))

    async def act() -> Any:
        return (await s.store.patch_thread(s.thread, ThreadPatch({"b": 2}), user_id=None)).metadata

    return act


@scenario
async def delete_run(s: Stage) -> Act:
    own = await running(s.store, s.epoch, s.thread)
    await s.store.finish(own, SUCCESS)

    async def act() -> Any:
        deleted = await s.store.delete_run(own.run_id, thread_id=None, user_id=None)
        return deleted.run_id == own.run_id, deleted.status, await s.store.row(own.run_id)

    return act


@scenario
async def expire_threads(s: Stage) -> Act:
    """What it has removed is answered once."""
    await s.store.create_thread(NewThread(s.thread, ttl_ms=1))
    s.clock.advance(1)

    async def act() -> Any:
        await s.store.expire_threads(limit=100)
        return await s.store.thread(s.thread)

    return act


@scenario
async def prune(s: Stage) -> Act:
    """What it has removed is counted once."""
    peer = await s.peer()
    await s.store.retire(peer)
    s.clock.advance(10)

    async def act() -> Any:
        await s.store.prune(Retention(workers=1.0))
        return peer in {row.epoch for row in await s.store.workers(alive_only=False)}

    return act


@scenario
async def put(s: Stage) -> Act:
    async def act() -> Any:
        run_id = uuid4().hex
        await s.store.put(run_id, thread_id=s.thread, status="pending", metadata={"a": 1})
        row = await s.store.get(run_id)
        return row and (row["status"], row["metadata"])

    return act


async def _record(s: Stage) -> str:
    own = await running(s.store, s.epoch, s.thread)
    return own.run_id


@scenario
async def update_status(s: Stage) -> Act:
    run_id = await _record(s)

    async def act() -> Any:
        return await s.store.update_status(run_id, "error", error="why")

    return act


@scenario
async def update_model_name(s: Stage) -> Act:
    run_id = await _record(s)

    async def act() -> Any:
        return await s.store.update_model_name(run_id, "m")

    return act


@scenario
async def update_run_completion(s: Stage) -> Act:
    run_id = await _record(s)

    async def act() -> Any:
        return await s.store.update_run_completion(run_id, status="success", total_tokens=3)

    return act


@scenario
async def update_run_progress(s: Stage) -> Act:
    run_id = await _record(s)

    async def act() -> Any:
        return await s.store.update_run_progress(run_id, total_tokens=3)

    return act


@scenario
async def delete(s: Stage) -> Act:
    run_id = await _record(s)

    async def act() -> Any:
        await s.store.delete(run_id)
        return await s.store.row(run_id)

    return act


# ---- webhooks and crons --------------------------------------------------------------------------------


@scenario
async def claim_webhooks(s: Stage) -> Act:
    """What a lost answer has claimed is due again when its lease is over: delivered late, and not twice."""
    own = await s.due_webhook()

    async def act() -> Any:
        await s.store.claim_webhooks(epoch=s.epoch, lease=40, limit=1000)
        return [(hook.attempts, hook.claimed_by) for hook in await s.store.webhooks(run_id=own.run_id)]

    return act


@scenario
async def report_webhook(s: Stage) -> Act:
    run_id, attempt = await s.claimed_webhook()
    report = WebhookReport(delivered=True, status_code=204)

    async def act() -> Any:
        return await s.store.report_webhook(run_id, attempt=attempt, report=report)

    return act


@scenario
async def revive_webhooks(s: Stage) -> Act:
    """Which are due again is answered once."""
    run_id = await s.dead_webhook()

    async def act() -> Any:
        await s.store.revive_webhooks([run_id])
        return [hook.state for hook in await s.store.webhooks(run_id=run_id)]

    return act


@scenario
async def stop_webhooks(s: Stage) -> Act:
    """Which are stopped is answered once."""
    own = await s.due_webhook()

    async def act() -> Any:
        await s.store.stop_webhooks([own.run_id])
        return [hook.state for hook in await s.store.webhooks(run_id=own.run_id)]

    return act


@scenario
async def create_cron(s: Stage) -> Act:
    async def act() -> Any:
        cron = new_cron()
        made = await s.store.create_cron(cron, thread_must_exist=False)
        return made.cron_id == cron.cron_id, made.version

    return act


@scenario
async def replace_cron(s: Stage) -> Act:
    cron = await s.store.create_cron(new_cron(next_at=1), thread_must_exist=False)

    async def act() -> Any:
        replaced = await s.store.replace_cron(cron, user_id=None)
        return replaced and replaced.version

    return act


@scenario
async def delete_cron(s: Stage) -> Act:
    cron = await s.store.create_cron(new_cron(), thread_must_exist=False)

    async def act() -> Any:
        deleted = await s.store.delete_cron(cron.cron_id, user_id=None)
        return deleted, await s.store.delete_cron(cron.cron_id, user_id=None)

    return act


@scenario
async def skip_cron(s: Stage) -> Act:
    cron = await s.store.create_cron(new_cron(next_at=s.clock.micros), thread_must_exist=False)
    firing = Firing(cron.cron_id, s.clock.micros, s.clock.micros + 1)

    async def act() -> Any:
        skipped = await s.store.skip_cron(firing, error="busy")
        return skipped, await s.store.skip_cron(firing._replace(at=firing.at - 1), error="not due")

    return act


# ---- assistants of clients ------------------------------------------------------------------------------


@scenario
async def create_assistant(s: Stage) -> Act:
    async def act() -> Any:
        new = new_assistant()
        made = await s.store.create_assistant(new)
        return made and made.version, await s.store.create_assistant(replace(new, name="other"))

    return act


@scenario
async def change_assistant(s: Stage) -> Act:
    row = await s.store.create_assistant(new_assistant())
    assert row is not None

    async def act() -> Any:
        changed = await s.store.change_assistant(replace(row, name="other"), user_id=None)
        versions = await s.store.assistant_versions(row.assistant_id, AssistantQuery(), user_id=None)
        return changed and (changed.version, changed.name), len(versions)

    return act


@scenario
async def set_assistant_version(s: Stage) -> Act:
    row = await s.store.create_assistant(new_assistant())
    assert row is not None
    await s.store.change_assistant(replace(row, name="other"), user_id=None)

    async def act() -> Any:
        latest = await s.store.set_assistant_version(row.assistant_id, 1, user_id=None)
        return latest and (latest.version, latest.name)

    return act


@scenario
async def delete_assistant(s: Stage) -> Act:
    row = await s.store.create_assistant(new_assistant())
    assert row is not None

    async def act() -> Any:
        deleted = await s.store.delete_assistant(row.assistant_id, user_id=None)
        return deleted, await s.store.delete_assistant(row.assistant_id, user_id=None)

    return act


# ---- projections ----------------------------------------------------------------------------------------


@scenario
async def add_projection(s: Stage) -> Act:
    await s.store.remove_projection("p")

    async def act() -> Any:
        await s.store.add_projection("p")
        return [(row.name, row.filling) for row in await s.store.projections()]

    return act


@scenario
async def remove_projection(s: Stage) -> Act:
    await s.store.add_projection("p")

    async def act() -> Any:
        return await s.store.remove_projection("p"), await s.store.remove_projection("p")

    return act


async def _changed(s: Stage) -> list[RunChange]:
    """The changes of a run, claimed by a projection of the stage's own. It has those of the existing runs."""
    await s.store.add_projection(s.thread)
    while existing := await s.store.claim_changes(s.thread, epoch=s.epoch, lease=30, limit=10_000):
        delivered = [change.seq for change in existing]
        await s.store.report_changes(s.thread, epoch=s.epoch, delivered=delivered)
    await s.store.report_changes(s.thread, epoch=s.epoch, delivered=[])
    run = await holding(s.store, s.epoch, s.thread)
    changes = await s.store.claim_changes(s.thread, epoch=s.epoch, lease=30, limit=10_000)
    assert changes is not None
    return [change for change in changes if change.run_id == run.run_id]


@scenario
async def claim_changes(s: Stage) -> Act:
    changes = await _changed(s)
    await s.store.report_changes(s.thread, epoch=s.epoch, delivered=[])

    async def act() -> Any:
        claimed = await s.store.claim_changes(s.thread, epoch=s.epoch, lease=30, limit=10_000)
        return claimed is not None and all(change in claimed for change in changes)

    return act


@scenario
async def report_changes(s: Stage) -> Act:
    first, *others = await _changed(s)
    failed = [FailedChange(change.seq, "refused", 1_000_000) for change in others]

    async def act() -> Any:
        await s.store.report_changes(s.thread, epoch=s.epoch, delivered=[first.seq], failed=failed)
        pending = await s.store.pending_changes(first.run_id)
        return [(one.what, one.attempts) for one in pending if one.projection == s.thread]

    return act


# ---- event logs -----------------------------------------------------------------------------------------


async def _logged(s: Stage) -> Ownership:
    own = await running(s.store, s.epoch, s.thread)
    await s.store.append_events([NewEvents(own.run_id, own.fence, ((1, "custom", "1"),))], ttl=60)
    return own


async def _numbers(s: Stage, run_id: str) -> list[int]:
    page = await s.store.events(run_id, None, limit=10, max_bytes=1000)
    return [number for _, number, _, _ in page.events]


@scenario
async def append_events(s: Stage) -> Act:
    own = await _logged(s)

    async def act() -> Any:
        log = NewEvents(own.run_id, own.fence, ((2, "custom", "2"), (3, "custom", "3")), (own.fence, 2))
        return await s.store.append_events([log], ttl=60), await _numbers(s, own.run_id)

    return act


@scenario
async def follow_runs(s: Stage) -> Act:
    own = await _logged(s)

    async def act() -> Any:
        await s.store.follow_runs([own.run_id], seconds=10, logs=True)
        log = NewEvents(own.run_id, own.fence, ((2, "custom", "2"),))
        return await s.store.append_events([log], ttl=60)

    return act


@scenario
async def expire_events(s: Stage) -> Act:
    """How many went is what the last attempt has removed."""
    own = await _logged(s)
    s.clock.advance(60)

    async def act() -> Any:
        await s.store.expire_events(limit=1000, max_bytes=None)
        return await _numbers(s, own.run_id), await s.store.log_tops([own.run_id])

    return act


# ---- the tests -----------------------------------------------------------------------------------------


def test_every_write_of_the_ports_has_a_scenario() -> None:
    members = {name for port in PORTS for name in dir(port) if callable(getattr(port, name, None))}
    writes = {name for name in members if not name.startswith("_")} - set(READS.split())
    assert writes == set(SCENARIOS)


@pytest.fixture
async def network(
    shared_postgres: Database, no_task_left: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[PostgresStore, Proxy, StoreClock]]:
    monkeypatch.setattr("stores.postgres.connections._IDLE", 1e9)  # its answer is none to a write
    clock = StoreClock()
    async with shared_postgres.worker() as (url, name), shared_postgres.proxied(url) as (proxy, through):
        store = PostgresStore(through, Options(schema=name), migrate=False, clock=clock)
        await store.open()
        yield store, proxy, clock
        await store.aclose()


@pytest.mark.parametrize("name", sorted(SCENARIOS))
async def test_answer_that_is_lost_after_the_commit_is_the_same_when_made_again(
    network: tuple[PostgresStore, Proxy, StoreClock], name: str
) -> None:
    store, proxy, clock = network
    epoch = await store.register(new_worker())

    async def played(lose: int) -> tuple[Any, bool]:
        """(what it came to, whether so many answers came that one could be lost)."""
        act = await SCENARIOS[name](Stage(store, epoch, clock, f"t-{uuid4().hex}"))
        proxy.lose_reply = lose
        try:
            return await act(), not proxy.lose_reply
        finally:
            proxy.lose_reply = 0

    expected, _ = await played(0)
    for lose in range(1, MOST):
        await played(0)  # statements are prepared on the connections that are used next
        answer, lost = await played(lose)
        assert answer == expected, f"answer {lose} was lost"
        if not lost:
            assert lose > 1, "nothing was lost"
            return
    raise AssertionError(f"more than {MOST} answers")
