"""Agents with the code of users: task groups, time-outs, scopes, clean-up that takes a while, threads.

Each reaches a state in which a cancel is hard to deliver (`ready`), and runs for ever unless it is cancelled.
A clean-up counts as finished only if nothing cut it short.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import anyio

from coordinator import RunContext


class Failed(Exception):
    """A tool of the agent's has failed."""


class Body:
    """One agent at work. `clean_up` (s) is how long its clean-ups take."""

    def __init__(self, clean_up: float) -> None:
        self.seconds = clean_up
        self.ready, self.over = asyncio.Event(), asyncio.Event()
        self.begun = self.finished = 0
        """Clean-ups that a stop has to let finish."""

    async def forever(self) -> None:
        self.ready.set()
        await asyncio.Event().wait()

    async def fail(self) -> None:
        raise Failed

    async def clean_up(self) -> None:
        """Closes a connection, for example, inside of what was cancelled."""
        self.begun += 1
        await asyncio.sleep(self.seconds)
        self.finished += 1

    async def cleans(self) -> None:
        """A tool that is in the middle of something, and cleans up after that."""
        try:
            await asyncio.Event().wait()
        finally:
            await self.clean_up()

    async def disturbed(self) -> None:
        """A clean-up that begins before the stop, which may cut it short as any cancel may."""
        self.ready.set()
        await asyncio.sleep(self.seconds)


Code = Callable[[Body], Awaitable[None]]


async def waits(body: Body) -> None:
    await body.forever()


async def failed_group(body: Body) -> None:
    """On Python 3.11 and 3.12 the group leaves a cancellation counted, without an `uncancel`."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(body.fail())
    except* Failed:
        pass


async def after_a_failed_child(body: Body) -> None:
    await failed_group(body)
    await body.forever()


async def while_a_group_aborts(body: Body) -> None:
    """A child has failed, and its sibling cleans up; before Python 3.13 the group swallows a cancel then."""

    async def sibling() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await body.disturbed()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling())
            await asyncio.sleep(0)
            group.create_task(body.fail())
            await asyncio.sleep(0)
    except* Failed:
        pass
    await body.forever()


async def in_a_group(body: Body) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(body.cleans())
        group.create_task(body.cleans())
        await asyncio.sleep(0)
        body.ready.set()


async def gathers(body: Body) -> None:
    """What is gathered cleans up while its parent waits with no exception in its hands."""
    body.ready.set()
    await asyncio.gather(body.cleans(), body.cleans())


async def after_a_timeout(body: Body) -> None:
    """A time-out has fired, and what it has cut off cleans up."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            try:
                await asyncio.Event().wait()
            finally:
                await body.disturbed()
    await body.forever()


async def polls(body: Body, period: float) -> None:
    queue = asyncio.Queue[None]()
    rounds = 0
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(queue.get(), period)
        rounds += 1
        if rounds == 2:
            body.ready.set()


async def polls_what_comes(body: Body) -> None:
    """On Python 3.11 `wait_for` swallows a cancel that comes together with the answer."""
    queue, loop = asyncio.Queue[None](), asyncio.get_running_loop()
    body.ready.set()
    while True:
        loop.call_later(0.0005, queue.put_nowait, None)
        with suppress(TimeoutError):
            await asyncio.wait_for(queue.get(), 0.0005)


async def expired_scopes(body: Body) -> None:
    for _ in range(3):
        with anyio.move_on_after(0.001):
            await anyio.sleep_forever()
    await body.forever()


async def failed_anyio_group(body: Body) -> None:
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(body.fail)
            await anyio.sleep_forever()
    except* Failed:
        pass
    await body.forever()


async def shielded_clean_up(body: Body) -> None:
    """The scope is shielded against its own cancellation, not against that of the run."""
    with anyio.move_on_after(0.001):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await body.disturbed()
    await body.forever()


async def cleans_up_in_a_shield(body: Body) -> None:
    try:
        await body.forever()
    finally:
        with anyio.CancelScope(shield=True):
            await body.clean_up()


async def cleans_up_slowly(body: Body) -> None:
    try:
        await body.forever()
    finally:
        await body.clean_up()


async def cleans_up_against_the_clock(body: Body) -> None:
    try:
        await body.forever()
    except asyncio.CancelledError:
        async with asyncio.timeout(60):
            await body.clean_up()
        raise


async def swallows_once(body: Body) -> None:
    """Retries whatever has interrupted it, as too broad an `except` does."""
    with suppress(asyncio.CancelledError):
        await body.forever()
    await asyncio.Event().wait()


async def works_in_a_thread(body: Body) -> None:
    """The job in the thread ends when the clean-up sets `stop`."""
    stop, loop = threading.Event(), asyncio.get_running_loop()
    job = loop.run_in_executor(None, stop.wait, 60)
    body.ready.set()
    try:
        await asyncio.shield(job)
    finally:
        stop.set()
        await job


IN_THREADS = (works_in_a_thread,)
"""What needs threads, which a simulated process does not have."""

KIT: Mapping[str, Code] = {
    code.__name__: code
    for code in (
        waits,
        after_a_failed_child,
        while_a_group_aborts,
        in_a_group,
        gathers,
        after_a_timeout,
        polls_what_comes,
        expired_scopes,
        failed_anyio_group,
        shielded_clean_up,
        cleans_up_in_a_shield,
        cleans_up_slowly,
        cleans_up_against_the_clock,
        swallows_once,
        *IN_THREADS,
    )
} | {
    "polls_1_ms": functools.partial(polls, period=0.001),
    "polls_20_ms": functools.partial(polls, period=0.02),
}


class UserAgent:
    """One of the kit, as a run's code."""

    def __init__(self, name: str, *, clean_up: float = 0.3) -> None:
        self.name, self.body = name, Body(clean_up)
        self._code = KIT[name]

    async def __call__(self, ctx: RunContext) -> None:
        del ctx
        try:
            await self._code(self.body)
        finally:
            self.body.over.set()
