"""The suites that `coordinator.testing.conformance` ships, entered as an author of an adapter enters them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from coordinator.event_log import Appended, Entry, EventLog
from coordinator.event_logs.local import LocalEventLog
from coordinator.lock import SlotAnswer, SlotState
from coordinator.locks.local import LocalSlotLock
from coordinator.notifier import Notifier, Signal
from coordinator.notifiers.local import LocalHub, LocalNotifier
from coordinator.testing import conformance

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


async def test_adapters_in_memory_conform() -> None:
    await conformance.notifier(notifiers)
    await conformance.event_log(log)
    await conformance.slot_lock(slot, remembers=False)


class Forgetful(LocalNotifier):
    def notify_thread(self, thread_id: str, signal: Signal) -> None:
        """Publishes nothing."""


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
    monkeypatch.setattr(conformance, "NOTIFIER", tuple(c for c in conformance.NOTIFIER if "woken" in c.name))
    with pytest.raises(ExceptionGroup, match="1 of 1 conformance checks failed") as failed:
        await conformance.notifier(lambda: notifiers(Forgetful))
    assert failed.value.exceptions[0].__notes__ == ["conformance check: watcher_is_woken"]


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
    for suite in (conformance.NOTIFIER, conformance.EVENT_LOG, *locks):
        names = [check.name for check in suite]
        assert len(set(names)) == len(names)
