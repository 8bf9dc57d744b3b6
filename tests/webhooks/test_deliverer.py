"""The loop that delivers webhooks, with real managers, stores and receivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from coordinator import RunContext, RunManager
from coordinator.errors import InvalidArgument, StoreUnavailable
from coordinator.resources.webhooks import Webhooks
from coordinator.telemetry.events import Event, WebhookDelivered, WebhookFailed
from coordinator.webhooks import deliverer as module
from coordinator.webhooks.deliverer import Deliverer
from coordinator.webhooks.lookups import Lookups
from coordinator.webhooks.policy import WebhookPolicy
from coordinator.webhooks.settings import WebhookSettings
from coordinator.webhooks.signing import verify
from coordinator.webhooks.targets import Targets
from stores.memory import MemoryStore
from stores.states import WebhookState
from stores.webhooks import ClaimedWebhook, Shares, WebhookReport, WebhookRow
from tests.support.inside import assembly_of, attempt_of, report_of_failure
from tests.support.names import slow_names
from tests.support.receiver import Receiver, receiving, status
from tests.support.teams import team_of
from tests.support.waiting import wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
QUICK: dict[str, Any] = {
    "webhook_allow_private": True,
    "webhook_secret": SecretStr(SECRET),
    "webhook_timeout": 5.0,
    "webhook_attempts": 3,
    "webhook_backoff": 0.02,
    "webhook_poll": 0.01,
}


def quick(**overrides: Any) -> WebhookSettings:
    return WebhookSettings(**{**QUICK, **overrides})


@pytest.fixture(autouse=True)
async def nothing_left(no_task_left: None) -> None:
    """No delivery leaves a task behind."""


@pytest.fixture
async def manager(events: list[Event]) -> AsyncGenerator[RunManager]:
    async with RunManager(MemoryStore(shared=True), hooks=(events.append,)) as manager:
        yield manager


@pytest.fixture
def events() -> list[Event]:
    return []


async def agent(ctx: RunContext) -> dict[str, Any]:
    if ctx.run.kwargs.get("fail"):
        raise ValueError("as requested")
    return {"answer": 42}


async def run(manager: RunManager, url: str, thread: str = "t", **kwargs: Any) -> str:
    record = await manager.create_or_reject(
        thread, "agent", kwargs=kwargs, metadata={"m": 1}, webhook=url, multitask_strategy="enqueue"
    )
    manager.launch(record, agent)
    return record.run_id


async def ended(manager: RunManager, run_id: str) -> WebhookRow:
    """The webhook's row once it is delivered or dead."""

    async def over() -> bool:
        (row,) = await manager.webhooks.search(run_id=run_id)
        return row.ended_at is not None

    await wait_until(over, description="the webhook is delivered or dead")
    return (await manager.webhooks.search(run_id=run_id))[0]


# -- what a receiver gets


async def test_signed_webhook_is_sent_after_the_run_settles(manager: RunManager, events: list[Event]) -> None:
    async with receiving() as receiver, Deliverer(manager.webhooks, manager.assistants, quick()).running():
        run_id = await run(manager, receiver.url, input={"q": "ü"})
        row = await ended(manager, run_id)
    assert (row.state, row.attempts, row.status_code) == (WebhookState.delivered, 1, 200)
    (got,) = receiver.received
    assert verify(SECRET, got.headers, got.body) == run_id
    document = got.document
    stored = (await manager.runs.recent())[0]
    assert document.pop("run_ended_at") >= document.pop("run_started_at") >= stored.created_at
    assert document.pop("webhook_sent_at") >= stored.created_at
    assert document.pop("updated_at") >= stored.created_at
    assert document == {
        "run_id": run_id,
        "thread_id": "t",
        "assistant_id": manager.assistants.id_of("agent"),
        "created_at": stored.created_at,
        "status": "success",
        "metadata": {"m": 1},
        "kwargs": {"input": {"q": "ü"}},
        "multitask_strategy": "enqueue",
        "error": None,
        "cancel_reason": None,
        "cancel_action": None,
        "values": {"answer": 42},
    }
    assert WebhookDelivered(run_id, 1) in events


async def test_webhook_of_failed_run_has_its_error(manager: RunManager) -> None:
    async with receiving() as receiver, Deliverer(manager.webhooks, manager.assistants, quick()).running():
        await ended(manager, await run(manager, receiver.url, fail=True))
    document = receiver.received[0].document
    assert (document["status"], document["error"]) == ("error", "ValueError: as requested")
    assert document["values"] is None


async def test_webhook_of_cancelled_run_has_its_reason(manager: RunManager) -> None:
    started = asyncio.Event()

    async def endless(ctx: RunContext) -> None:
        await ctx.save({"so": "far"})
        started.set()
        await asyncio.Event().wait()

    async with receiving() as receiver, Deliverer(manager.webhooks, manager.assistants, quick()).running():
        record = await manager.create_or_reject("t", webhook=receiver.url)
        manager.launch(record, endless)
        await started.wait()
        await manager.cancel(record.run_id, reason="enough", wait=5)
        await ended(manager, record.run_id)
    document = receiver.received[0].document
    assert (document["status"], document["cancel_reason"]) == ("interrupted", "enough")
    assert document["values"] == {"so": "far"}


async def test_webhook_of_paused_run_has_its_interrupts(manager: RunManager) -> None:
    from coordinator import Interrupt, Outcome

    async def pauses(ctx: RunContext) -> Outcome:
        return Outcome(values={"n": 1}, paused=True, interrupts=(Interrupt("go on?", "i1"),))

    async with receiving() as receiver, Deliverer(manager.webhooks, manager.assistants, quick()).running():
        record = await manager.create_or_reject("t", webhook=receiver.url)
        manager.launch(record, pauses)
        await ended(manager, record.run_id)
    interrupts = [{"value": "go on?", "id": "i1"}]
    assert receiver.received[0].document["values"] == {"n": 1, "__interrupt__": interrupts}


async def test_webhook_without_secret_is_sent_unsigned(manager: RunManager) -> None:
    async with (
        receiving() as receiver,
        Deliverer(manager.webhooks, manager.assistants, quick(webhook_secret=None)).running(),
    ):
        run_id = await run(manager, receiver.url)
        await ended(manager, run_id)
    headers = receiver.received[0].headers
    assert headers["webhook-id"] == run_id
    assert "webhook-signature" not in headers


# -- attempts


async def test_failed_attempt_is_retried_with_the_same_id(manager: RunManager, events: list[Event]) -> None:
    async with (
        receiving(500, 300, 204) as receiver,
        Deliverer(manager.webhooks, manager.assistants, quick()).running(),
    ):
        run_id = await run(manager, receiver.url)
        row = await ended(manager, run_id)
    assert (row.state, row.attempts, row.error) == (WebhookState.delivered, 3, None)
    assert {got.headers["webhook-id"] for got in receiver.received} == {run_id}
    documents = [got.document for got in receiver.received]
    for document in documents:
        del document["webhook_sent_at"]
    assert documents[0] == documents[1] == documents[2]
    failed = [event for event in events if isinstance(event, WebhookFailed)]
    assert [event.error for event in failed] == ["answered with status 500", "answered with status 300"]


async def test_retry_is_sent_when_it_is_due_and_not_with_the_next_poll(manager: RunManager) -> None:
    seldom = Deliverer(manager.webhooks, manager.assistants, quick(webhook_poll=3600))
    async with receiving(500, 204) as receiver:
        run_id = await run(manager, receiver.url)
        await manager.wait(run_id)
        async with seldom.running():
            row = await ended(manager, run_id)
    assert (row.state, row.attempts) == (WebhookState.delivered, 2)


async def test_webhook_is_dead_after_its_last_attempt_and_can_be_revived(
    manager: RunManager, events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    async with receiving(503) as receiver, Deliverer(manager.webhooks, manager.assistants, quick()).running():
        run_id = await run(manager, receiver.url)
        row = await ended(manager, run_id)
        assert (row.state, row.attempts, row.status_code) == (WebhookState.dead, 3, 503)
        assert row.error == "answered with status 503"
        assert len(receiver.received) == 3
        assert WebhookFailed(run_id, 3, row.error, None) in events
        receiver.answers = Receiver(200).answers
        assert await manager.webhooks.revive([run_id]) == [run_id]
        row = await ended(manager, run_id)
    assert (row.state, row.attempts) == (WebhookState.delivered, 1)


async def test_status_410_ends_the_attempts(manager: RunManager) -> None:
    async with receiving(410) as receiver, Deliverer(manager.webhooks, manager.assistants, quick()).running():
        row = await ended(manager, await run(manager, receiver.url))
    assert (row.state, row.attempts, row.status_code) == (WebhookState.dead, 1, 410)


async def test_closed_port_raises_not_reached(manager: RunManager) -> None:
    async with receiving() as receiver:
        url = receiver.url
    async with Deliverer(manager.webhooks, manager.assistants, quick()).running():
        row = await ended(manager, await run(manager, url))
    assert (row.state, row.attempts, row.status_code) == (WebhookState.dead, 3, None)


async def test_webhook_with_forbidden_url_is_dead_at_once(manager: RunManager) -> None:
    async with receiving() as receiver:
        public = quick(webhook_allow_private=False)
        async with Deliverer(manager.webhooks, manager.assistants, public).running():
            row = await ended(manager, await run(manager, receiver.url))
            other = await ended(manager, await run(manager, f"https://localhost:{receiver.port}/"))
    assert (row.state, row.attempts, row.error) == (
        WebhookState.dead,
        1,
        "not sent: the URL must begin with https://",
    )
    assert other.state is WebhookState.dead
    assert receiver.connections == 0


def test_backoff_grows_with_attempts() -> None:
    settings = WebhookSettings(webhook_backoff=5, webhook_backoff_max=3600, webhook_attempts=20)
    manager = RunManager()
    deliverer = Deliverer(manager.webhooks, manager.assistants, settings)
    for attempt, longest in ((1, 5), (2, 10), (5, 80), (10, 2560), (11, 3600), (19, 3600)):
        report = report_of_failure(deliverer, ClaimedWebhook("r", attempt, "", {}), "x")
        assert report.retry_in is not None
        assert longest / 2 <= report.retry_in / 1e6 <= longest
    assert report_of_failure(deliverer, ClaimedWebhook("r", 20, "", {}), "x").retry_in is None


async def test_claim_beyond_the_last_attempt_is_not_sent(manager: RunManager) -> None:
    """Otherwise a webhook that kills its worker would be claimed for ever."""
    async with receiving() as receiver:
        deliverer = Deliverer(manager.webhooks, manager.assistants, quick())
        report = await attempt_of(deliverer, ClaimedWebhook("r", 4, receiver.url, {}))
    assert report == WebhookReport(
        delivered=False, error="the worker of the last attempt died before it reported"
    )
    assert receiver.connections == 0


async def test_webhook_that_cannot_be_encoded_does_not_affect_others(
    manager: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Any, **_: Any) -> bytes:
        if run["thread_id"] == "bad":
            raise RecursionError
        return b"{}"

    monkeypatch.setattr(module, "body", broken)
    async with receiving() as receiver, Deliverer(manager.webhooks, manager.assistants, quick()).running():
        bad = await ended(manager, await run(manager, receiver.url, "bad"))
        good = await ended(manager, await run(manager, receiver.url, "good"))
    assert (bad.state, bad.error) == (WebhookState.dead, "RecursionError")
    assert good.state is WebhookState.delivered


# -- several at once


async def test_slow_receiver_does_not_delay_others(manager: RunManager) -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with (
        receiving(silent) as slow,
        receiving() as quickly,
        Deliverer(manager.webhooks, manager.assistants, quick(webhook_timeout=60.0)).running(),
    ):
        for number in range(3):
            await run(manager, slow.url, f"slow{number}")
        await wait_until(lambda: len(slow.received) == 3, description="all wait for their answers")
        row = await ended(manager, await run(manager, quickly.url))
        assert row.state is WebhookState.delivered
        await slow.hang_up()


async def test_hanging_receiver_occupies_a_part_of_the_slots(
    manager: RunManager, events: list[Event]
) -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    settings = quick(webhook_timeout=60.0, webhook_concurrency=4, webhook_per_receiver=2)
    async with (
        receiving(silent) as hangs,
        receiving() as quickly,
        Deliverer(manager.webhooks, manager.assistants, settings).running(),
    ):
        held_up = [await run(manager, hangs.url, f"hangs{number}") for number in range(12)]
        await wait_until(lambda: len(hangs.received) == 2, description="two have nearly all slots")
        others = [await run(manager, quickly.url, f"t{number}") for number in range(8)]
        for run_id in others:
            assert (await ended(manager, run_id)).attempts == 1
        rows = [(await manager.webhooks.search(run_id=run_id))[0] for run_id in held_up]
        assert {row.state for row in rows} == {WebhookState.due}
        assert not [event for event in events if isinstance(event, WebhookFailed)], "to wait is no failure"
        assert len(hangs.received) == 2

        hangs.answers[:] = [status(200)]
        await hangs.hang_up()
        for run_id in held_up:
            assert (await ended(manager, run_id)).attempts <= 2, "no attempt went with the waiting"


async def of_user(manager: RunManager, user_id: str, url: str, thread: str) -> str:
    record = await manager.create_or_reject(thread, "agent", webhook=url, user_id=user_id)
    manager.launch(record, agent)
    return record.run_id


async def test_hanging_receivers_of_one_user_do_not_delay_other_users(manager: RunManager) -> None:
    """There are as many receivers as slots, and none of them exceeds `webhook_per_receiver`."""

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    settings = quick(webhook_timeout=60.0, webhook_concurrency=8, webhook_per_receiver=2)
    async with AsyncExitStack() as stack:
        hanging = [await stack.enter_async_context(receiving(silent)) for _ in range(8)]
        quickly = await stack.enter_async_context(receiving())
        await stack.enter_async_context(Deliverer(manager.webhooks, manager.assistants, settings).running())
        held_up = [
            await of_user(manager, "alice", receiver.url, f"a{number}")
            for number, receiver in enumerate(hanging * 3)
        ]

        def open_attempts() -> int:
            return sum(receiver.connections for receiver in hanging)

        await wait_until(lambda: open_attempts() == 2, description="alice has a quarter of the places")
        for number in range(10):
            row = await ended(manager, await of_user(manager, "bob", quickly.url, f"b{number}"))
            assert (row.state, row.attempts) == (WebhookState.delivered, 1)
        assert open_attempts() == 2
        rows = [(await manager.webhooks.search(run_id=run_id))[0] for run_id in held_up]
        assert {row.state for row in rows} == {WebhookState.due}, "they wait for their turn"
        for receiver in hanging:
            receiver.answers[:] = [status(200)]
            await receiver.hang_up()
        for run_id in held_up:
            assert (await ended(manager, run_id)).state is WebhookState.delivered


async def test_hanging_receiver_leaves_slots_for_the_same_users_other_receivers(manager: RunManager) -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    settings = quick(webhook_timeout=60.0, webhook_concurrency=8, webhook_per_receiver=8)
    async with (
        receiving(silent) as hangs,
        receiving() as quickly,
        Deliverer(manager.webhooks, manager.assistants, settings).running(),
    ):
        for number in range(6):
            await of_user(manager, "alice", hangs.url, f"hangs{number}")
        await hangs.arrived.wait()
        for number in range(6):
            row = await ended(manager, await of_user(manager, "alice", quickly.url, f"t{number}"))
            assert (row.state, row.attempts) == (WebhookState.delivered, 1)
        assert hangs.connections == 1
        await hangs.hang_up()


async def test_slow_names_of_one_user_cost_other_users_no_attempt(manager: RunManager) -> None:
    settings = quick(webhook_timeout=1.0, webhook_concurrency=16)
    with slow_names() as names:
        targets = Targets(allow_private=True, lookups=Lookups(names))
        async with (
            receiving() as receiver,
            Deliverer(manager.webhooks, manager.assistants, settings, targets=targets).running(),
        ):
            for number in range(40):
                await of_user(manager, "alice", f"http://slow{number}.example.com/", f"a{number}")
            await wait_until(
                lambda: len(names.queried) == 2, description="alice has a quarter of the threads"
            )
            url = f"http://hooks.example.com:{receiver.port}/"
            for number in range(10):
                row = await ended(manager, await of_user(manager, "bob", url, f"b{number}"))
                assert (row.state, row.attempts) == (WebhookState.delivered, 1)
            assert sum("slow" in host for host in names.queried) == 2
            names.released.set()


async def test_concurrent_attempts_are_bounded(manager: RunManager) -> None:
    release = asyncio.Event()

    async def held(writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with (
        receiving(held) as receiver,
        Deliverer(manager.webhooks, manager.assistants, quick(webhook_concurrency=2)).running(),
    ):
        ids = [await run(manager, receiver.url, f"t{number}") for number in range(5)]
        await wait_until(lambda: len(receiver.received) == 2, description="two are under way")
        for _ in range(20):
            await asyncio.sleep(0)
        rows = [(await manager.webhooks.search(run_id=run_id))[0] for run_id in ids]
        assert sum(row.attempts for row in rows) == 2
        release.set()
        for run_id in ids:
            assert (await ended(manager, run_id)).attempts == 1


async def test_single_slot_delivers_one_webhook_after_another(manager: RunManager) -> None:
    async with (
        receiving() as receiver,
        Deliverer(manager.webhooks, manager.assistants, quick(webhook_concurrency=1)).running(),
    ):
        for run_id in [await run(manager, receiver.url, f"t{number}") for number in range(2)]:
            assert (await ended(manager, run_id)).state is WebhookState.delivered


async def test_two_workers_deliver_each_webhook_once(tmp_path: Path) -> None:
    async with team_of(2, tmp_path) as team, receiving() as receiver, AsyncExitStack() as stack:
        for worker in team:
            await stack.enter_async_context(Deliverer(worker.webhooks, worker.assistants, quick()).running())
        ids = [await run(team[n % 2], receiver.url, f"t{n}") for n in range(40)]
        rows = [await ended(team[0], run_id) for run_id in ids]
    assert {row.state for row in rows} == {WebhookState.delivered}
    assert sorted(got.document["run_id"] for got in receiver.received) == sorted(ids)


async def test_any_live_worker_delivers(tmp_path: Path) -> None:
    """The run was admitted on a worker without deliverer."""
    async with team_of(2, tmp_path) as (one, other), receiving() as receiver:
        run_id = await run(one, receiver.url)
        await one.wait(run_id)
        async with Deliverer(other.webhooks, other.assistants, quick()).running():
            row = await ended(other, run_id)
    assert row.claimed_by == other.worker.epoch


# -- store outages, and stopping


class Interrupted:
    """Webhooks whose store is unreachable in the calls that are in `failing`, or which fail with `error`."""

    def __init__(self, webhooks: Webhooks, error: Exception | None = None) -> None:
        self._webhooks, self._error = webhooks, error or StoreUnavailable("away")
        self.failing: set[str] = set()
        self.calls: list[str] = []

    def _at(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise self._error

    async def next_due(self) -> float | None:
        self._at("next")
        return await self._webhooks.next_due()

    async def claim(self, *, lease: float, limit: int, shares: Shares | None = None) -> list[ClaimedWebhook]:
        self._at("claim")
        return await self._webhooks.claim(lease=lease, limit=limit, shares=shares)

    async def report(self, run_id: str, *, attempt: int, report: WebhookReport) -> bool:
        self._at("report")
        return await self._webhooks.report(run_id, attempt=attempt, report=report)


@pytest.mark.parametrize("what", ["next", "claim", "report"])
async def test_store_outage_delays_webhooks_but_loses_none(
    manager: RunManager, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_REPORT_BACKOFF", 0.01)
    outbox = Interrupted(manager.webhooks)
    outbox.failing.add(what)
    async with receiving() as receiver, Deliverer(outbox, manager.assistants, quick()).running():
        run_id = await run(manager, receiver.url)
        await wait_until(lambda: outbox.calls.count(what) > 1, description="the call is retried")
        outbox.failing.clear()
        row = await ended(manager, run_id)
    assert (row.state, row.attempts) == (WebhookState.delivered, 1)
    assert len(receiver.received) == 1
    assert "Traceback" not in caplog.text, "an outage is no fault of the program"


@pytest.mark.parametrize("what", ["next", "claim"])
async def test_unexpected_failure_of_a_round_is_logged_and_delays_webhooks(
    manager: RunManager, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Interrupted(manager.webhooks, ValueError("unexpected"))
    outbox.failing.add(what)
    async with receiving() as receiver, Deliverer(outbox, manager.assistants, quick()).running():
        run_id = await run(manager, receiver.url)
        await wait_until(lambda: outbox.calls.count(what) > 1, description="the call is retried")
        outbox.failing.clear()
        assert (await ended(manager, run_id)).state is WebhookState.delivered
    assert "This worker could not claim webhooks" in caplog.text


async def test_unreported_webhook_is_delivered_again(
    manager: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REPORT_BACKOFF", 0.001)
    monkeypatch.setattr(module, "_LEASE_MARGIN", -4.5)  # of a time limit of 5 s
    outbox = Interrupted(manager.webhooks)
    outbox.failing.add("report")
    async with receiving() as receiver:
        async with Deliverer(outbox, manager.assistants, quick()).running():
            run_id = await run(manager, receiver.url)
            await wait_until(
                lambda: outbox.calls.count("report") == 5, description="the deliverer gives up reporting"
            )
        async with Deliverer(manager.webhooks, manager.assistants, quick()).running():
            row = await ended(manager, run_id)
    assert (row.state, row.attempts) == (WebhookState.delivered, 2)
    assert [got.headers["webhook-id"] for got in receiver.received] == [run_id, run_id]


async def test_fenced_worker_claims_no_webhook_until_it_registers_again(
    manager: RunManager, caplog: pytest.LogCaptureFixture
) -> None:
    async with receiving() as receiver:
        run_id = await run(manager, receiver.url)
        await manager.wait(run_id)
        store: Any = manager.store
        epoch = manager.worker.epoch
        (me,) = await manager.worker.fleet()
        assert await store.fence_worker(me, by=epoch, proven=True)
        async with Deliverer(manager.webhooks, manager.assistants, quick()).running():
            await wait_until(lambda: "no longer live" in caplog.text, description="the claim is refused")
            assembly_of(manager).shared.worker.fenced(epoch, "declared dead")
            row = await ended(manager, run_id)
    assert row.claimed_by != epoch


async def test_stopping_delivers_due_webhooks_and_waits_for_attempts_in_progress(manager: RunManager) -> None:
    release = asyncio.Event()

    async def held(writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with receiving(held) as receiver:
        async with Deliverer(manager.webhooks, manager.assistants, quick(webhook_poll=60.0)).running():
            await asyncio.sleep(0.01)
            run_id = await run(manager, receiver.url)
            await manager.wait(run_id)
            asyncio.get_running_loop().call_later(0.05, release.set)
        (row,) = await manager.webhooks.search(run_id=run_id)
    assert row.state is WebhookState.delivered


async def test_stopping_does_not_wait_for_hanging_receivers(
    manager: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STOP_WITHIN", 0.05)

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with receiving(silent) as receiver:
        async with Deliverer(manager.webhooks, manager.assistants, quick(webhook_timeout=60.0)).running():
            run_id = await run(manager, receiver.url)
            await receiver.arrived.wait()
        under_way = [task for task in asyncio.all_tasks() if task.get_name() == f"webhook of run {run_id!r}"]
        assert under_way == [], "a delivery continues although the deliverer has stopped"
        (row,) = await manager.webhooks.search(run_id=run_id)
    assert row.state is WebhookState.due, "another worker claims it when the lease has expired"


# -- registering a webhook


@pytest.mark.parametrize("url", ["", "x" * 2049, "https://exämple.com/", "https://example.com/ ", "a\nb", 7])
async def test_text_that_is_no_url_is_refused(manager: RunManager, url: Any) -> None:
    with pytest.raises(InvalidArgument, match="webhook"):
        await manager.create_or_reject("t", webhook=url)


async def test_idempotency_key_with_another_webhook_conflicts(manager: RunManager) -> None:
    from coordinator import IdempotencyConflict

    first = await manager.create_or_reject("t", idempotency_key="k", webhook="https://a.example.com/")
    again = await manager.create_or_reject("t", idempotency_key="k", webhook="https://a.example.com/")
    assert again.run_id == first.run_id
    with pytest.raises(IdempotencyConflict):
        await manager.create_or_reject("t", idempotency_key="k", webhook="https://b.example.com/")


async def test_webhook_has_the_headers_and_fields_of_the_policy(manager: RunManager) -> None:
    policy = WebhookPolicy(
        headers={"x-token": "t", "webhook-id": "forged"}, fields=frozenset({"run_id", "status"})
    )
    delivering = Deliverer(manager.webhooks, manager.assistants, quick(), policy=policy).running()
    async with receiving() as receiver, delivering:
        run_id = await run(manager, receiver.url)
        await ended(manager, run_id)
    (got,) = receiver.received
    assert (got.headers["x-token"], got.headers["webhook-id"]) == ("t", run_id)
    assert got.document == {"run_id": run_id, "status": "success"}
    assert verify(SECRET, got.headers, got.body) == run_id
