"""Drain: a worker that leaves is shown as draining, hands over queued runs, and is bounded in time."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from coordinator import Draining, RunContext, RunManager, RunRecord, RunStatus, StoreUnavailable
from coordinator.errors import InvalidArgument
from coordinator.notifier import Signal
from coordinator.servers.valkey import ValkeyServer
from coordinator.workers.signals import draining_on_signals
from tests.fundamentals.test_worker_death import hang
from tests.support.agents import Agent, launched, running
from tests.support.builders import sql_of
from tests.support.held import hold_answers, hold_calls
from tests.support.inside import assembly_of
from tests.support.runs import working
from tests.support.teams import on_every_store, team_of
from tests.support.waiting import wait_until

BOUND = 5.0


async def begun(manager: RunManager, grace: float = 30) -> asyncio.Task[None]:
    """Begin a drain. Returns once the store has recorded it."""
    task = asyncio.create_task(manager.worker.drain(grace))

    async def shows() -> bool:
        return [row.state for row in await manager.worker.fleet() if row.epoch == manager.worker.epoch] == [
            "draining"
        ]

    await wait_until(shows, description="it shows as draining")
    return task


async def portable(manager: RunManager, thread_id: str) -> tuple[RunRecord, Agent]:
    """A queued run that any worker may execute."""
    run, agent = await launched(manager, thread_id, multitask_strategy="enqueue")
    sql_of(manager.store)("UPDATE runs SET portable = TRUE WHERE run_id = ?", run.run_id)
    return run, agent


@on_every_store
async def test_draining_worker_is_shown_and_admits_nothing(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(a, "t")
    assert not a.worker.draining
    leaving = await begun(a)
    assert (a.worker.draining, b.worker.draining) == (True, False)
    for admitting in (a.create("t2"), a.create_or_reject("t2"), a.threads.replace_values("t2", {})):
        with pytest.raises(Draining, match="draining, retry elsewhere"):
            await admitting
    assert (await running(b, "t2"))[1].running, "elsewhere it works"
    agent.may_end.set()
    await leaving
    assert run.status is RunStatus.success


async def test_draining_worker_is_shown_during_a_store_outage(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*args: Any, **kwargs: Any) -> None:
        raise StoreUnavailable("it is away")

    _, agent = await running(alone, "t")
    leaving = await begun(alone)
    with monkeypatch.context() as patch:
        patch.setattr(alone.store, "admit", away)
        answer = (await asyncio.gather(alone.create_or_reject("t2"), return_exceptions=True))[0]
    agent.may_end.set()
    await leaving
    assert isinstance(answer, Draining)


async def test_second_drain_shortens_the_grace(alone: RunManager) -> None:
    run, agent = await running(alone, "t")
    first = await begun(alone)
    began = time.monotonic()
    await alone.worker.drain()
    await first
    assert time.monotonic() - began < BOUND
    assert (run.status, agent.cancels) == (RunStatus.interrupted, 1)


async def test_end_of_grace_is_immediate_and_close_joins_the_drain(alone: RunManager) -> None:
    run, agent = await running(alone, "t")
    alone.worker.end_grace()
    assert agent.running, "nothing is under way"
    first = await begun(alone)
    closing = asyncio.create_task(alone.shutdown(timeout=30))
    await asyncio.sleep(0)
    assert agent.cancels == 0, "it only joins"
    alone.worker.end_grace()
    await asyncio.gather(first, closing)
    assert (run.status, agent.cancels) == (RunStatus.interrupted, 1)


@on_every_store
async def test_stopped_run_knows_its_cause_before_the_decision(team: list[RunManager]) -> None:
    a, b = team
    run, seen = await a.create_or_reject("t"), list[Any]()
    started = asyncio.Event()

    async def agent(ctx: RunContext) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            row = (await b.runs.explain(run.run_id)).run
            seen.extend((ctx.abort and ctx.abort.cause, ctx.abort_event.is_set(), row.status))
            await ctx.save({"kept": True})  # nothing is decided: it may still write
            raise

    a.launch(run, agent)
    await started.wait()
    await a.worker.drain(grace=0)
    assert seen == ["shutdown", True, "running"]
    receipt = await b.runs.receipt(run.run_id)
    assert (receipt.status, receipt.cause) == ("interrupted", "shutdown")
    thread = await b.threads.get("t")
    assert thread.values == {"kept": True}


@on_every_store
async def test_user_cancel_during_unwinding_wins(team: list[RunManager]) -> None:
    """Reported failure 7, at the last possible moment."""
    a, b = team
    run, agent = await running(a, "t", Agent(stubborn=True))
    leaving = asyncio.create_task(a.worker.drain(grace=0))
    await agent.cancelled.wait()
    assert await b.cancel(run.run_id, reason="mine")
    agent.may_stop.set()
    await leaving
    receipt = await b.runs.receipt(run.run_id)
    assert (receipt.cause, receipt.reason, agent.cancels) == ("user", "mine", 1)


@on_every_store
async def test_queued_run_starts_within_the_grace(team: list[RunManager]) -> None:
    a, b = team
    _, holder = await running(b, "t")
    run, agent = await launched(a, "t", Agent(returns="done"), multitask_strategy="enqueue")
    leaving = await begun(a)
    holder.may_end.set()
    await agent.started.wait()
    agent.may_end.set()
    await leaving
    assert await b.wait(run.run_id, timeout=20) == "done"


@on_every_store
async def test_queued_run_ends_with_the_grace(team: list[RunManager]) -> None:
    a, b = team
    await running(b, "t")
    run, agent = await launched(a, "t", multitask_strategy="enqueue")
    await a.worker.drain(grace=0.2)
    receipt = await b.runs.receipt(run.run_id)
    assert (receipt.status, receipt.cause) == ("interrupted", "shutdown")
    assert not agent.started.is_set()


async def handed_over(a: RunManager, b: RunManager, run: RunRecord, agent: Agent) -> None:
    row = (await b.runs.explain(run.run_id)).run
    assert (row.status, row.home_epoch, row.owner_epoch) == ("pending", None, None)
    task = run.task
    assert task is not None
    await asyncio.wait([task])
    assert not agent.started.is_set(), "not here"
    assert run.abort_event.is_set()
    assert run.status is RunStatus.pending, "nothing is decided"
    assert (await b.runs.explain(run.run_id)).transitions[-1].what == "handed over"


@on_every_store
async def test_queued_portable_run_is_handed_over(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = team
    await running(b, "t")
    run, agent = await portable(a, "t")
    hints: list[tuple[int, Signal]] = []

    def hint(epoch: int, signal: Signal) -> None:
        hints.append((epoch, signal))

    monkeypatch.setattr(assembly_of(a).shared.notifier, "notify_worker", hint)
    waiting = asyncio.create_task(a.wait(run.run_id))
    await asyncio.sleep(0)
    async with asyncio.timeout(BOUND):
        await a.worker.drain(grace=30)
    await handed_over(a, b, run, agent)
    assert hints == [(b.worker.epoch, Signal(kind="claim", thread_id="t"))]
    await assembly_of(a).shared.worker.retire()
    assert (await b.runs.explain(run.run_id)).run.open, "no worker ends it as an orphan"
    assert not waiting.done(), "a wait at the old home continues until the new home ends the run"
    await b.cancel(run.run_id)
    assert await waiting is None


@pytest.mark.parametrize("readable", [True, False], ids=["and its row is read", "and its row is not read"])
@on_every_store
async def test_handover_succeeds_although_the_stores_answer_is_lost(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    a, b = team
    await running(b, "t")
    run, agent = await portable(a, "t")
    drain = a.store.drain

    async def lost(epoch: int) -> Any:
        await drain(epoch)
        raise StoreUnavailable("the connection broke")

    async def unread(run_id: str) -> Any:
        raise StoreUnavailable("the connection broke")

    monkeypatch.setattr(a.store, "drain", lost)
    if not readable:
        monkeypatch.setattr(a.store, "standing", unread)
    await a.worker.drain(grace=0.1)
    await handed_over(a, b, run, agent)


async def test_run_whose_row_is_missing_does_not_stop_the_drain(alone: RunManager) -> None:
    run, other = [await alone.create_or_reject(thread_id) for thread_id in ("t", "other")]
    sql_of(alone.store)("DELETE FROM runs WHERE run_id = ?", run.run_id)
    await alone.worker.drain()
    receipt = await alone.runs.receipt(other.run_id)
    assert (receipt.status, receipt.cause) == ("interrupted", "shutdown")
    assert not assembly_of(alone).shared.registry.unsettled()


async def test_admission_committed_before_the_drain_is_drained(alone: RunManager) -> None:
    """The drain begins after the row was written and before its answer has arrived."""
    held = hold_answers(alone.store, "admit")
    agent = Agent(returns="done")
    admitting = asyncio.create_task(launched(alone, "t", agent))
    await held.reached.wait()
    leaving = await begun(alone)
    held.go_on.set()
    run, _ = await admitting
    await agent.started.wait()
    agent.may_end.set()
    await leaving
    assert run.status is RunStatus.success


@pytest.mark.parametrize("thread_id", ["t", "t2"], ids=["it waits", "it runs"])
async def test_admission_answered_during_the_drain_is_stopped(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch, thread_id: str
) -> None:
    """Otherwise its task would outlive its worker, because no drain has stopped it."""
    _, deaf = await running(alone, "t", Agent(stubborn=True))
    decide, late, held = alone.store.decide, Agent(), hold_answers(alone.store, "admit")

    async def meanwhile(*args: Any, **kwargs: Any) -> Any:
        held.go_on.set()
        await asyncio.wait([admitting])
        if thread_id != "t":
            await late.started.wait()
        return await decide(*args, **kwargs)

    monkeypatch.setattr(alone.store, "decide", meanwhile)
    admitting = asyncio.create_task(launched(alone, thread_id, late, multitask_strategy="enqueue"))
    await held.reached.wait()
    await alone.worker.drain(grace=0)
    run, _ = await admitting
    deaf.may_stop.set()
    await deaf.stopped.wait()
    assert not run.task_active
    row = (await alone.runs.explain(run.run_id)).run
    assert (row.status, row.cancel_cause, row.settled) == ("interrupted", "shutdown", True)


async def test_admission_committed_after_the_drain_is_refused_without_effect(alone: RunManager) -> None:
    """The admission passed the local check before the drain, and reaches the store after it. The refusal must
    not be taken for a declaration of death, which would end every run of the worker."""
    run, agent = await running(alone, "t", Agent(returns="done"))
    held = hold_calls(alone.store, "admit")
    admitting = asyncio.create_task(alone.create_or_reject("t2"))
    await held.reached.wait()
    leaving = await begun(alone)
    held.go_on.set()
    with pytest.raises(Draining):
        await admitting
    assert agent.running
    agent.may_end.set()
    await leaving
    assert await alone.wait(run.run_id, timeout=20) == "done"


async def test_drain_that_the_store_could_not_record_is_recorded_later(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that this worker hands over are continued by others once the store shows that it drains."""
    a, b = team
    drain, attempts = a.store.drain, list[int]()

    async def away_at_first(epoch: int) -> Any:
        attempts.append(epoch)
        if len(attempts) == 1:
            raise StoreUnavailable("it is away")
        return await drain(epoch)

    monkeypatch.setattr(a.store, "drain", away_at_first)
    await a.worker.drain(grace=0)

    async def shown() -> bool:
        return any(row.epoch == a.worker.epoch and row.state == "draining" for row in await b.worker.fleet())

    await wait_until(shown, description="the store shows that it drains")
    await asyncio.sleep(0)
    assert len(attempts) == 2


async def test_worker_that_registers_while_its_drain_begins_admits_nothing(team: list[RunManager]) -> None:
    """It lost its lease before, and no drain would sign the new epoch off: no worker would continue a run
    that was admitted in it and handed over."""
    a, b = team
    await lost_its_lease(a)
    held = hold_answers(a.store, "register")
    admitting = asyncio.create_task(a.create_or_reject("t"))
    await held.reached.wait()
    await a.worker.drain(grace=0)
    held.go_on.set()
    with pytest.raises(Draining):
        await admitting
    assert [row.epoch for row in await b.worker.fleet()] == [b.worker.epoch]


async def lost_its_lease(manager: RunManager) -> None:
    """The worker has lost its lease, and has no heartbeat that would register it again."""
    await hang(manager)
    worker = assembly_of(manager).shared.worker
    worker.fenced(worker.epoch, "a test")


@on_every_store
async def test_end_refused_by_an_outage_is_written_when_the_store_is_back(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has drained and is alive: no other worker would end the run."""
    a, b = team
    await running(b, "t")
    run = await a.create_or_reject("t", multitask_strategy="enqueue")
    decide, back = a.store.decide, asyncio.Event()

    async def away(*args: Any, **kwargs: Any) -> Any:
        if not back.is_set():
            raise StoreUnavailable("it is away")
        return await decide(*args, **kwargs)

    monkeypatch.setattr(a.store, "decide", away)
    await a.worker.drain(grace=0)
    back.set()

    async def settled() -> bool:
        return (await b.runs.explain(run.run_id)).run.settled

    await wait_until(settled, description="it is ended")
    row = (await b.runs.explain(run.run_id)).run
    assert (row.status, row.cancel_cause) == ("interrupted", "shutdown")


async def forced(a: RunManager, b: RunManager, run_id: str) -> None:
    began = time.monotonic()
    await a.worker.drain(grace=0)
    await a.aclose()
    assert time.monotonic() - began < BOUND, "not after `force_after`, which may be longer"
    assert a.worker.forced == 1
    explained = await b.runs.explain(run_id)
    row = explained.run
    assert (row.status, row.cancel_cause, row.settled) == ("interrupted", "shutdown", True)
    assert "fenced" in [step.what for step in explained.transitions]


async def test_task_that_stops_soon_after_the_decision_is_not_forced(alone: RunManager) -> None:
    """It ignores the cancels that precede the decision over its run."""
    run = await alone.create_or_reject("t")

    async def reluctant(ctx: RunContext) -> None:
        while run.status is RunStatus.running:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        decided_at = time.monotonic()
        while time.monotonic() - decided_at < 0.1:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        raise asyncio.CancelledError

    alone.launch(run, reluctant)
    await alone.worker.drain(0.1)
    assert alone.worker.forced == 0
    assert run.status is RunStatus.interrupted


async def test_task_that_ignores_its_cancel_is_forced_within_the_bound(tmp_path: Path) -> None:
    """Reported failure 37."""
    async with team_of(2, tmp_path, force_after=60) as (a, b):
        run, agent = await running(a, "t", Agent(stubborn=True))
        await forced(a, b, run.run_id)
        assert agent.cancels == 1
        agent.may_stop.set()
        await agent.stopped.wait()


async def test_callers_task_that_ignores_its_cancel_is_forced_within_the_bound(tmp_path: Path) -> None:
    async with team_of(2, tmp_path, force_after=60) as (a, b):
        run = await a.create_or_reject("t")
        await a.set_status(run.run_id, RunStatus.running)
        work = await working(run)
        await forced(a, b, run.run_id)
        assert work.cancels == 1
        work.unwound.set()
        await asyncio.wait([work.task])


async def test_drain_is_bounded_although_the_store_does_not_answer(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, agent = await running(alone, "t", Agent(stubborn=True))
    back = asyncio.Event()

    def hanging(write: Any) -> Any:
        async def hang(*args: Any, **kwargs: Any) -> Any:
            await back.wait()
            return await write(*args, **kwargs)

        return hang

    for name in ("drain", "decide", "finish", "refence"):
        monkeypatch.setattr(alone.store, name, hanging(getattr(alone.store, name)))
    began = time.monotonic()
    await alone.worker.drain(grace=0)
    assert time.monotonic() - began < BOUND
    back.set()
    agent.may_stop.set()
    await assembly_of(alone).close(0)
    assert not run.task_active


@on_every_store
async def test_requested_drain_reaches_that_worker_only(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(b, "t")
    assert await a.worker.request_drain(b.worker.epoch, grace=0) == [(b.worker.epoch, False)]
    await wait_until(lambda: run.status is RunStatus.interrupted, description="it is stopped")
    assert (agent.cancels, a.worker.draining, b.worker.draining) == (1, False, True)
    assert (await a.runs.explain(run.run_id)).run.cancel_cause == "shutdown"
    assert [row.state for row in await a.worker.fleet()] == ["live", "draining"]
    assert await a.worker.request_drain(b.worker.epoch) == [(b.worker.epoch, True)]


async def test_requested_drain_begins_before_the_next_tick(
    tmp_path: Path, shared_valkey: ValkeyServer, namespace: str
) -> None:
    """A hint without run and thread makes a worker read everything."""
    ticks = {"tick": 3600.0, "short_tick": 3600.0}
    async with team_of(2, tmp_path, redis=shared_valkey.url, namespace=namespace, **ticks) as (a, b):
        await b.create_or_reject("t")  # its first tick, and what follows from its start, is over then
        assert await a.worker.request_drain(b.worker.epoch, grace=0) == [(b.worker.epoch, False)]
        await wait_until(lambda: b.worker.draining, description="it drains", timeout=10)


async def test_drain_of_all_includes_the_requesting_worker(team: list[RunManager]) -> None:
    a, b = team
    agents = [(await running(manager, f"t{at}"))[1] for at, manager in enumerate(team)]
    assert [request.epoch for request in await a.worker.request_drain(grace=30)] == [
        a.worker.epoch,
        b.worker.epoch,
    ]
    await wait_until(lambda: a.worker.draining and b.worker.draining, description="both have found out")
    assert all(agent.running for agent in agents), "they have their grace"
    assert len(await b.worker.request_drain(grace=0)) == 2, "another wish may shorten it"
    await wait_until(lambda: not any(agent.running for agent in agents), description="the grace is over")


async def test_dead_worker_gets_no_drain_request(team: list[RunManager]) -> None:
    a, b = team
    gone = b.worker.epoch
    await b.aclose()
    assert await a.worker.request_drain(gone) == []
    assert await a.worker.request_drain(gone + 100) == []


async def test_unread_drain_request_refuses_no_admission(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker works until it drains: it must not be taken for a dead one, whose runs would be dropped."""
    a, b = team
    with monkeypatch.context() as patch:
        patch.setattr(assembly_of(b).drain, "accept_request", _nothing)
        await a.worker.request_drain(b.worker.epoch)
        run, agent = await running(b, "t")
        await assembly_of(b).watch.tick()
        assert (run.status, agent.running, b.worker.draining) == (RunStatus.running, True, False)
    agent.may_end.set()


def _nothing(wish: object) -> None:
    del wish


@pytest.mark.parametrize(
    "wish", [{"epoch": "1"}, {"epoch": True}, {"epoch": -1}, {"grace": -1}, {"grace": 1e12}]
)
async def test_invalid_drain_request_is_refused(alone: RunManager, wish: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        await alone.worker.request_drain(**wish)


async def test_signals_refuse_an_object_that_cannot_be_drained(team: list[RunManager]) -> None:
    with (
        pytest.raises(TypeError, match=r"needs `manager\.worker`"),
        draining_on_signals(cast("Any", team[0])),
    ):
        pass


async def test_requested_drain_is_logged_by_the_worker_that_drains(
    team: list[RunManager], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = team
    with caplog.at_level(logging.INFO):
        await a.worker.request_drain(b.worker.epoch, grace=0)
        await wait_until(lambda: b.worker.draining, description="the worker drains")
    assert len([line for line in caplog.messages if "drains at the request of another process" in line]) == 1


async def test_drain_that_a_worker_requests_of_itself_is_logged_as_such(
    team: list[RunManager], caplog: pytest.LogCaptureFixture
) -> None:
    [a, *_] = team
    with caplog.at_level(logging.INFO):
        await a.worker.request_drain(a.worker.epoch, grace=30)
        await wait_until(lambda: "drains at the request" in caplog.text, description="the tick reads it")
    assert "drains at the request of a client of it" in caplog.text
    assert "another process" not in caplog.text
