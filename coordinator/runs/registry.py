"""The runs of this worker in memory. No other module keeps run state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from coordinator.clock import Clocks
from coordinator.record import RunRecord
from coordinator.runs.entry import Entry
from coordinator.runs.kept import Finished
from coordinator.runs.latch import Latch
from coordinator.runs.settling import Settling
from coordinator.runs.states import Waiting
from stores.rows import Claimed, NextStart, Ownership


class Admitting:
    """Admissions in flight of one thread. The latch exists only if a caller waits for them."""

    __slots__ = ("count", "over")

    def __init__(self) -> None:
        self.count = 0
        self.over: Latch | None = None


class Arriving:
    """A run that is about to be added: by its admission, or by one or several takeovers."""

    __slots__ = ("admitted", "count", "refresh")

    def __init__(self) -> None:
        self.count = 0
        self.admitted = self.refresh = False


class Registry:
    """Indexes of entries. Finished runs are evicted `keep` (s) after they settled (`keep_temporary` on
    temporary threads, which are removed then), or, oldest first, when they exceed `keep_max` runs or
    `keep_bytes`. A run that is `followed` stays longer, but within these bounds."""

    def __init__(
        self,
        keep: float,
        keep_max: int,
        on_evict: Callable[[str], None],
        *,
        keep_temporary: float | None = None,
        keep_bytes: int | None = None,
        clocks: Clocks | None = None,
        force_after: float = 10.0,
        followed: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._followed = followed
        self._clocks, self._force_after = clocks or Clocks(), force_after
        self.records: dict[str, RunRecord] = {}
        self._entries: dict[str, Entry] = {}
        self._unsettled: dict[str, Entry] = {}
        self._waiting: dict[str, dict[str, Entry]] = {}
        """By thread, in the order in which they were added."""
        self._untouched: dict[str, Entry] = {}
        self._by_thread: dict[str, dict[str, None]] = {}
        self._finished = Finished(keep_max, keep_bytes)
        self._admitting: dict[str, Admitting] = {}
        self.settling = Settling()
        self._arriving: dict[str, Arriving] = {}
        self._leaving: set[str] = set()
        self._early: dict[str, tuple[Claimed, int]] = {}
        self._keep, self._on_evict = keep, on_evict
        self._keep_temporary = keep if keep_temporary is None else min(keep, keep_temporary)

    def add(self, record: RunRecord, own: Ownership | None) -> Entry:
        if (early := self._early.pop(record.run_id, None)) is not None:
            claimed, epoch = early
            own = Ownership(record.run_id, record.thread_id, epoch, claimed.fence)
        entry = Entry(record, own, self._clocks, self._force_after)
        self._finished.remove(record.run_id)  # the next epoch of this worker took it over
        self._entries[record.run_id] = self._unsettled[record.run_id] = entry
        self.records[record.run_id] = record
        self._untouched[record.run_id] = entry
        if own is None:
            self._waiting.setdefault(record.thread_id, {})[record.run_id] = entry
        self._by_thread.setdefault(record.thread_id, {})[record.run_id] = None
        self.evict()
        return entry

    def entry(self, run_id: str) -> Entry | None:
        record = self.records.get(run_id)
        entry = self._entries.get(run_id)
        if record is None or (entry is not None and entry.record is not record):
            return None
        return entry

    def is_unsettled(self, run_id: str) -> bool:
        """Whether the run belongs to this worker and has not settled."""
        return run_id in self._unsettled

    def under_way(self, run_id: str) -> Entry | None:
        """As `entry`, but includes runs that were dropped before they settled: their tasks still run, so
        decisions and claims must reach them."""
        return self.entry(run_id) or self._unsettled.get(run_id)

    def owned(self, run_id: str) -> Entry | None:
        """As `under_way`, without runs that this worker has lost. A claim of a run that it lost makes it the
        owner again, with a new entry."""
        entry = self.under_way(run_id)
        return None if entry is None or entry.elsewhere else entry

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def unsettled(self) -> list[Entry]:
        """The unsettled runs. The cost does not depend on the number of finished runs."""
        return list(self._unsettled.values())

    def under_way_now(self) -> dict[str, Entry]:
        """The unsettled runs by run id: a copy, which takes 10 ns per run."""
        return self._unsettled.copy()

    def run_of_task(self, task: asyncio.Task[object]) -> RunRecord | None:
        """Returns the unsettled run whose own task this is. May be called from any thread."""
        records = (entry.record for entry in self._unsettled.copy().values())
        return next((record for record in records if record.task is task), None)

    def waiting(self) -> list[Entry]:
        """Unsettled runs without their thread. The cost does not depend on the number of executing runs."""
        return [entry for thread_id in tuple(self._waiting) for entry in self._waiting_on(thread_id)]

    def _waiting_on(self, thread_id: str) -> list[Entry]:
        queue = self._waiting.get(thread_id, {})
        for run_id, entry in tuple(queue.items()):
            if entry.own is not None:
                self._wait_no_more(thread_id, run_id)
        return list(queue.values())

    def has_waiting(self, thread_id: str) -> bool:
        """Whether a run of this worker waits for the thread."""
        return bool(self._waiting_on(thread_id))

    def is_first(self, thread_id: str, run_id: str) -> bool:
        """Whether the run is the first of this worker that waits for the thread. One before it may have got
        the thread since."""
        return next(iter(self._waiting.get(thread_id, ())), None) == run_id

    def _wait_no_more(self, thread_id: str, run_id: str) -> None:
        if (queue := self._waiting.get(thread_id)) is not None:
            queue.pop(run_id, None)
            if not queue:
                del self._waiting[thread_id]

    def next_start(self, thread_id: str) -> NextStart | None:
        """The first run in the thread's queue on this worker whose task only waits for its turn."""
        for run_id, entry in self._waiting.get(thread_id, {}).items():
            state = entry.state
            if isinstance(state, Waiting) and state.start_ref is not None and entry.settling is None:
                return NextStart(run_id, state.start_ref)
        return None

    def untouched(self) -> list[Entry]:
        """Unsettled runs that no call has named since their admission. Costs as `waiting`."""
        for run_id, entry in tuple(self._untouched.items()):
            if entry.touched:
                del self._untouched[run_id]
        return list(self._untouched.values())

    def _over(self, run_id: str) -> None:
        if (entry := self._unsettled.pop(run_id, None)) is not None:
            self._wait_no_more(entry.record.thread_id, run_id)
        self._untouched.pop(run_id, None)

    def of_thread(self, thread_id: str) -> list[RunRecord]:
        """The records of the thread, in the order in which they were added."""
        return [
            self.records[run_id] for run_id in self._by_thread.get(thread_id, ()) if run_id in self.records
        ]

    def claimed(self, claimed: Claimed, epoch: int) -> bool:
        """Applies a claim to its run. If the admission of the run has not returned yet, it applies the claim
        when it does; if the admission is being withdrawn, the withdrawal frees the thread. Returns False if
        the run has to be taken over, also while the takeover of an earlier claim is under way."""
        if (entry := self.owned(claimed.run_id)) is not None:
            entry.take_thread(claimed, epoch)  # no effect if the response is late: the fence may be newer
        elif (arriving := self._arriving.get(claimed.run_id)) is not None and arriving.admitted:
            self._early[claimed.run_id] = (claimed, epoch)
        else:
            return claimed.run_id in self._leaving
        return True

    def request_refresh(self, run_id: str) -> None:
        """Marks a run that was decided while it is unknown to this worker. If its admission is in flight, its
        row must be read when it returns; see `needs_refresh`."""
        if (arriving := self._arriving.get(run_id)) is not None:
            arriving.refresh = True

    def needs_refresh(self, run_id: str) -> bool:
        arriving = self._arriving.get(run_id)
        return arriving is not None and arriving.refresh

    @contextmanager
    def admitting(self, thread_id: str, run_id: str, *, taken_over: bool = False) -> Generator[None]:
        """Counts an admission of the thread as in flight for the block; see `admitted`. `taken_over`: of a
        run that another worker, or this one in an earlier epoch, has admitted."""
        arriving = self._arriving.get(run_id)
        if arriving is None:
            arriving = self._arriving[run_id] = Arriving()
        arriving.count += 1
        arriving.admitted = arriving.admitted or not taken_over
        under_way = self._admitting.get(thread_id)
        if under_way is None:
            under_way = self._admitting[thread_id] = Admitting()
        under_way.count += 1
        try:
            yield
        finally:
            arriving.count -= 1
            if arriving.count == 0:
                del self._arriving[run_id]
                self._early.pop(run_id, None)
            under_way.count -= 1
            if under_way.count == 0:
                del self._admitting[thread_id]
                if under_way.over is not None:
                    under_way.over.set()

    def taking_back(self, run_id: str) -> None:
        """Marks an admission as being withdrawn: its caller gets an error. Until `taken_back`, this worker
        does not execute the run, although its row may exist and get its thread."""
        self._leaving.add(run_id)

    def taken_back(self, run_id: str) -> None:
        self._leaving.discard(run_id)

    async def admitted(self, thread_id: str) -> None:
        """Returns when the admissions of this thread that are in flight have returned."""
        if (under_way := self._admitting.get(thread_id)) is not None:
            if under_way.over is None:
                under_way.over = Latch()
            await under_way.over.wait()

    async def all_admitted(self) -> None:
        """Returns when every admission that is in flight now has returned."""
        for thread_id in tuple(self._admitting):
            await self.admitted(thread_id)

    def finished(self, entry: Entry) -> None:
        """Registers a settled run for eviction. This includes a run that was dropped before it settled, whose
        events are then kept as long as usual."""
        run_id = entry.record.run_id
        known = self._entries.get(run_id)
        if known is entry:
            self._over(run_id)
        elif known is not None:  # another entry has taken the run over
            return
        due = self._clocks.monotonic() + (self._keep_temporary if entry.temporary else self._keep)
        record = entry.record
        values = record.kwargs, record.metadata, record.error, record.last_ai_message
        self._finished.add(run_id, due, *values, temporary=entry.temporary)

    def evict(self) -> None:
        """Evicts finished runs that have expired or exceed the bounds. Amortised O(1) per call."""
        now = self._clocks.monotonic()
        while (run_id := self._finished.next_expired(now)) is not None:
            if not (self._followed(run_id) and self._finished.postpone(run_id, now)):
                self.drop(run_id)

    def removed(self, run_id: str) -> None:
        """Drops a run whose row was removed. An unsettled run stays; the tick ends it."""
        if run_id not in self._unsettled:
            self.drop(run_id)

    def drop(self, run_id: str) -> None:
        """Drops a run from memory; the store keeps it. An unsettled run stays `under_way`."""
        finished = self._finished.remove(run_id)
        self.records.pop(run_id, None)
        entry = self._entries.get(run_id)
        if entry is None:
            if finished:  # dropped before it settled
                self._on_evict(run_id)
            return
        thread_id = entry.record.thread_id
        if (siblings := self._by_thread.get(thread_id)) is not None:
            siblings.pop(run_id, None)
            if not siblings:
                del self._by_thread[thread_id]
        if run_id in self._unsettled and not entry.elsewhere:
            return
        del self._entries[run_id]
        self._over(run_id)
        if entry.settled.is_set():
            self._on_evict(run_id)
