"""Writes that must arrive although their caller has gone away or the store is away.

What failed is owed: it waits in the order in which it was owed, strictly so for each run, and one
drainer writes it when the store is back: one probe, then the rest in waves. Nothing is dropped but
what its guard refuses (the worker was fenced: its peers end those runs) and what no store could take.

A write for which there is no room (StoreFull) holds up only what follows it of its own run. Once it has been
refused for GIVE_UP_AFTER, what was to be written instead is written, if that is taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

from stores.errors import CoordinatorError, OutboxFull, StoreFull, StoreUnavailable
from stores.event_loop import HomeLoop
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT = 1000
FIRST_DELAY, LAST_DELAY = 0.05, 1.0  # s; between probes of a store that is away
WAVE = 100
"""How many owed writes go out together: one group commit, and no herd."""
GIVE_UP_AFTER = 10.0
"""s; how long a write for which there is no room is repeated."""
REFUSALS = 3
"""How many writes in a row find no room before the rest is left to the next round."""
SHOWN = 20
"""How many runs a log line names."""


def is_cancelled(error: BaseException) -> bool:
    """Was this task told to stop? A store may raise CancelledError by itself: that is a failed write."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


Instead = Callable[[StoreFull], Awaitable[Any]]


class _Owed:
    __slots__ = ("answer", "epoch", "instead", "key", "refusals", "refused_since", "run_id", "since", "write")

    def __init__(
        self,
        run_id: str,
        epoch: int | None,
        key: str,
        write: Callable[[], Awaitable[Any]],
        answer: asyncio.Future[Any] | None,
        *,
        instead: Instead | None = None,
    ) -> None:
        self.run_id, self.epoch, self.key, self.write, self.answer = run_id, epoch, key, write, answer
        self.instead = instead
        self.since = asyncio.get_running_loop().time()
        self.refusals = 0
        """How often there was no room for it."""
        self.refused_since: float | None = None


class _Tried(NamedTuple):
    written: bool = False
    away: bool = False
    full: bool = False


class Outbox:
    """`guard(epoch)` raises a CoordinatorError where that epoch may write no more.

    The bound is on admission: `check_room` refuses new runs while `limit` writes are owed. Those of runs
    that are under way already still get in, so at most `limit` and a few for each of them wait.
    """

    def __init__(self, limit: int = LIMIT, guard: Callable[[int], None] | None = None) -> None:
        self._limit, self._guard = limit, guard
        self._home = HomeLoop("outbox")
        self._under_way: set[asyncio.Task[Any]] = set()
        self._owed: dict[_Owed, None] = {}
        self._lanes: Counter[str] = Counter()
        self._keys: dict[str, _Owed] = {}
        self._away = self._closed = False
        self._drainer: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._owed)

    @property
    def oldest(self) -> float | None:
        """How long (s) the oldest write has been owed. None = nothing is owed."""
        for owed in self._owed:
            return asyncio.get_running_loop().time() - owed.since
        return None

    def check_room(self) -> None:
        """Raises OutboxFull."""
        if len(self._owed) >= self._limit:
            raise OutboxFull(len(self._owed), self._limit)

    # -- work that goes on without its caller

    def post(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = begin_soon(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def carry(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`, which goes on to its end even if the caller is cancelled meanwhile."""
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
        """What `write` answers, now or when the store is back. A caller who is cancelled takes a write
        that has not begun with him. Raises what the guard raises, and what `write` does but
        StoreUnavailable; that too where the caller is not `patient`. `instead` is what is written where
        there has been no room for `write` for GIVE_UP_AFTER."""
        self._home.check()
        if self._guard is not None:
            self._guard(epoch)
        if not (self._away or run_id in self._lanes):
            try:
                return await write()
            except StoreUnavailable as error:
                self._away = not isinstance(error, StoreFull)
                logger.warning("%s The write waits for the store and is repeated: %s", error, what)
                if not patient:
                    raise
        elif not patient:
            raise StoreUnavailable("writes wait for it", hint="This one will wait, too.")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._enqueue(_Owed(run_id, epoch, what, write, answer, instead=instead))
        return await answer

    async def offer(
        self, run_id: str, epoch: int | None, key: str, write: Callable[[], Awaitable[object]]
    ) -> None:
        """Best effort towards the caller, and not lost: returns when it is written or owed.

        What no store could take (TypeError, ValueError) is logged. Raises nothing."""
        if not (self._away or run_id in self._lanes):
            try:
                await write()
            except (TypeError, ValueError):
                logger.exception("%s cannot be written", key)  # nor ever could it
                return
            except Exception as error:
                self._away = isinstance(error, StoreUnavailable) and not isinstance(error, StoreFull)
                logger.warning("%s could not be written; the write is repeated", key, exc_info=True)
            else:
                return
        self._enqueue(_Owed(run_id, epoch, key, write, None))

    def owe(self, key: str, write: Callable[[], Awaitable[object]]) -> None:
        """Repeat `write` until it returns. One is owed per key: the newest says it all."""
        if (known := self._keys.get(key)) is not None:
            known.write = write
            return
        owed = self._keys[key] = _Owed(key, None, key, write, None)
        self._enqueue(owed)

    def settle(self, key: str) -> None:
        """A newer write of the same has arrived, or may not be made any more."""
        if (known := self._keys.get(key)) is not None:
            self._remove(known)

    def weed(self) -> None:
        """Drop at once what the guard refuses; see `Incarnation.fenced`."""
        refused = [owed for owed in self._owed if self._refused(owed) is not None]
        self._drop(refused)

    def _refused(self, owed: _Owed) -> CoordinatorError | None:
        if self._guard is None or owed.epoch is None:
            return None
        try:
            self._guard(owed.epoch)
        except CoordinatorError as error:
            return error
        return None

    def _drop(self, refused: list[_Owed]) -> None:
        """The worker's peers end those runs: they were told to, or will find them."""
        for owed in refused:
            error = self._refused(owed)
            self._remove(owed)
            if owed.answer is not None and not owed.answer.done() and error is not None:
                owed.answer.set_exception(error)
        if refused:
            run_ids = list(dict.fromkeys(owed.run_id for owed in refused))
            logger.error(
                "%d writes owed to the store are dropped, because this worker was fenced; the reaper ends"
                " what is in flight of runs %s%s",
                len(refused),
                ", ".join(repr(run_id) for run_id in run_ids[:SHOWN]),
                f" and {len(run_ids) - SHOWN} more" if len(run_ids) > SHOWN else "",
            )

    def _enqueue(self, owed: _Owed) -> None:
        if self._closed:  # nobody would end its repetition
            self._give_up(owed)
            return
        self._home.check()  # a drainer in a loop that does not go on running would write nothing
        self._owed[owed] = None
        self._lanes[owed.run_id] += 1
        if self._drainer is None or self._drainer.done() or self._drainer.get_loop().is_closed():
            self._drainer = begin_soon(self._drain())

    def _remove(self, owed: _Owed) -> None:
        if owed not in self._owed:
            return
        del self._owed[owed]
        self._lanes[owed.run_id] -= 1
        if not self._lanes[owed.run_id]:
            del self._lanes[owed.run_id]
        if self._keys.get(owed.key) is owed:
            del self._keys[owed.key]

    # -- the drainer

    async def _drain(self) -> None:
        delay = FIRST_DELAY
        while self._owed:
            await asyncio.sleep(delay)
            delay = FIRST_DELAY if await self._round() else min(LAST_DELAY, delay * 2)

    async def _round(self) -> bool:
        """Try each that is owed once, the oldest first, until the store proves to be away, or to have room
        for nothing. True where something was written."""
        progress, refusals = False, 0
        tried = set[_Owed]()
        size = 1  # the probe
        while wave := self._next(size, tried):
            results = await asyncio.gather(*(self._attempt(owed) for owed in wave))
            tried.update(wave)
            progress = progress or any(result.written for result in results)
            if any(result.away for result in results):
                self._away = True
                return progress
            refusals = refusals + 1 if all(result.full for result in results) else 0
            if refusals == REFUSALS:
                break
            if progress:
                self._away, size = False, WAVE
        self._away = False  # whoever answers, be it with an error, is there
        return progress

    def _next(self, size: int, tried: set[_Owed]) -> list[_Owed]:
        """The oldest that may go, one for each run; those for which there was no room after all others. The
        guard is asked first. One that has failed for reasons of its own does not hold up those that follow: a
        run must be able to end."""
        self.weed()
        heads: dict[str, _Owed] = {}
        for owed in list(self._owed):
            if owed.answer is not None and owed.answer.done():  # its caller has gone
                self._remove(owed)
            elif owed not in tried or owed.refusals:
                heads.setdefault(owed.run_id, owed)
        wave = (owed for owed in heads.values() if owed not in tried)
        return sorted(wave, key=lambda owed: owed.refusals)[:size]

    async def _attempt(self, owed: _Owed) -> _Tried:
        write = owed.write
        try:
            answer = await write()
        except StoreFull as error:
            return await self._no_room(owed, error)
        except StoreUnavailable:
            return _Tried(away=True)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            self._failed(owed, error)
            return _Tried()
        if owed.write is write:  # else a newer one has come, which says it all
            self._remove(owed)
        _answer(owed, answer)
        return _Tried(written=True)

    async def _no_room(self, owed: _Owed, error: StoreFull) -> _Tried:
        """Given up only where what is written instead is taken at the same moment."""
        now = asyncio.get_running_loop().time()
        owed.refusals += 1
        owed.refused_since = owed.refused_since or now
        refused_for = now - owed.refused_since
        if refused_for < GIVE_UP_AFTER or owed.refusals < REFUSALS:
            return _Tried(full=True)
        write, instead = owed.write, owed.instead
        if instead is None:
            if owed.answer is not None or owed.key in self._keys:
                return _Tried(full=True)
            tried = _Tried()  # best effort, and nobody waits for it
            self._remove(owed)
        else:
            owed.write, owed.instead = partial(instead, error), None
            tried = await self._attempt(owed)
            owed.write, owed.instead = write, instead
            if not tried.written:
                return tried
        what = f"There was no room for {owed.key} of run {owed.run_id!r} for {refused_for:.0f} s"
        logger.error("%s: %s. It is given up.", what, error.what)
        return tried

    def _failed(self, owed: _Owed, error: BaseException) -> None:
        """Not because the store is away. Whoever waits for the answer gets it."""
        if owed.answer is not None:
            self._remove(owed)
            if not owed.answer.done():
                owed.answer.set_exception(error)
        elif isinstance(error, (TypeError, ValueError)):
            self._remove(owed)
            logger.error("%s cannot be written", owed.key, exc_info=error)
        else:
            logger.warning("%s could not be written yet; the write is repeated: %r", owed.key, error)

    async def aclose(self, within: float = 5.0) -> None:
        """Let what is under way end, try what is owed once more, then give up; all `within` so many
        seconds, and at once where it is cancelled. Nothing is owed from then on. Idempotent."""
        if self._drainer is not None:
            self._drainer.cancel()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    if last := (*self._under_way, *([self._drainer] if self._drainer else ())):
                        await asyncio.wait(last)
                    self._closed = True
                    await self._round()
        finally:
            self._closed = True
            if self._drainer is not None:  # begun for what was owed while the last ones ended
                self._drainer.cancel()
                self._drainer = None
            for owed in list(self._owed):
                self._give_up(owed)

    def _give_up(self, owed: _Owed) -> None:
        self._remove(owed)
        self._keys.pop(owed.key, None)
        logger.error("%s could not be written before the store was closed", owed.key)
        if owed.answer is not None and not owed.answer.done():
            owed.answer.set_exception(StoreUnavailable("the worker has left"))


def _answer(owed: _Owed, answer: object) -> None:
    if owed.answer is not None and not owed.answer.done():
        owed.answer.set_result(answer)
