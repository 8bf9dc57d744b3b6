"""What every notifier does, whatever carries its signals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coordinator.notifier import Connectivity, Notifier, Signal
from coordinator.testing.conformance.suite import Check, checks_for, checks_of, errors_logged, wait_until

CANCEL = Signal(kind="cancel", thread_id="t", run_id="r")
CLAIM = Signal(kind="claim", thread_id="t")
SETTLED = Signal(kind="settled", thread_id="t", run_id="r")

ODD_IDS = ["", "x" * 255, "é ü", "{t:x}", "a*b?[c]", "\0", "\ud800", "a\r\nSUBSCRIBE b"]

MakeNotifier = Callable[[], Notifier]
"""Makes notifiers that hear each other, and that are closed at the end of the check."""


class Worker:
    """A notifier that was started, and what it was told."""

    def __init__(self, notifier: Notifier) -> None:
        self.notifier = notifier
        self.signals: list[Signal] = []
        self.resyncs = 0
        self.connectivities: list[Connectivity] = []

    async def start(self, epoch: int) -> Worker:
        """Returns when what is published from now on arrives."""
        before = self.resyncs
        await self.notifier.start(epoch, self.signals.append, self._on_resync, self.connectivities.append)
        await wait_until(lambda: self.resyncs > before, description="told to re-read after the subscription")
        return self

    def _on_resync(self) -> None:
        self.resyncs += 1


async def nothing_runs_before_it_is_needed(make: MakeNotifier) -> None:
    before = asyncio.all_tasks()
    make()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def a_signal_reaches_the_worker_it_is_for_and_no_other(make: MakeNotifier) -> None:
    one, other = await Worker(make()).start(1), await Worker(make()).start(2)
    other.notifier.notify_worker(1, CANCEL)
    one.notifier.notify_worker(2, CLAIM)
    await wait_until(lambda: one.signals and other.signals, description="both signals")
    assert (one.signals, other.signals) == ([CANCEL], [CLAIM])


async def a_worker_hears_itself(make: MakeNotifier) -> None:
    worker = await Worker(make()).start(1)
    worker.notifier.notify_worker(1, CANCEL)
    await wait_until(lambda: worker.signals == [CANCEL], description="its own signal")


async def signals_of_one_sender_arrive_in_order(make: MakeNotifier) -> None:
    one, other = await Worker(make()).start(1), await Worker(make()).start(2)
    sent = [Signal(kind="cancel", run_id=str(number)) for number in range(100)]
    for signal in sent:
        other.notifier.notify_worker(1, signal)
    await wait_until(lambda: len(one.signals) == 100, description="all signals")
    assert one.signals == sent


async def nobody_is_called_back_inside_a_call(make: MakeNotifier) -> None:
    worker = await Worker(make()).start(1)
    worker.notifier.notify_worker(1, CANCEL)
    assert worker.signals == []
    await wait_until(lambda: worker.signals, description="the signal, later")


async def a_signal_for_nobody_does_no_harm(make: MakeNotifier) -> None:
    worker = await Worker(make()).start(1)
    worker.notifier.notify_worker(99, CANCEL)
    worker.notifier.notify_thread("nobody watches", SETTLED)
    worker.notifier.notify_worker(1, CLAIM)
    await wait_until(lambda: worker.signals == [CLAIM], description="the one that has a receiver")


async def a_failing_callback_is_logged_and_changes_nothing(make: MakeNotifier) -> None:
    worker = Worker(make())
    heard: list[Signal] = []

    def fail_once(signal: Signal) -> None:
        heard.append(signal)
        if len(heard) == 1:
            raise RuntimeError("a fault of the worker")

    await worker.start(1)
    await worker.notifier.start(1, fail_once, lambda: None, lambda _: None)
    with errors_logged() as logged:
        worker.notifier.notify_worker(1, CANCEL)
        worker.notifier.notify_worker(1, CLAIM)
        await wait_until(lambda: heard == [CANCEL, CLAIM], description="the second signal")
    assert "a fault of the worker" in "".join(logged)


async def a_newer_epoch_takes_over_and_the_old_channel_is_left(make: MakeNotifier) -> None:
    worker, sender = await Worker(make()).start(1), await Worker(make()).start(2)
    await worker.start(3)
    sender.notifier.notify_worker(1, CANCEL)
    sender.notifier.notify_worker(3, CLAIM)
    await wait_until(lambda: worker.signals, description="the signal for the new epoch")
    assert worker.signals == [CLAIM]


async def a_watcher_is_woken(make: MakeNotifier) -> None:
    async with make().watch("t") as wakeup:
        make().notify_thread("t", SETTLED)
        assert await wakeup.wait(5)


async def what_happens_between_entering_and_waiting_is_not_missed(make: MakeNotifier) -> None:
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


async def without_a_signal_the_wait_ends_in_time(make: MakeNotifier) -> None:
    async with make().watch("t") as wakeup:
        assert not await wakeup.wait(0.01)


async def other_threads_wake_nobody(make: MakeNotifier) -> None:
    notifier = make()
    async with notifier.watch("t") as wakeup, notifier.watch("other") as other:
        notifier.notify_thread("other", SETTLED)
        assert await other.wait(5)
        assert not await wakeup.wait(0)


async def one_watcher_leaving_does_not_deafen_the_other(make: MakeNotifier) -> None:
    notifier = make()
    async with notifier.watch("t") as stays:
        async with notifier.watch("t"):
            pass
        notifier.notify_thread("t", SETTLED)
        assert await stays.wait(5)


async def a_thread_can_be_watched_again_at_once(make: MakeNotifier) -> None:
    notifier = make()
    for _ in range(20):
        async with notifier.watch("t") as wakeup:
            notifier.notify_thread("t", SETTLED)
            assert await wakeup.wait(5)


async def a_cancelled_watcher_leaves_nothing_behind(make: MakeNotifier) -> None:
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


async def any_thread_id_will_do(make: MakeNotifier, odd: str) -> None:
    notifier = make()
    async with notifier.watch(odd) as wakeup, notifier.watch("plain") as plain:
        notifier.notify_thread(odd, SETTLED)
        assert await wakeup.wait(5)
        assert not await plain.wait(0)


async def after_closing_nothing_raises_and_nothing_arrives(make: MakeNotifier) -> None:
    worker, sender = await Worker(make()).start(1), await Worker(make()).start(2)
    await worker.notifier.aclose()
    await worker.notifier.aclose()
    sender.notifier.notify_worker(1, CANCEL)
    sender.notifier.notify_worker(2, CLAIM)
    await wait_until(lambda: sender.signals, description="what is for the other")
    worker.notifier.notify_worker(2, CLAIM)
    worker.notifier.notify_thread("t", SETTLED)
    async with worker.notifier.watch("t") as wakeup:
        await wakeup.wait(0)
    assert worker.signals == []


NOTIFIER: tuple[Check[MakeNotifier], ...] = (
    *checks_of(
        nothing_runs_before_it_is_needed,
        a_signal_reaches_the_worker_it_is_for_and_no_other,
        a_worker_hears_itself,
        signals_of_one_sender_arrive_in_order,
        nobody_is_called_back_inside_a_call,
        a_signal_for_nobody_does_no_harm,
        a_failing_callback_is_logged_and_changes_nothing,
        a_newer_epoch_takes_over_and_the_old_channel_is_left,
        a_watcher_is_woken,
        what_happens_between_entering_and_waiting_is_not_missed,
        many_signals_wake_once,
        without_a_signal_the_wait_ends_in_time,
        other_threads_wake_nobody,
        one_watcher_leaving_does_not_deafen_the_other,
        a_thread_can_be_watched_again_at_once,
        a_cancelled_watcher_leaves_nothing_behind,
        after_closing_nothing_raises_and_nothing_arrives,
    ),
    *checks_for(ODD_IDS, any_thread_id_will_do),
)
