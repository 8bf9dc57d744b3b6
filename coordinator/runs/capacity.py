"""Bounds the runs that a worker executes at the same time. Runs beyond the limits wait, in an order that is
fair to users."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Hashable, Iterable
from contextlib import contextmanager
from typing import NamedTuple

from coordinator.record import RunRecord
from stores.claims import ClaimableQuery

Future = asyncio.Future[bool]
"""Whether the run gets a place."""

CLAIMS_AT_ONCE = 20
"""Runs without a home that are read and then claimed one by one, before the next ones are read: other
workers claim them at the same time."""


class RunningLimits(NamedTuple):
    """Maximum numbers of runs that one worker executes at the same time; None = unlimited."""

    worker: int | None = None
    assistant: int | None = None
    user: int | None = None


class Capacity:
    """The places of a worker for runs. A run takes one when it holds its thread, before it starts, and gives
    it back when its task ends.

    Waiting users are served round robin, independently of the number of their runs, and each user's runs of
    an assistant in order. A run whose assistant or user has no place left does not delay others. A run with a
    parent uses the place of its parent, which may wait for it. Belongs to one event loop.
    """

    def __init__(self, limits: RunningLimits) -> None:
        self._limits = limits
        self._executing = Counter[Hashable]()
        """By user, by assistant, and of the worker."""
        self._waiting: OrderedDict[str | None, dict[str | None, deque[Future]]] = OrderedDict()
        self._movable = set[Future]()
        self._reserved = Counter[Hashable]()
        """As `_executing`, of runs that are claimed at this moment, or were taken over and have not reached
        `acquire`."""
        self._expected = dict[str, tuple[Hashable, ...]]()
        """What is reserved for runs that were taken over, by run."""
        self._claimed_last: str | None = None
        """The user of the run that was claimed last."""
        self._closed = False
        self.on_release: Callable[[], None] = _nothing
        """Called when a run has given its place back."""

    @property
    def limited(self) -> bool:
        """Whether a run may have to wait for a place."""
        return self._limits != _UNLIMITED

    @property
    def waiting(self) -> int:
        """The number of runs that wait for a place."""
        return sum(len(line) for lines in self._waiting.values() for line in lines.values())

    def fits(self, user: str | None, assistant: str | None) -> bool:
        """Whether a run that this worker takes over would get a place at once."""
        limits = zip(_keys(user, assistant), self._limits, strict=True)
        return all(limit is None or self._taken(key) < limit for key, limit in limits)

    def next_claims(self) -> ClaimableQuery | None:
        """The runs that this worker can execute beside those that it has; None = it has no place left."""
        worker, assistant, user = self._limits
        room = CLAIMS_AT_ONCE if worker is None else worker - self._taken(_WORKER)
        if room <= 0:
            return None
        return ClaimableQuery(
            limit=min(room, CLAIMS_AT_ONCE),
            after=self._claimed_last,
            full_users=self._full("user", user),
            full_assistants=tuple(name for name in self._full("assistant", assistant) if name is not None),
        )

    @contextmanager
    def claiming(self, user: str | None, assistant: str | None) -> Generator[None]:
        """A place is kept for the run that is claimed within the block. Its user is served last from here
        on."""
        keys = _keys(user, assistant)
        self._reserved.update(keys)
        self._claimed_last = user
        try:
            yield
        finally:
            self._free(keys)

    def expect(self, record: RunRecord) -> None:
        """A run that was taken over is about to acquire its place, which counts from now on."""
        if self.limited and record.parent_run_id is None and record.run_id not in self._expected:
            keys = self._expected[record.run_id] = _keys(record.user_id, record.assistant_id)
            self._reserved.update(keys)

    def expect_no_more(self, record: RunRecord) -> None:
        """The run acquires its place now, or its task has ended before. Idempotent."""
        self._free(self._expected.pop(record.run_id, ()))

    def _free(self, keys: Iterable[Hashable]) -> None:
        self._reserved.subtract(keys)
        self._reserved += Counter()  # drops the keys whose count is 0

    def _taken(self, key: Hashable) -> int:
        return self._executing[key] + self._reserved[key]

    def _full(self, kind: str, limit: int | None) -> tuple[str | None, ...]:
        """The users or assistants of whose runs this worker has as many as it may."""
        if limit is None:
            return ()
        keys = dict.fromkeys((*self._executing, *self._reserved))
        return tuple(
            key.name
            for key in keys
            if isinstance(key, _Named) and key.kind == kind and self._taken(key) >= limit
        )

    def place(self, record: RunRecord) -> Place:
        """Returns the place of a run, which is not acquired yet."""
        return Place(self, record)

    async def acquire(self, user: str | None, assistant: str | None, *, movable: bool = False) -> bool:
        """Takes a place; waits until there is one. Returns False if the worker is `closed` and the run
        `movable`: another worker can execute it."""
        if movable and self._closed:
            return False
        if self._fits(user, assistant):
            self._take(user, assistant)
            return True
        granted: Future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, {}).setdefault(assistant, deque()).append(granted)
        if movable:
            self._movable.add(granted)
        try:
            return await granted
        except asyncio.CancelledError:
            if (
                granted.done() and not granted.cancelled() and granted.result()
            ):  # in the same turn of the loop
                self.release(user, assistant)
            raise
        finally:
            self._movable.discard(granted)
            self._withdraw(user, assistant, granted)

    def close(self) -> None:
        """Gives no more places to movable runs, because this worker drains. Idempotent."""
        self._closed = True
        for granted in self._movable:
            if not granted.done():
                granted.set_result(False)

    def release(self, user: str | None, assistant: str | None) -> None:
        self._executing.subtract(_keys(user, assistant))
        self._executing += Counter()  # drops the keys whose count is 0
        while self._grant_next():
            pass
        self.on_release()

    def _fits(self, user: str | None, assistant: str | None) -> bool:
        limits = zip(_keys(user, assistant), self._limits, strict=True)
        return all(limit is None or self._executing[key] < limit for key, limit in limits)

    def _take(self, user: str | None, assistant: str | None) -> None:
        self._executing.update(_keys(user, assistant))

    def _grant_next(self) -> bool:
        """Gives a place to the first run that fits. Its user is served last from here on."""
        for user, lines in self._waiting.items():
            for assistant, line in lines.items():
                if self._fits(user, assistant):
                    granted = line[0]
                    self._withdraw(user, assistant, granted)
                    if user in self._waiting:
                        self._waiting.move_to_end(user)
                    if not granted.done():  # else its task was cancelled, and has not left the line yet
                        self._take(user, assistant)
                        granted.set_result(True)
                    return True
        return False

    def _withdraw(self, user: str | None, assistant: str | None, granted: Future) -> None:
        lines = self._waiting.get(user, {})
        if granted in (line := lines.get(assistant, deque[Future]())):
            line.remove(granted)
            if not line:
                del lines[assistant]
            if not lines:
                del self._waiting[user]


class Place:
    """The place of one run. `needed`: it must be acquired before the run starts. `release` is idempotent, and
    has no effect on a place that was not acquired."""

    __slots__ = ("_acquired", "_capacity", "_of", "_record", "needed")

    def __init__(self, capacity: Capacity, record: RunRecord) -> None:
        self._capacity, self._record = capacity, record
        self._of = record.user_id, record.assistant_id
        self.needed = capacity.limited and record.parent_run_id is None
        self._acquired = False

    async def acquire(self, *, movable: bool) -> bool:
        """As `Capacity.acquire`."""
        self._capacity.expect_no_more(self._record)
        self._acquired = await self._capacity.acquire(*self._of, movable=movable)
        return self._acquired

    def release(self) -> None:
        if self._acquired:
            self._acquired = False
            self._capacity.release(*self._of)


_UNLIMITED = RunningLimits()
_WORKER = "worker"


class _Named(NamedTuple):
    """The key of the count of an assistant or a user."""

    kind: str
    name: str | None


def _keys(user: str | None, assistant: str | None) -> tuple[Hashable, Hashable, Hashable]:
    """The keys of the counts, in the order of RunningLimits."""
    return _WORKER, _Named("assistant", assistant), _Named("user", user)


def _nothing() -> None:
    """For a worker that waits for no place."""
