"""The suites that `coordinator.testing.conformance` ships, entered as an author of an adapter enters them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from coordinator.event_log import Appended, Entry, EventLog
from coordinator.event_logs.local import LocalEventLog
from coordinator.lock import SlotAnswer, SlotState
from coordinator.locks.local import LocalSlotLock
from coordinator.notifier import Connectivity, Notifier, Signal, Wakeup
from coordinator.notifiers.local import LocalHub, LocalNotifier
from coordinator.testing import conformance
from stores.memory import MemoryStore
from stores.rows import Finish, Outcome, Ownership

pytestmark = pytest.mark.usefixtures("no_task_left")


@asynccontextmanager
async def notifiers(kind: type[LocalNotifier] = LocalNotifier) -> AsyncGenerator[conformance.MakeNotifier]:
    hub = LocalHub()
    async with AsyncExitStack() as stack:

        def make() -> Notifier:
            made = kind(hub)
            stack.push_async_callback(made.aclose)
            return made

        yield make


@asynccontextmanager
async def slot(kind: type[LocalSlotLock] = LocalSlotLock) -> AsyncGenerator[conformance.Slot]:
    notifier = LocalNotifier()
    yield conformance.Slot(kind(notifier), notifier)
    await notifier.aclose()


@asynccontextmanager
async def log(kind: type[LocalEventLog] = LocalEventLog) -> AsyncGenerator[EventLog]:
    yield kind()


@asynccontextmanager
async def store(kind: type[MemoryStore] = MemoryStore) -> AsyncGenerator[conformance.StoreCase]:
    clock = conformance.StoreClock()
    yield conformance.StoreCase(kind(clock=clock), clock)


async def test_adapters_in_memory_conform() -> None:
    await conformance.store(store)
    await conformance.notifier(notifiers)
    await conformance.event_log(log)
    await conformance.slot_lock(slot, remembers=False)


class Forgetful(LocalNotifier):
    def notify_thread(self, thread_id: str, signal: Signal) -> None:
        """Publishes nothing."""


class RemovesNoWatcher(LocalNotifier):
    @asynccontextmanager
    async def watch(self, thread_id: str, log: str | None = None) -> AsyncGenerator[Wakeup]:
        """Enters a watch that is never left."""
        watch = super().watch(thread_id, log)
        watches.append(watch)
        yield await watch.__aenter__()


watches: list[AbstractAsyncContextManager[Wakeup]] = []


class FedAfterItsEnd(LocalNotifier):
    """Drops what it receives after it was closed, and stays subscribed."""

    closed = False

    async def start(
        self,
        epoch: int,
        on_signal: Callable[[Signal], None],
        on_resync: Callable[[], None],
        on_connectivity: Callable[[Connectivity], None],
    ) -> None:
        def unless_closed(signal: Signal) -> None:
            if not self.closed:
                on_signal(signal)

        await super().start(epoch, unless_closed, on_resync, on_connectivity)

    async def aclose(self) -> None:
        self.closed = True


class DeliversTwice(LocalNotifier):
    def notify_worker(self, epoch: int, signal: Signal) -> None:
        for _ in range(2):
            super().notify_worker(epoch, signal)


LEAKS = (
    (RemovesNoWatcher, "watcher_that_has_left_is_not_woken", "it was not removed"),
    (FedAfterItsEnd, "closed_notifier_releases_its_callbacks", "a closed notifier is still fed"),
)


class OnlyFree(LocalSlotLock):
    async def admit(self, thread_id: str, run_id: str) -> SlotAnswer:
        return SlotAnswer(SlotState.free)


class Lossy(LocalEventLog):
    async def append(self, thread_id: str, run_id: str, entry: Entry) -> Appended:
        return Appended.done


class Untidy(LocalEventLog):
    async def append(self, thread_id: str, run_id: str, entry: Entry) -> Appended:
        tasks.append(asyncio.create_task(asyncio.Event().wait()))
        return await super().append(thread_id, run_id, entry)


tasks: list[asyncio.Task[object]] = []


async def test_notifier_that_publishes_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        conformance, "NOTIFIER", tuple(c for c in conformance.NOTIFIER if c.name == "watcher_is_woken")
    )
    with pytest.raises(ExceptionGroup, match="1 of 1 conformance checks failed") as failed:
        await conformance.notifier(lambda: notifiers(Forgetful))
    assert failed.value.exceptions[0].__notes__ == ["conformance check: watcher_is_woken"]


@pytest.mark.parametrize(("kind", "check", "message"), LEAKS)
async def test_notifier_that_leaks_fails(kind: type[LocalNotifier], check: str, message: str) -> None:
    with pytest.raises(ExceptionGroup) as failed:
        await conformance.notifier(lambda: notifiers(kind))
    [error] = failed.value.exceptions
    assert error.__notes__ == [f"conformance check: {check}"]
    assert message in str(error)


async def test_notifier_that_delivers_twice_fails_at_once_and_names_the_signal() -> None:
    async with asyncio.timeout(10):
        with pytest.raises(ExceptionGroup) as failed:
            await conformance.notifier(lambda: notifiers(DeliversTwice))
    assert len(failed.value.exceptions) > 3
    for error in failed.value.exceptions:
        assert "delivered more often than sent: Signal(kind=" in str(error)


async def test_lock_that_forgets_fails_as_a_remembering_lock() -> None:
    await conformance.slot_lock(lambda: slot(OnlyFree), remembers=False)
    with pytest.raises(ExceptionGroup) as failed:
        await conformance.slot_lock(lambda: slot(OnlyFree))
    assert len(failed.value.exceptions) > 5


async def test_log_that_loses_events_fails() -> None:
    with pytest.raises(ExceptionGroup):
        await conformance.event_log(lambda: log(Lossy))


async def test_adapter_that_leaves_a_task_behind_fails() -> None:
    with pytest.raises(ExceptionGroup, match="conformance checks failed") as failed:
        await conformance.event_log(lambda: log(Untidy))
    assert "tasks left behind" in str(failed.value.exceptions[0])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_every_check_has_a_name_of_its_own() -> None:
    locks = (conformance.SLOT_LOCK, conformance.REMEMBERING_SLOT_LOCK)
    for suite in (conformance.NOTIFIER, conformance.EVENT_LOG, conformance.STORE, *locks):
        names = [check.name for check in suite]
        assert len(set(names)) == len(names)


# -- what a check reports, and its limit


async def test_assertion_without_a_message_gets_its_line() -> None:
    async def compares(case: conformance.StoreCase) -> None:
        assert case.clock() == 0

    check = conformance.Check("compares", compares, "a promise")
    async with store() as case:
        with pytest.raises(AssertionError, match="broken promise: a promise: "):
            await check(case)


class Hangs(MemoryStore):
    async def settle(self, own: Ownership, outcome: Outcome, rollback_state: str | None = None) -> Finish:
        await asyncio.Event().wait()
        raise AssertionError


class HangsForGood(Hangs):
    """Ignores its first cancellation, as a transaction does that ends although its caller is cancelled."""

    async def settle(self, own: Ownership, outcome: Outcome, rollback_state: str | None = None) -> Finish:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        raise ValueError("too late")


@pytest.mark.parametrize("kind", [Hangs, HangsForGood])
@pytest.mark.parametrize("alone", [False, True])
async def test_call_that_hangs_does_not_hang_the_suite(
    kind: type[MemoryStore], monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    [check] = [replace(each, limit=0.05) for each in conformance.STORE if each.name == "run_settles_once"]
    monkeypatch.setattr(conformance, "STORE", (check,))
    if alone:
        async with store(kind) as case:
            with pytest.raises(TimeoutError) as hung:
                await check(case)
        error: Exception = hung.value
    else:
        with pytest.raises(ExceptionGroup) as failed:
            await conformance.store(lambda: store(kind))
        [error] = failed.value.exceptions
    assert str(error) == "check run_settles_once has not ended within 0.05 s: a call hangs"
    assert f"broken promise: {check.promise}" in error.__notes__


async def test_subject_that_does_not_open_does_not_hang_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def make() -> AsyncGenerator[conformance.StoreCase]:
        await asyncio.Event().wait()
        raise AssertionError
        yield

    check = replace(conformance.STORE[0], limit=0.05)
    monkeypatch.setattr(conformance, "STORE", (check,))
    with pytest.raises(ExceptionGroup) as failed:
        await conformance.store(make)
    assert isinstance(failed.value.exceptions[0], TimeoutError)


async def test_cancelled_check_ends_its_call() -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def waits(case: conformance.StoreCase) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with store() as case:
        running = asyncio.create_task(conformance.Check("waits", waits)(case))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert ended.is_set()
