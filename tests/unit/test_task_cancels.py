"""When a cancel is delivered again, and when it waits."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from coordinator.runs.task_cancel import CancelSentinel, TaskCancel
from coordinator.schemas import Abort, CancelAction, Cause, RunStatus
from tests.support.inside import timer_of
from tests.support.waiting import wait_until

ABORT = Abort(RunStatus.interrupted, CancelAction.interrupt, Cause.user, "enough")
FORCE_AFTER = 1.0


class Code:
    """A task that counts its cancels and swallows the first `swallows` of them."""

    def __init__(self, swallows: int) -> None:
        self.swallows, self.cancels = swallows, list[str]()
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                self.cancels.append(str(error))
                if len(self.cancels) > self.swallows:
                    raise


async def ended(task: asyncio.Task[Any]) -> None:
    async with asyncio.timeout(20):
        await asyncio.wait((task,))


def cancelled(task: asyncio.Task[Any], *, foreign: bool = False) -> TaskCancel:
    return TaskCancel(task, ABORT, force_after=FORCE_AFTER, foreign=foreign)


async def test_a_cancel_that_is_not_swallowed_is_delivered_once() -> None:
    code = Code(swallows=0)
    await asyncio.sleep(0)
    cancelled(code.task)
    await ended(code.task)
    assert code.cancels == ["run cancelled (user: enough)"]


@pytest.mark.parametrize("swallows", [1, 3])
async def test_a_swallowed_cancel_is_delivered_again(swallows: int) -> None:
    code = Code(swallows)
    await asyncio.sleep(0)
    cancelled(code.task)
    await ended(code.task)
    assert len(code.cancels) == swallows + 1
    assert code.task.cancelled()


async def test_a_task_that_is_about_to_step_keeps_the_message_and_is_cancelled_again_all_the_same() -> None:
    """Before Python 3.12 `wait_for` answers what has come at the same moment, and swallows the cancel."""
    loop, swallowed = asyncio.get_running_loop(), 0

    async def code() -> None:
        nonlocal swallowed
        future = loop.create_future()
        loop.call_soon(step, future)
        try:
            await future
        except asyncio.CancelledError:
            swallowed += 1
        await asyncio.Event().wait()

    def step(future: asyncio.Future[None]) -> None:
        future.set_result(None)
        cancelled(task)

    task = asyncio.create_task(code())
    await ended(task)
    assert swallowed == 1
    assert task.cancelled()


async def test_a_task_that_unwinds_is_left_alone() -> None:
    """However long, and however deep: in a handler, in a child, in a child of a child."""
    cancels, may_end = 0, asyncio.Event()

    async def child() -> None:
        nonlocal cancels
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                cancels += 1
                raise

    async def parent() -> None:
        await asyncio.gather(child(), asyncio.ensure_future(child()))

    task = asyncio.create_task(parent())
    await asyncio.sleep(0.01)
    cancelling = cancelled(task)
    await wait_until(lambda: timer_of(cancelling) is None, description="it has looked as often as it may")
    assert not task.done()
    assert cancels == 0
    may_end.set()
    await ended(task)


async def test_deliveries_end_before_force() -> None:
    code = Code(swallows=1000)
    await asyncio.sleep(0)
    cancelling = cancelled(code.task)
    await wait_until(lambda: timer_of(cancelling) is None, description="it has looked as often as it may")
    assert 3 <= len(code.cancels) <= 13
    code.swallows = 0
    code.task.cancel()
    await ended(code.task)


async def test_a_stopped_cancel_is_delivered_no_more() -> None:
    code = Code(swallows=1)
    await asyncio.sleep(0)
    cancelling = cancelled(code.task)
    cancelling.stop()
    await wait_until(lambda: code.cancels, description="the first has come")
    await asyncio.sleep(FORCE_AFTER / 8)
    assert len(code.cancels) == 1
    code.task.cancel()  # one more than it swallows
    await ended(code.task)


class TestATaskOfACaller:
    """It may have been cancelled by its maker."""

    async def test_is_cancelled_at_once_if_it_was_not_cancelled_before(self) -> None:
        code = Code(swallows=0)
        await asyncio.sleep(0)
        cancelled(code.task, foreign=True)
        await ended(code.task)
        assert len(code.cancels) == 1

    async def test_is_left_alone_while_it_unwinds(self) -> None:
        """A cancel of its maker's ends it, without one of ours."""
        begun, may_end, cancels = asyncio.Event(), asyncio.Event(), 0

        async def code() -> None:
            nonlocal cancels
            try:
                await asyncio.Event().wait()
            finally:
                begun.set()
                try:
                    await may_end.wait()
                except asyncio.CancelledError:
                    cancels += 1

        task = asyncio.create_task(code())
        await asyncio.sleep(0)
        task.cancel("by its maker")
        await begun.wait()
        cancelled(task, foreign=True)
        await asyncio.sleep(FORCE_AFTER / 8)
        may_end.set()
        await ended(task)
        assert cancels == 0

    async def test_gets_none_of_ours_once_that_is_stopped(self) -> None:
        """Also if it continues after the cancel of its maker."""
        code = Code(swallows=1)
        await asyncio.sleep(0)
        code.task.cancel("by its maker")
        await wait_until(lambda: code.cancels, description="it is swallowed")
        cancelled(code.task, foreign=True).stop()
        code.task.uncancel()
        await asyncio.sleep(FORCE_AFTER / 8)
        assert code.cancels == ["by its maker"]
        code.task.cancel()
        await ended(code.task)

    @pytest.mark.parametrize("taken_back", [True, False], ids=["taken back", "counted for ever"])
    async def test_gets_ours_if_it_goes_on(self, taken_back: bool) -> None:
        messages = list[Any]()

        async def code() -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            if taken_back and (me := asyncio.current_task()) is not None:
                me.uncancel()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                messages.extend(error.args)
                raise

        task = asyncio.create_task(code())
        await asyncio.sleep(0)
        task.cancel("by its maker")
        cancelled(task, foreign=True)
        await ended(task)
        assert [type(message) for message in messages] == [CancelSentinel]
