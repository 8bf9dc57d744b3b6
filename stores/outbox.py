"""The outbox: writes that must be committed even if their caller is cancelled or the store is unavailable.

A failed write becomes pending. Pending writes wait in order, strictly so for each run, and one drainer writes
them when the store is available again: first one as a probe, then the rest in waves. A write is dropped only
if its guard refuses it (the worker was fenced, and its peers end those runs) or no store could accept it.

A write without disk space (StoreFull), of a locked row (RowLocked) or behind such writes (ConnectionsBusy)
blocks only later writes of its own run. After GIVE_UP_AFTER without disk space, its replacement (`instead`)
is written, if the store accepts that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

from stores.errors import (
    ConnectionsBusy,
    CoordinatorError,
    OutboxFull,
    RowLocked,
    StoreFull,
    StoreUnavailable,
)
from stores.event_loop import HomeLoop
from stores.tasks import AnyFuture, begin_soon

logger = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT = 1000
FIRST_DELAY, LAST_DELAY = 0.05, 1.0  # s; between probes of a store that is away
WAVE = 100
"""Number of pending writes that are sent together: one group commit, and no thundering herd."""
GIVE_UP_AFTER = 10.0
"""Seconds for which a write without disk space is retried."""
REFUSALS = 3
"""Consecutive writes without disk space, after which the round ends."""
SHOWN = 20
"""Maximum number of runs in a log line."""


def is_cancelled(error: BaseException) -> bool:
    """Returns whether the current task was cancelled. A CancelledError that a store raises by itself is a
    failed write."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


Instead = Callable[[StoreFull], Awaitable[object]]


class _PendingWrite:
    __slots__ = ("answer", "epoch", "instead", "key", "refusals", "refused_since", "run_id", "since", "write")

    def __init__(
        self,
        run_id: str,
        epoch: int | None,
        key: str,
        write: Callable[[], Awaitable[object]],
        answer: AnyFuture | None,
        *,
        instead: Instead | None = None,
    ) -> None:
        self.run_id, self.epoch, self.key, self.write, self.answer = run_id, epoch, key, write, answer
        self.instead = instead
        self.since = asyncio.get_running_loop().time()
        self.refusals = 0
        """Number of attempts that failed because of missing disk space or locked rows."""
        self.refused_since: float | None = None


class _Attempt(NamedTuple):
    written: bool = False
    away: bool = False
    full: bool = False
    locked: bool = False


def _is_away(error: BaseException) -> bool:
    """Returns whether the store accepts no other write either."""
    return isinstance(error, StoreUnavailable) and not isinstance(
        error, (StoreFull, RowLocked, ConnectionsBusy)
    )


class Outbox:
    """`guard(epoch)` raises a CoordinatorError if that epoch may not write any more.

    Admission is bounded: `check_room` refuses new runs while `limit` writes are pending. Writes of runs in
    flight are still accepted, so at most `limit` writes and a few for each of these runs are pending.
    """

    def __init__(self, limit: int = LIMIT, guard: Callable[[int], None] | None = None) -> None:
        self._limit, self._guard = limit, guard
        self._home = HomeLoop("outbox")
        self._tasks: set[asyncio.Task[object]] = set()
        self._pending: dict[_PendingWrite, None] = {}
        self._pending_by_run: Counter[str] = Counter()
        self._keys: dict[str, _PendingWrite] = {}
        self._away = self._closed = False
        self._drainer: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def oldest(self) -> float | None:
        """Age of the oldest pending write (s); None = no write is pending."""
        for write in self._pending:
            return asyncio.get_running_loop().time() - write.since
        return None

    def check_room(self) -> None:
        """Raises OutboxFull if `limit` writes are pending."""
        if len(self._pending) >= self._limit:
            raise OutboxFull(len(self._pending), self._limit)

    # -- work that continues without its caller

    def post(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Starts `work` as a task, which `aclose` waits for."""
        task = begin_soon(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def carry(self, work: Coroutine[object, object, T]) -> T:
        """Waits for `work`, which continues if the caller is cancelled."""
        return await asyncio.shield(self.post(work))

    # -- writes

    async def deliver(
        self,
        run_id: str,
        epoch: int,
        what: str,
        write: Callable[[], Awaitable[T]],
        *,
        patient: bool = True,
        instead: Callable[[StoreFull], Awaitable[T]] | None = None,
    ) -> T:
        """Returns the result of `write`, now or when the store is available again. If the caller is
        cancelled, a write that has not begun is dropped. Raises errors of the guard, and of `write` except
        StoreUnavailable; without `patient`, StoreUnavailable as well. `instead` is the replacement after
        GIVE_UP_AFTER without disk space."""
        self._home.check()
        if self._guard is not None:
            self._guard(epoch)
        if not (self._away or run_id in self._pending_by_run):
            try:
                return await write()
            except StoreUnavailable as error:
                self._away = _is_away(error)
                logger.warning("%s The write is pending and is retried: %s (run %r)", error, what, run_id)
                if not patient:
                    raise
        elif not patient:
            raise StoreUnavailable("earlier writes are pending", hint="This write is pending as well.")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._enqueue(_PendingWrite(run_id, epoch, what, write, answer, instead=instead))
        return await answer

    async def offer(
        self, run_id: str, epoch: int | None, key: str, write: Callable[[], Awaitable[object]]
    ) -> None:
        """Returns when the write is committed or pending. Never raises: a write that no store could accept
        (TypeError, ValueError) is logged and dropped."""
        if not (self._away or run_id in self._pending_by_run):
            try:
                await write()
            except (TypeError, ValueError):
                logger.exception("%s cannot be stored; the write is dropped", key)
                return
            except Exception as error:
                self._away = _is_away(error)
                logger.warning("%s could not be written; the write is retried", key, exc_info=True)
            else:
                return
        self._enqueue(_PendingWrite(run_id, epoch, key, write, None))

    def enqueue(self, key: str, write: Callable[[], Awaitable[object]]) -> None:
        """Retries `write` until it returns. A newer write of the same key replaces the pending one."""
        if (earlier := self._keys.get(key)) is not None:
            earlier.write = write
            return
        pending = self._keys[key] = _PendingWrite(key, None, key, write, None)
        self._enqueue(pending)

    def settle(self, key: str) -> None:
        """Drops the pending write of a key: a newer one is committed, or it must not be made any more."""
        if (earlier := self._keys.get(key)) is not None:
            self._remove(earlier)

    def weed(self) -> None:
        """Drops pending writes that the guard refuses; see `Incarnation.fenced`."""
        refused = [pending for pending in self._pending if self._refused(pending) is not None]
        self._drop(refused)

    def _refused(self, pending: _PendingWrite) -> CoordinatorError | None:
        if self._guard is None or pending.epoch is None:
            return None
        try:
            self._guard(pending.epoch)
        except CoordinatorError as error:
            return error
        return None

    def _drop(self, refused: list[_PendingWrite]) -> None:
        """Drops writes of fenced epochs. Peers end those runs in their sweeps."""
        for pending in refused:
            error = self._refused(pending)
            self._remove(pending)
            if pending.answer is not None and not pending.answer.done() and error is not None:
                pending.answer.set_exception(error)
        if refused:
            run_ids = list(dict.fromkeys(pending.run_id for pending in refused))
            logger.error(
                "%d pending writes are dropped, because this worker was fenced; its peers end those of"
                " these runs that are still in flight: %s%s",
                len(refused),
                ", ".join(repr(run_id) for run_id in run_ids[:SHOWN]),
                f" and {len(run_ids) - SHOWN} more" if len(run_ids) > SHOWN else "",
            )

    def _enqueue(self, pending: _PendingWrite) -> None:
        if self._closed:  # no drainer would be stopped
            self._give_up(pending)
            return
        self._home.check()  # a drainer in a loop that stops would write nothing
        self._pending[pending] = None
        self._pending_by_run[pending.run_id] += 1
        if self._drainer is None or self._drainer.done() or self._drainer.get_loop().is_closed():
            self._drainer = begin_soon(self._drain())

    def _remove(self, pending: _PendingWrite) -> None:
        if pending not in self._pending:
            return
        del self._pending[pending]
        self._pending_by_run[pending.run_id] -= 1
        if not self._pending_by_run[pending.run_id]:
            del self._pending_by_run[pending.run_id]
        if self._keys.get(pending.key) is pending:
            del self._keys[pending.key]

    # -- the drainer

    async def _drain(self) -> None:
        delay = FIRST_DELAY
        while self._pending:
            await asyncio.sleep(delay)
            delay = FIRST_DELAY if await self._round() else min(LAST_DELAY, delay * 2)

    async def _round(self) -> bool:
        """Tries each pending write once, the oldest first, until the store is unavailable or full. Returns
        whether a write was committed."""
        progress, refusals = False, 0
        tried = set[_PendingWrite]()
        size = 1  # the probe
        while wave := self._next(size, tried):
            results = await asyncio.gather(*(self._attempt(pending) for pending in wave))
            tried.update(wave)
            progress = progress or any(result.written for result in results)
            if any(result.away for result in results):
                self._away = True
                return progress
            refusals = refusals + 1 if all(result.full for result in results) else 0
            if refusals == REFUSALS:
                break
            if progress or any(result.locked for result in results):
                self._away, size = False, WAVE
        self._away = False  # the store answered, even if with errors
        return progress

    def _next(self, size: int, tried: set[_PendingWrite]) -> list[_PendingWrite]:
        """Returns the oldest writes that may be sent, one for each run, and last those that had no disk space
        or whose row was locked. Drops writes of fenced epochs first. A write that has failed for another
        reason does not block later ones of its run, because a run must be able to end."""
        self.weed()
        heads: dict[str, _PendingWrite] = {}
        for pending in list(self._pending):
            if pending.answer is not None and pending.answer.done():  # its caller was cancelled
                self._remove(pending)
            elif pending not in tried or pending.refusals:
                heads.setdefault(pending.run_id, pending)
        wave = (pending for pending in heads.values() if pending not in tried)
        return sorted(wave, key=lambda pending: pending.refusals)[:size]

    async def _attempt(self, pending: _PendingWrite) -> _Attempt:
        write = pending.write
        try:
            answer = await write()
        except StoreFull as error:
            return await self._no_room(pending, error)
        except (RowLocked, ConnectionsBusy):
            pending.refusals += 1
            return _Attempt(locked=True)
        except StoreUnavailable:
            return _Attempt(away=True)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            self._failed(pending, error)
            return _Attempt()
        if pending.write is write:  # else a newer write has replaced it
            self._remove(pending)
        _answer(pending, answer)
        return _Attempt(written=True)

    async def _no_room(self, pending: _PendingWrite, error: StoreFull) -> _Attempt:
        """After GIVE_UP_AFTER, replaces the write by `instead`, if that is committed now."""
        now = asyncio.get_running_loop().time()
        pending.refusals += 1
        pending.refused_since = pending.refused_since or now
        refused_for = now - pending.refused_since
        if refused_for < GIVE_UP_AFTER or pending.refusals < REFUSALS:
            return _Attempt(full=True)
        write, instead = pending.write, pending.instead
        if instead is None:
            if pending.answer is not None or pending.key in self._keys:
                return _Attempt(full=True)
            attempt = _Attempt()  # a best-effort write, whose caller does not wait
            self._remove(pending)
        else:
            pending.write, pending.instead = partial(instead, error), None
            attempt = await self._attempt(pending)
            pending.write, pending.instead = write, instead
            if not attempt.written:
                return attempt
        what = f"There was no disk space for {pending.key} of run {pending.run_id!r} for {refused_for:.0f} s"
        logger.error("%s: %s. The write is dropped.", what, error.what)
        return attempt

    def _failed(self, pending: _PendingWrite, error: BaseException) -> None:
        """Handles an error other than an unavailable store: passes it to the caller, or keeps the write
        pending."""
        if pending.answer is not None:
            self._remove(pending)
            if not pending.answer.done():
                pending.answer.set_exception(error)
        elif isinstance(error, (TypeError, ValueError)):
            self._remove(pending)
            logger.error("%s cannot be stored; the write is dropped", pending.key, exc_info=error)
        else:
            logger.warning("%s could not be written; the write is retried: %r", pending.key, error)

    async def aclose(self, within: float = 5.0) -> None:
        """Waits for writes in progress, tries pending ones once more, then drops the rest; all `within`
        seconds, and at once if it is cancelled. Afterwards no write is accepted. Idempotent."""
        if self._drainer is not None:
            self._drainer.cancel()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    if last := (*self._tasks, *([self._drainer] if self._drainer else ())):
                        await asyncio.wait(last)
                    self._closed = True
                    await self._round()
        finally:
            self._closed = True
            if self._drainer is not None:  # started for writes that became pending during the last round
                self._drainer.cancel()
                self._drainer = None
            for pending in list(self._pending):
                self._give_up(pending)

    def _give_up(self, pending: _PendingWrite) -> None:
        self._remove(pending)
        self._keys.pop(pending.key, None)
        logger.error("%s could not be written before the store was closed", pending.key)
        if pending.answer is not None and not pending.answer.done():
            pending.answer.set_exception(StoreUnavailable("this worker has shut down"))


def _answer(pending: _PendingWrite, answer: object) -> None:
    if pending.answer is not None and not pending.answer.done():
        pending.answer.set_result(answer)
