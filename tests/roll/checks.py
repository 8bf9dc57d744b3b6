"""What two versions on one store have to get right. Each check runs in both directions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tests.roll.versions import RemoteError, Worker
from tests.support.receiver import Receiver


@dataclass(frozen=True)
class Pair:
    """`owner` has or admits the run, `other` meets it from outside. `redis`: event logs travel."""

    owner: Worker
    other: Worker
    receiver: Receiver
    redis: bool

    @property
    def thread(self) -> str:
        return f"t-{uuid4().hex[:12]}"


Check = Callable[[Pair], Awaitable[None]]
BOTH_WAYS: list[Check] = []


def both_ways(check: Check) -> Check:
    BOTH_WAYS.append(check)
    return check


async def until(holds: Callable[[], Awaitable[Any]], what: str, within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not await holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}")
        await asyncio.sleep(0.05)


def equal(actual: Any, expected: Any) -> None:
    if actual != expected:
        raise AssertionError(f"{actual!r} is not {expected!r}")


async def ended(worker: Worker, run_id: str) -> dict[str, Any]:
    """Its row, once its thread is free."""

    async def settled() -> bool:
        return (await worker.do("return await row(run)", run=run_id))["settled"]

    await until(settled, f"run {run_id} has settled")
    return await worker.do("return await row(run)", run=run_id)


@both_ways
async def cancel_stops_the_others_run(pair: Pair) -> None:
    run = await pair.owner.do("return await begin(t)", t=pair.thread)
    equal(await pair.other.do("return await m.cancel(run, wait=20, reason='why')", run=run), True)
    row = await pair.owner.do("return await row(run)", run=run)
    equal((row["status"], row["cause"], row["settled"]), ("interrupted", "user", True))
    equal(await pair.owner.do("return stops.count(run)", run=run), 1)


@both_ways
async def cancel_of_a_waiting_run_is_final(pair: Pair) -> None:
    thread = pair.thread
    holder = await pair.owner.do("return await begin(t)", t=thread)
    waits = await pair.owner.do("return await admit(t, 'enqueue')", t=thread)
    equal(await pair.other.do("return await m.cancel(run, wait=20)", run=waits), True)
    await pair.owner.do("release(run)", run=holder)
    equal((await ended(pair.other, waits))["status"], "interrupted")
    equal((await ended(pair.other, holder))["status"], "success")


@both_ways
async def rollback_restores_what_the_other_saved(pair: Pair) -> None:
    thread = pair.thread
    first = await pair.other.do("return await begin(t, kwargs={'save': {'n': 1}, 'go': True})", t=thread)
    await pair.other.do("await m.wait(run, timeout=20)", run=first)
    run = await pair.owner.do("return await begin(t, kwargs={'save': {'n': 2}})", t=thread)
    equal(await pair.other.do("return (await m.threads.get(t)).values", t=thread), {"n": 2})
    equal(await pair.other.do("return await m.cancel(run, action='rollback', wait=20)", run=run), True)
    for worker in (pair.owner, pair.other):
        equal(await worker.do("return (await m.threads.get(t)).values", t=thread), {"n": 1})


@both_ways
async def reject_names_the_others_run(pair: Pair) -> None:
    thread = pair.thread
    run = await pair.owner.do("return await begin(t)", t=thread)
    try:
        await pair.other.do("await admit(t)", t=thread)
    except RemoteError as refused:
        equal((refused.kind, run in refused.text), ("ConflictError", True))
    else:
        raise AssertionError("it was admitted beside the holder")
    equal(await pair.other.do("return await m.has_inflight(t)", t=thread), True)
    await pair.owner.do("release(run)", run=run)
    await ended(pair.other, run)
    equal(await pair.other.do("return await m.has_inflight(t)", t=thread), False)


@both_ways
async def queue_continues_at_the_other_in_order(pair: Pair) -> None:
    thread = pair.thread
    holder = await pair.owner.do("return await begin(t)", t=thread)
    going = "return await admit(t, 'enqueue', kwargs={'go': True})"
    waiting = [await worker.do(going, t=thread) for worker in (pair.other, pair.owner, pair.other)]
    row = await pair.owner.do("return await row(run)", run=waiting[2])
    equal((row["phase"], row["position"]), ("waiting", 3))
    await pair.owner.do("release(run)", run=holder)
    by = [await pair.owner.do("return (await m.wait(run, timeout=30))['by']", run=run) for run in waiting]
    equal(by, [pair.other.label, pair.owner.label, pair.other.label])


@both_ways
async def interrupt_takes_the_others_place(pair: Pair) -> None:
    thread = pair.thread
    run = await pair.owner.do("return await begin(t)", t=thread)
    then = await pair.other.do("return await admit(t, 'interrupt', kwargs={'go': True})", t=thread)
    equal(await pair.owner.do("return (await m.wait(run, timeout=30))['by']", run=then), pair.other.label)
    row = await pair.other.do("return await row(run)", run=run)
    equal((row["status"], row["cause"]), ("interrupted", "superseded"))


@both_ways
async def wait_answers_the_others_result(pair: Pair) -> None:
    run = await pair.owner.do("return await begin(t)", t=pair.thread)
    waiting = asyncio.create_task(pair.other.do("return await m.wait(run, timeout=30)", run=run))
    await pair.owner.do("release(run)", run=run)
    equal(await waiting, {"by": pair.owner.label})


@both_ways
async def listings_and_explain_agree(pair: Pair) -> None:
    thread = pair.thread
    run = await pair.owner.do("return await begin(t, metadata={'m': 1}, kwargs={'go': True})", t=thread)
    await pair.owner.do("await m.wait(run, timeout=20)", run=run)
    code = (
        "recent, = await m.runs.recent(thread_id=t)\n"
        "record, = await m.list_by_thread(t)\n"
        "shown, = await m.runs.of_thread(t)\n"
        "thread = await m.threads.get(t)\n"
        "return [recent.run_id, record.run_id, shown.run_id, recent.metadata, thread.status, await row(run)]"
    )
    mine, its = [await worker.do(code, t=thread, run=run) for worker in (pair.owner, pair.other)]
    equal(its, mine)
    equal(its[5]["steps"], ["admitted", "started", "finished"])


@both_ways
async def idempotency_key_finds_the_others_run(pair: Pair) -> None:
    code = (
        "r = await m.create_or_reject(t, 'agent', idempotency_key=t); return [r.run_id, r.already_admitted]"
    )
    thread = pair.thread
    run, known = await pair.owner.do(code, t=thread)
    equal((known, await pair.other.do(code, t=thread)), (False, [run, True]))
    await pair.other.do("await m.cancel(run, wait=20)", run=run)


@both_ways
async def child_ends_with_the_others_parent(pair: Pair) -> None:
    parent = await pair.owner.do("return await begin(t)", t=pair.thread)
    child = await pair.other.do("return await begin(t, parent_run_id=run)", t=pair.thread, run=parent)
    equal(await pair.other.do("return await m.cancel(run, wait=20)", run=parent), True)
    row = await ended(pair.owner, child)
    equal((row["status"], row["cause"]), ("interrupted", "parent"))


@both_ways
async def threads_are_made_changed_and_deleted(pair: Pair) -> None:
    thread = pair.thread
    await pair.owner.do("await m.threads.create(t, metadata={'a': 1})", t=thread)
    await pair.other.do("await m.threads.update(t, metadata={'b': 2})", t=thread)
    equal(await pair.owner.do("return (await m.threads.get(t)).metadata", t=thread), {"a": 1, "b": 2})
    await pair.other.do("await m.threads.replace_values(t, {'v': 1})", t=thread)
    equal(await pair.owner.do("return (await m.threads.get(t)).values", t=thread), {"v": 1})
    await pair.other.do("await m.threads.delete(t)", t=thread)
    equal(await pair.owner.do("return (await m.store.thread(t)) is None", t=thread), True)


@both_ways
async def webhook_is_sent_once(pair: Pair) -> None:
    code = "return await begin(t, webhook=url, kwargs={'go': True})"
    run = await pair.owner.do(code, t=pair.thread, url=pair.receiver.url)

    async def delivered() -> bool:
        return (
            await pair.other.do("w, = await m.webhooks.search(run_id=run); return w.state.value", run=run)
            == "delivered"
        )

    await until(delivered, "the webhook is delivered")
    equal(
        [one.document["status"] for one in pair.receiver.received if one.document["run_id"] == run],
        ["success"],
    )


@both_ways
async def cron_fires_once(pair: Pair) -> None:
    thread, cron = pair.thread, uuid4().hex
    make = (
        "await m.threads.create(t)\n"
        "await m.crons.create(CronRow(c, None, 'agent', t, '0 0 1 1 *', None, True, None, None,"
        " {'assistant_id': 'agent', 'input': {}}, {}, now))"
    )
    await pair.owner.do(make, t=thread, c=cron, now=int(time.time()) * 1_000_000)

    async def fired() -> bool:
        return await pair.other.do("return (await m.crons.get(c)).last_run_id", c=cron) is not None

    await until(fired, "the cron has fired")
    equal(await pair.other.do("return len(await m.runs.recent(thread_id=t))", t=thread), 1)
    await pair.other.do("await m.crons.delete(c)", c=cron)
    run = await pair.owner.do("r, = await m.runs.recent(thread_id=t); return r.run_id", t=thread)
    await pair.other.do("await m.cancel(run, wait=20)", run=run)


@both_ways
async def time_limit_ends_a_run_everywhere(pair: Pair) -> None:
    run = await pair.owner.do("return await begin(t, timeout=0.3)", t=pair.thread)
    row = await ended(pair.other, run)
    equal((row["status"], row["cause"]), ("timeout", "timeout"))


@both_ways
async def delayed_run_gets_its_turn(pair: Pair) -> None:
    thread = pair.thread
    run = await pair.owner.do("return await admit(t, after_seconds=0.3, kwargs={'go': True})", t=thread)
    equal(await pair.other.do("return (await m.wait(run, timeout=30))['by']", run=run), pair.owner.label)


@both_ways
async def events_are_followed_across(pair: Pair) -> None:
    if not pair.redis:  # events travel by Redis alone; the end is delivered all the same
        run = await pair.owner.do("return await begin(t, kwargs={'go': True})", t=pair.thread)
        code = "return [type(e).__name__ async for e in m.follow(run)][-1]"
        equal(await pair.other.do(code, run=run), "End")
        return
    run = await pair.owner.do("return await begin(t, kwargs={'emit': {'x': 1}})", t=pair.thread)
    await pair.owner.do("release(run)", run=run)
    code = "return [getattr(e, 'data', getattr(e, 'complete', None)) async for e in m.follow(run)]"
    equal(await pair.other.do(code, run=run), [{"x": 1}, True])


@both_ways
async def both_are_ready_and_know_each_other(pair: Pair) -> None:
    for worker in (pair.owner, pair.other):
        equal(await worker.do("return list((await m.worker.health()).why_not)"), [])
        epochs = await worker.do("return [w.epoch for w in await m.worker.fleet()]")
        equal({pair.owner.epoch, pair.other.epoch} <= set(epochs), True)


@both_ways
async def reconcile_spares_the_living(pair: Pair) -> None:
    run = await pair.owner.do("return await begin(t)", t=pair.thread)
    ended_runs = await pair.other.do("return len(await m.reconcile_orphaned_inflight_runs(error='gone'))")
    equal(ended_runs, 0)
    equal((await pair.owner.do("return await row(run)", run=run))["status"], "running")
    await pair.owner.do("release(run)", run=run)
    equal((await ended(pair.other, run))["status"], "success")
