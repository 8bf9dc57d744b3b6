"""Conformance suites of the ports, for authors of adapters. They need no test runner and work with any.

async def make():                                     # an async context manager for each check
    ...
await conformance.event_log(make)                     # runs every check, raises an ExceptionGroup

@pytest.mark.parametrize("check", conformance.EVENT_LOG, ids=str)
async def test_event_log(check):                      # each check as a test of its own
    async with make() as log:
        await check(log)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from coordinator.event_log import EventLog
from coordinator.lock import SlotLock
from coordinator.testing.conformance.assistants import ASSISTANT, AssistantCase
from coordinator.testing.conformance.event_logs import EVENT_LOG
from coordinator.testing.conformance.locks import REMEMBERING_SLOT_LOCK, SLOT_LOCK, Slot
from coordinator.testing.conformance.notifiers import NOTIFIER, MakeNotifier
from coordinator.testing.conformance.stores import STORE, StoreCase, StoreClock
from coordinator.testing.conformance.suite import Check, run_all

__all__ = [
    "ASSISTANT",
    "EVENT_LOG",
    "NOTIFIER",
    "REMEMBERING_SLOT_LOCK",
    "SLOT_LOCK",
    "STORE",
    "AssistantCase",
    "Check",
    "MakeNotifier",
    "Slot",
    "StoreCase",
    "StoreClock",
    "assistant",
    "event_log",
    "notifier",
    "slot_lock",
    "store",
]


async def assistant(make: Callable[[], AbstractAsyncContextManager[AssistantCase]]) -> None:
    """`make` opens two managers on an empty store with the assistant. Raises an ExceptionGroup, whose message
    has the broken promises."""
    await run_all(ASSISTANT, make)


async def notifier(make: Callable[[], AbstractAsyncContextManager[MakeNotifier]]) -> None:
    """`make` opens a function that creates connected notifiers. Raises an ExceptionGroup."""
    await run_all(NOTIFIER, make)


async def store(make: Callable[[], AbstractAsyncContextManager[StoreCase]]) -> None:
    """`make` opens an empty store that uses a `StoreClock`, and its clock. Raises an ExceptionGroup, whose
    message has the broken promises."""
    await run_all(STORE, make)


async def event_log(make: Callable[[], AbstractAsyncContextManager[EventLog]]) -> None:
    """`make` opens an empty log. Raises an ExceptionGroup."""
    await run_all(EVENT_LOG, make)


async def slot_lock(make: Callable[[], AbstractAsyncContextManager[Slot]], *, remembers: bool = True) -> None:
    """`make` opens a lock without slots, and a notifier that receives its signals. `remembers=False` for a
    lock that always returns `unknown`. Raises an ExceptionGroup."""
    await run_all(SLOT_LOCK, make)
    if remembers:
        await run_all(REMEMBERING_SLOT_LOCK, lambda: _lock_of(make))


@asynccontextmanager
async def _lock_of(make: Callable[[], AbstractAsyncContextManager[Slot]]) -> AsyncGenerator[SlotLock]:
    async with make() as slot:
        yield slot.lock
