"""`manager.streams`: events of runs whose tasks are their callers' own, for the streams of a gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from coordinator import arguments as check
from coordinator.errors import RunNotFound, StaleFence
from coordinator.event_log import End, Event, Gap
from coordinator.events.follower import Follower, Readers
from coordinator.runs.entry import Entry
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.registry import Registry
from coordinator.runs.states import Closing
from coordinator.schemas import Json
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunEmitted
from stores.event_loop import HomeLoop
from stores.rows import Ownership

DEFAULT_HEARTBEAT = 15.0  # s


class EventPublisher(Protocol):
    """The writer of events."""

    def encode(self, mode: str, data: Json) -> str: ...
    async def append(self, own: Ownership, mode: str, text: str) -> None: ...
    def is_closed(self, own: Ownership) -> bool: ...
    def close(self, own: Ownership, *, if_empty: bool = False) -> None: ...


class Streams:
    """One log for each run, which every worker can read. A log expires by itself (`event_log_ttl`).

    Runs that `launch` executes emit with `ctx.emit` instead."""

    def __init__(
        self,
        registry: Registry,
        readers: Readers,
        publisher: EventPublisher,
        *,
        home: HomeLoop,
        worker: Incarnation,
        telemetry: Telemetry,
    ) -> None:
        self._registry, self._readers, self._publisher = registry, readers, publisher
        self._home, self._worker, self._telemetry = home, worker, telemetry

    async def publish(self, run_id: str, event: str, data: Json) -> None:
        """Append an event to the log of a run that holds its thread on this worker; bounds and waits as
        `RunContext.emit`. Raises RunNotFound (this worker does not execute it), StaleFence (before it has
        its thread, after `end`, and when its end is being written), LeaseLost, InvalidArgument."""
        entry, own = self._held(run_id)
        text = self._publisher.encode(event, data)
        if self._publisher.is_closed(own):
            why = f"run {run_id!r} has ended its stream: it publishes nothing more"
            raise StaleFence(own.thread_id, own.fence, why)
        if isinstance(entry.state, Closing):  # its row gets the number of its last event
            why = f"run {run_id!r} has stopped: it publishes nothing more"
            raise StaleFence(own.thread_id, own.fence, why)
        entry.touch()
        self._telemetry.emit(RunEmitted(own.run_id, own.thread_id, event, text))
        await self._publisher.append(own, event, text)

    async def end(self, run_id: str) -> None:
        """Report that the run publishes nothing more: its subscribers, on all workers, get what was published
        and end, before the run has settled. Idempotent. Raises as `publish`."""
        _, own = self._held(run_id)
        if not self._publisher.is_closed(own):
            self._publisher.close(own, if_empty=True)

    def _held(self, run_id: str) -> tuple[Entry, Ownership]:
        self._home.check()
        entry = self._registry.entry(check.check_id("run_id", run_id))
        if entry is None or entry.elsewhere:
            raise RunNotFound(run_id)
        if (own := entry.own) is None or entry.settled.is_set():
            what = "has settled" if entry.settled.is_set() else "does not hold its thread yet"
            why = f"run {run_id!r} {what}: it publishes nothing"
            raise StaleFence(entry.record.thread_id, 0 if own is None else own.fence, why)
        self._worker.check(own.epoch)
        return entry, own

    def subscribe(
        self,
        run_id: str,
        *,
        last_event_id: str | None = None,
        heartbeat: float = DEFAULT_HEARTBEAT,
        user_id: str | None = None,
    ) -> AsyncGenerator[Event | Gap | None]:
        """Iterate over the events of a run of any worker: those in its log, from the beginning or after
        `last_event_id`, then live ones. None is a heartbeat: nothing has come for `heartbeat` (s). A `Gap`
        stands for events that are missing, or may be: the worker died, or the run settled without `end`. The
        iteration ends after `end`, which may be before the run has settled (`manager.wait` waits for that),
        or when the run has settled. `contextlib.aclosing` ends the subscription with a block. Raises
        RunNotFound, InvalidArgument."""
        self._home.check()
        seconds = check.check_seconds("heartbeat", heartbeat)
        follower = self._readers.follow(
            check.check_id("run_id", run_id),
            check.check_event_id("last_event_id", last_event_id),
            None,
            check.check_optional_id("user_id", user_id),
            ends_with_log=True,
        )
        return _items(follower, seconds)


async def _items(follower: Follower, heartbeat: float) -> AsyncGenerator[Event | Gap | None]:
    """Yields the items of the follower. Its `End` shows only where it is not complete, as a gap."""
    complete = True
    async with follower:
        while True:
            try:
                items = await follower.batch(heartbeat)
            except StopAsyncIteration:  # the log is closed
                return
            if not items:
                yield None
            for item in items:
                if isinstance(item, End):
                    if complete and not item.complete:
                        yield Gap(item.last_id, None)
                    return
                complete = complete and not isinstance(item, Gap)
                yield item
