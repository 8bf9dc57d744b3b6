"""What two versions on one store have to get right. Each question is asked in both directions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tests.roll.versions import Asked, Worker
from tests.support.receiver import Receiver


@dataclass(frozen=True)
class Pair:
    """`here` has or admits the run, `there` meets it from outside. `redis`: event logs travel."""

    here: Worker
    there: Worker
    receiver: Receiver
    redis: bool

    @property
    def thread(self) -> str:
        return f"t-{uuid4().hex[:12]}"


Question = Callable[[Pair], Awaitable[None]]
BOTH_WAYS: list[Question] = []


def both_ways(question: Question) -> Question:
    BOTH_WAYS.append(question)
    return question


async def until(holds: Callable[[], Awaitable[Any]], what: str, within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not await holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}")
        await asyncio.sleep(0.05)


def equal(found: Any, expected: Any) -> None:
    if found != expected:
        raise AssertionError(f"{found!r} is not {expected!r}")


async def ended(worker: Worker, run_id: str) -> dict[str, Any]:
    """Its row, once its thread is free."""

    async def settled() -> bool:
        return (await worker.do("return await row(run)", run=run_id))["settled"]

    await until(settled, f"run {run_id} has settled")
    return await worker.do("return await row(run)", run=run_id)


@both_ways
async def cancel_stops_the_others_run(pair: Pair) -> None:
    run = await pair.here.do("return await begin(t)", t=pair.thread)
    equal(await pair.there.do("return await m.cancel(run, wait=20, reason='why')", run=run), True)
    row = await pair.here.do("return await row(run)", run=run)
    equal((row["status"], row["cause"], row["settled"]), ("interrupted", "user", True))
    equal(await pair.here.do("return stops.count(run)", run=run), 1)


@both_ways
async def cancel_of_a_waiting_run_is_final(pair: Pair) -> None:
    thread = pair.thread
    holder = await pair.here.do("return await begin(t)", t=thread)
    waits = await pair.here.do("return await admit(t, 'enqueue')", t=thread)
    equal(await pair.there.do("return await m.cancel(run, wait=20)", run=waits), True)
    await pair.here.do("release(run)", run=holder)
    equal((await ended(pair.there, waits))["status"], "interrupted")
    equal((await ended(pair.there, holder))["status"], "success")


@both_ways
async def rollback_restores_what_the_other_saved(pair: Pair) -> None:
    thread = pair.thread
    first = await pair.there.do("return await begin(t, kwargs={'save': {'n': 1}, 'go': True})", t=thread)
    await pair.there.do("await m.wait(run, timeout=20)", run=first)
    run = await pair.here.do("return await begin(t, kwargs={'save': {'n': 2}})", t=thread)
    equal(await pair.there.do("return (await m.threads.get(t)).values", t=thread), {"n": 2})
    equal(await pair.there.do("return await m.cancel(run, action='rollback', wait=20)", run=run), True)
    for worker in (pair.here, pair.there):
        equal(await worker.do("return (await m.threads.get(t)).values", t=thread), {"n": 1})


@both_ways
async def reject_names_the_others_run(pair: Pair) -> None:
    thread = pair.thread
    run = await pair.here.do("return await begin(t)", t=thread)
    try:
        await pair.there.do("await admit(t)", t=thread)
    except Asked as refused:
        equal((refused.kind, run in refused.text), ("ConflictError", True))
    else:
        raise AssertionError("it was admitted beside the holder")
    equal(await pair.there.do("return await m.has_inflight(t)", t=thread), True)
    await pair.here.do("release(run)", run=run)
    await ended(pair.there, run)
    equal(await pair.there.do("return await m.has_inflight(t)", t=thread), False)


@both_ways
async def queue_goes_on_at_the_other_in_order(pair: Pair) -> None:
    thread = pair.thread
    holder = await pair.here.do("return await begin(t)", t=thread)
    going = "return await admit(t, 'enqueue', kwargs={'go': True})"
    waiting = [await worker.do(going, t=thread) for worker in (pair.there, pair.here, pair.there)]
    row = await pair.here.do("return await row(run)", run=waiting[2])
    equal((row["phase"], row["position"]), ("waiting", 3))
    await pair.here.do("release(run)", run=holder)
    by = [await pair.here.do("return (await m.wait(run, timeout=30))['by']", run=run) for run in waiting]
    equal(by, [pair.there.label, pair.here.label, pair.there.label])


@both_ways
async def interrupt_takes_the_others_place(pair: Pair) -> None:
    thread = pair.thread
    run = await pair.here.do("return await begin(t)", t=thread)
    then = await pair.there.do("return await admit(t, 'interrupt', kwargs={'go': True})", t=thread)
    equal(await pair.here.do("return (await m.wait(run, timeout=30))['by']", run=then), pair.there.label)
    row = await pair.there.do("return await row(run)", run=run)
    equal((row["status"], row["cause"]), ("interrupted", "superseded"))


@both_ways
async def wait_answers_the_others_result(pair: Pair) -> None:
    run = await pair.here.do("return await begin(t)", t=pair.thread)
    waiting = asyncio.create_task(pair.there.do("return await m.wait(run, timeout=30)", run=run))
    await pair.here.do("release(run)", run=run)
    equal(await waiting, {"by": pair.here.label})


@both_ways
async def listings_and_explain_agree(pair: Pair) -> None:
    thread = pair.thread
    run = await pair.here.do("return await begin(t, metadata={'m': 1}, kwargs={'go': True})", t=thread)
    await pair.here.do("await m.wait(run, timeout=20)", run=run)
    code = (
        "found, = await m.runs.recent(thread_id=t)\n"
        "record, = await m.list_by_thread(t)\n"
        "shown, = await m.runs.of_thread(t)\n"
        "thread = await m.threads.get(t)\n"
        "return [found.run_id, record.run_id, shown.run_id, found.metadata, thread.status, await row(run)]"
    )
    mine, its = [await worker.do(code, t=thread, run=run) for worker in (pair.here, pair.there)]
    equal(its, mine)
    equal(its[5]["steps"], ["admitted", "started", "finished"])


@both_ways
async def idempotency_key_finds_the_others_run(pair: Pair) -> None:
    code = (
        "r = await m.create_or_reject(t, 'agent', idempotency_key=t); return [r.run_id, r.already_admitted]"
    )
    thread = pair.thread
    run, known = await pair.here.do(code, t=thread)
    equal((known, await pair.there.do(code, t=thread)), (False, [run, True]))
    await pair.there.do("await m.cancel(run, wait=20)", run=run)


@both_ways
async def child_ends_with_the_others_parent(pair: Pair) -> None:
    parent = await pair.here.do("return await begin(t)", t=pair.thread)
    child = await pair.there.do("return await begin(t, parent_run_id=run)", t=pair.thread, run=parent)
    equal(await pair.there.do("return await m.cancel(run, wait=20)", run=parent), True)
    row = await ended(pair.here, child)
    equal((row["status"], row["cause"]), ("interrupted", "parent"))


@both_ways
async def threads_are_made_changed_and_deleted(pair: Pair) -> None:
    thread = pair.thread
    await pair.here.do("await m.threads.create(t, metadata={'a': 1})", t=thread)
    await pair.there.do("await m.threads.update(t, metadata={'b': 2})", t=thread)
    equal(await pair.here.do("return (await m.threads.get(t)).metadata", t=thread), {"a": 1, "b": 2})
    await pair.there.do("await m.threads.replace_values(t, {'v': 1})", t=thread)
    equal(await pair.here.do("return (await m.threads.get(t)).values", t=thread), {"v": 1})
    await pair.there.do("await m.threads.delete(t)", t=thread)
    equal(await pair.here.do("return (await m.threads.get(t)) is None", t=thread), True)


@both_ways
async def webhook_is_sent_once(pair: Pair) -> None:
    code = "return await begin(t, webhook=url, kwargs={'go': True})"
    run = await pair.here.do(code, t=pair.thread, url=pair.receiver.url)

    async def delivered() -> bool:
        return (
            await pair.there.do("w, = await m.webhooks.search(run_id=run); return w.state.value", run=run)
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
    await pair.here.do(make, t=thread, c=cron, now=int(time.time()) * 1_000_000)

    async def fired() -> bool:
        return await pair.there.do("return (await m.crons.get(c)).last_run_id", c=cron) is not None

    await until(fired, "the cron has fired")
    equal(await pair.there.do("return len(await m.runs.recent(thread_id=t))", t=thread), 1)
    await pair.there.do("await m.crons.delete(c)", c=cron)
    run = await pair.here.do("r, = await m.runs.recent(thread_id=t); return r.run_id", t=thread)
    await pair.there.do("await m.cancel(run, wait=20)", run=run)


@both_ways
async def time_limit_ends_a_run_everywhere(pair: Pair) -> None:
    run = await pair.here.do("return await begin(t, timeout=0.3)", t=pair.thread)
    row = await ended(pair.there, run)
    equal((row["status"], row["cause"]), ("timeout", "timeout"))


@both_ways
async def delayed_run_gets_its_turn(pair: Pair) -> None:
    thread = pair.thread
    run = await pair.here.do("return await admit(t, after_seconds=0.3, kwargs={'go': True})", t=thread)
    equal(await pair.there.do("return (await m.wait(run, timeout=30))['by']", run=run), pair.here.label)


@both_ways
async def events_are_followed_across(pair: Pair) -> None:
    if not pair.redis:  # logs of events travel by Redis alone: the end is told all the same
        run = await pair.here.do("return await begin(t, kwargs={'go': True})", t=pair.thread)
        code = "return [type(e).__name__ async for e in m.follow(run)][-1]"
        equal(await pair.there.do(code, run=run), "End")
        return
    run = await pair.here.do("return await begin(t, kwargs={'emit': {'x': 1}})", t=pair.thread)
    await pair.here.do("release(run)", run=run)
    code = "return [getattr(e, 'data', type(e).__name__) async for e in m.follow(run)]"
    said = await pair.there.do(code, run=run)
    equal((said[0], said[-1]), ({"x": 1}, "End"))


@both_ways
async def everybody_is_ready_and_knows_the_other(pair: Pair) -> None:
    for worker in (pair.here, pair.there):
        equal(await worker.do("return list((await m.worker.health()).why_not)"), [])
        epochs = await worker.do("return [w.epoch for w in await m.worker.fleet()]")
        equal({pair.here.epoch, pair.there.epoch} <= set(epochs), True)


@both_ways
async def reconcile_spares_the_living(pair: Pair) -> None:
    run = await pair.here.do("return await begin(t)", t=pair.thread)
    ended_runs = await pair.there.do("return len(await m.reconcile_orphaned_inflight_runs(error='gone'))")
    equal(ended_runs, 0)
    equal((await pair.here.do("return await row(run)", run=run))["status"], "running")
    await pair.here.do("release(run)", run=run)
    equal((await ended(pair.there, run))["status"], "success")
