"""Conformance checks of notifiers, for any transport."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

from coordinator.notifier import Connectivity, Notifier, Signal
from coordinator.testing.conformance.suite import Check, checks_for, checks_of, errors_logged, wait_until

CANCEL = Signal(kind="cancel", thread_id="t", run_id="r")
CLAIM = Signal(kind="claim", thread_id="t")
SETTLED = Signal(kind="settled", thread_id="t", run_id="r")

ODD_IDS = ["", "x" * 255, "é ü", "{t:x}", "a*b?[c]", "\0", "\ud800", "a\r\nSUBSCRIBE b"]

MakeNotifier = Callable[[], Notifier]
"""Creates connected notifiers, which are closed at the end of the check."""


class Worker:
    """A started notifier and the signals that it received."""

    def __init__(self, notifier: Notifier) -> None:
        self.notifier = notifier
        self.signals: list[Signal] = []
        self.resyncs = 0
        self.connectivities: list[Connectivity] = []

    async def start(self, epoch: int) -> Worker:
        """Returns when signals that are published from now on are received."""
        before = self.resyncs
        await self.notifier.start(epoch, self.signals.append, self.on_resync, self.connectivities.append)
        await wait_until(lambda: self.resyncs > before, description="the resync after the subscription")
        return self

    def on_resync(self) -> None:
        self.resyncs += 1

    async def receives(self, *expected: Signal) -> None:
        """Waits for as many signals. Raises AssertionError if they are others, or in another order."""
        await received(self.signals, *expected)


async def received(signals: list[Signal], *expected: Signal) -> None:
    await wait_until(lambda: len(signals) >= len(expected), description=f"{len(expected)} signals")
    if signals != list(expected):
        repeated = next(
            (signal for signal in signals if signals.count(signal) > expected.count(signal)), None
        )
        fault = "wrong order" if repeated is None else f"delivered more often than sent: {repeated!r}"
        raise AssertionError(f"{fault}; received {signals[:4]!r}, sent {expected[:4]!r}")


async def no_task_runs_before_the_first_call(make: MakeNotifier) -> None:
    before = asyncio.all_tasks()
    make()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def signal_reaches_only_its_worker(make: MakeNotifier) -> None:
    one, other = await Worker(make()).start(1), await Worker(make()).start(2)
    other.notifier.notify_worker(1, CANCEL)
    one.notifier.notify_worker(2, CLAIM)
    await one.receives(CANCEL)
    await other.receives(CLAIM)


async def worker_receives_its_own_signals(make: MakeNotifier) -> None:
    worker = await Worker(make()).start(1)
    worker.notifier.notify_worker(1, CANCEL)
    worker.notifier.notify_worker(1, CLAIM)
    await worker.receives(CANCEL, CLAIM)


async def signals_of_one_sender_arrive_in_order(make: MakeNotifier) -> None:
    one, other = await Worker(make()).start(1), await Worker(make()).start(2)
    sent = [Signal(kind="cancel", run_id=str(number)) for number in range(100)]
    for signal in sent:
        other.notifier.notify_worker(1, signal)
    await one.receives(*sent)


async def callbacks_are_never_called_synchronously(make: MakeNotifier) -> None:
    worker = await Worker(make()).start(1)
    worker.notifier.notify_worker(1, CANCEL)
    assert worker.signals == []
    await wait_until(lambda: worker.signals, description="the signal, later")


async def signal_without_receiver_has_no_effect(make: MakeNotifier) -> None:
    worker = await Worker(make()).start(1)
    worker.notifier.notify_worker(99, CANCEL)
    worker.notifier.notify_thread("no watcher", SETTLED)
    worker.notifier.notify_worker(1, CLAIM)
    await worker.receives(CLAIM)


async def failing_callback_is_logged_and_has_no_effect(make: MakeNotifier) -> None:
    worker = Worker(make())
    signals: list[Signal] = []

    def fail_once(signal: Signal) -> None:
        signals.append(signal)
        if len(signals) == 1:
            raise RuntimeError("a fault of the worker")

    await worker.start(1)
    await worker.notifier.start(1, fail_once, lambda: None, lambda _: None)
    with errors_logged() as logged:
        worker.notifier.notify_worker(1, CANCEL)
        worker.notifier.notify_worker(1, CLAIM)
        await received(signals, CANCEL, CLAIM)
    assert "a fault of the worker" in "".join(logged)


async def newer_epoch_replaces_the_channel_of_the_old_one(make: MakeNotifier) -> None:
    worker, sender = await Worker(make()).start(1), await Worker(make()).start(2)
    await worker.start(3)
    sender.notifier.notify_worker(1, CANCEL)
    sender.notifier.notify_worker(3, CLAIM)
    await worker.receives(CLAIM)


async def watcher_is_woken(make: MakeNotifier) -> None:
    async with make().watch("t") as wakeup:
        make().notify_thread("t", SETTLED)
        assert await wakeup.wait(5)


async def signal_between_subscribing_and_waiting_is_not_lost(make: MakeNotifier) -> None:
    notifier = make()
    async with notifier.watch("t") as wakeup, notifier.watch("t") as witness:
        make().notify_thread("t", SETTLED)
        assert await witness.wait(5)
        assert await wakeup.wait(0)


async def many_signals_wake_once(make: MakeNotifier) -> None:
    notifier = make()
    async with notifier.watch("t") as wakeup, notifier.watch("last") as last:
        for _ in range(10):
            notifier.notify_thread("t", SETTLED)
        notifier.notify_thread("last", SETTLED)
        assert await last.wait(5)
        assert await wakeup.wait(5)
        assert not await wakeup.wait(0.01)


async def hint_wakes_the_followers_of_its_run_at_once(make: MakeNotifier) -> None:
    """Without the transport: when `hint` returns, they do not wait any more."""
    notifier = (await Worker(make()).start(1)).notifier
    async with notifier.watch("t", "r") as follower, notifier.watch("t", "another run") as other:
        notifier.hint("t", "r", (1, 1))
        assert await follower.wait(0), "a follower of the run is not woken"
        assert not await other.wait(0), "a follower of another run on the thread is woken"


async def wait_without_a_signal_times_out(make: MakeNotifier) -> None:
    async with make().watch("t") as wakeup:
        assert not await wakeup.wait(0.01)


async def signals_of_other_threads_do_not_wake_the_watcher(make: MakeNotifier) -> None:
    notifier = make()
    async with notifier.watch("t") as wakeup, notifier.watch("other") as other:
        notifier.notify_thread("other", SETTLED)
        assert await other.wait(5)
        assert not await wakeup.wait(0)


async def end_of_one_watcher_does_not_unsubscribe_the_other(make: MakeNotifier) -> None:
    notifier = make()
    async with notifier.watch("t") as stays:
        async with notifier.watch("t"):
            pass
        notifier.notify_thread("t", SETTLED)
        assert await stays.wait(5)


async def watcher_that_has_left_is_not_woken(make: MakeNotifier) -> None:
    """Neither beside another watcher of its thread nor as the last one: it has been removed."""
    notifier = make()
    async with notifier.watch("t") as stays, notifier.watch("witness") as witness:
        async with notifier.watch("t") as left, notifier.watch("alone") as last:
            pass
        for thread in ("t", "alone", "witness"):
            notifier.notify_thread(thread, SETTLED)
        assert await stays.wait(5)
        assert await witness.wait(5)
        assert not await left.wait(0), "a watcher that has left was woken: it was not removed"
        assert not await last.wait(0), "the last watcher that has left was woken: it was not removed"


async def thread_can_be_watched_again_at_once(make: MakeNotifier) -> None:
    notifier = make()
    for _ in range(20):
        async with notifier.watch("t") as wakeup:
            notifier.notify_thread("t", SETTLED)
            assert await wakeup.wait(5)


async def cancelled_watcher_does_not_disturb_later_ones(make: MakeNotifier) -> None:
    notifier = make()

    async def watch() -> None:
        async with notifier.watch("t") as wakeup:
            await wakeup.wait(60)

    tasks = [asyncio.create_task(watch()) for _ in range(10)]
    for turns, task in enumerate(tasks):
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with notifier.watch("t") as wakeup:
        notifier.notify_thread("t", SETTLED)
        assert await wakeup.wait(5)


async def every_thread_id_is_accepted(make: MakeNotifier, odd: str) -> None:
    notifier = make()
    async with notifier.watch(odd) as wakeup, notifier.watch("plain") as plain:
        notifier.notify_thread(odd, SETTLED)
        assert await wakeup.wait(5)
        assert not await plain.wait(0)


async def closed_notifier_raises_nothing_and_delivers_nothing(make: MakeNotifier) -> None:
    worker, sender = await Worker(make()).start(1), await Worker(make()).start(2)
    await worker.notifier.aclose()
    await worker.notifier.aclose()
    sender.notifier.notify_worker(1, CANCEL)
    sender.notifier.notify_worker(2, CLAIM)
    await wait_until(lambda: sender.signals, description="the signal for the other worker")
    worker.notifier.notify_worker(2, CLAIM)
    worker.notifier.notify_thread("t", SETTLED)
    async with worker.notifier.watch("t") as wakeup:
        await wakeup.wait(0)
    assert worker.signals == []


async def closed_notifier_releases_its_callbacks(make: MakeNotifier) -> None:
    """Whatever still feeds a closed notifier would keep its worker alive."""
    notifier = make()
    worker = await _started(notifier)
    await notifier.aclose()
    await asyncio.sleep(0)
    gc.collect()
    assert worker() is None, "a closed notifier is still fed: its worker's callbacks are referred to"


async def _started(notifier: Notifier) -> weakref.ref[Worker]:
    return weakref.ref(await Worker(notifier).start(1))


NOTIFIER: tuple[Check[MakeNotifier], ...] = (
    *checks_of(
        no_task_runs_before_the_first_call,
        signal_reaches_only_its_worker,
        worker_receives_its_own_signals,
        signals_of_one_sender_arrive_in_order,
        callbacks_are_never_called_synchronously,
        signal_without_receiver_has_no_effect,
        failing_callback_is_logged_and_has_no_effect,
        newer_epoch_replaces_the_channel_of_the_old_one,
        watcher_is_woken,
        signal_between_subscribing_and_waiting_is_not_lost,
        many_signals_wake_once,
        hint_wakes_the_followers_of_its_run_at_once,
        wait_without_a_signal_times_out,
        signals_of_other_threads_do_not_wake_the_watcher,
        end_of_one_watcher_does_not_unsubscribe_the_other,
        watcher_that_has_left_is_not_woken,
        thread_can_be_watched_again_at_once,
        cancelled_watcher_does_not_disturb_later_ones,
        closed_notifier_raises_nothing_and_delivers_nothing,
        closed_notifier_releases_its_callbacks,
    ),
    *checks_for(ODD_IDS, every_thread_id_is_accepted),
)
