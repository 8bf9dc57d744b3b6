"""The writer of event logs on the owner: numbers events, encodes them, and enforces bounds."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable

from coordinator.arguments import check_id
from coordinator.errors import CoordinatorError, InvalidArgument, StaleFence
from coordinator.event_log import BEGINNING, END, Appended, Entry, EventId, EventLog
from coordinator.events.sender import Room, Sender
from coordinator.events.window import Window
from coordinator.notifier import Notifier
from coordinator.runs.jobs import Jobs
from coordinator.schemas import Json
from coordinator.settings import Settings
from stores.base import DecisionStore
from stores.json_faults import json_fault
from stores.rows import Ownership

logger = logging.getLogger(__name__)

# A shared encoder, because `json.dumps` with options makes one for each call, which costs more than a token.
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), check_circular=True).encode


_WHY = {
    Appended.late: "they arrived out of order",
    Appended.refused: "the log refuses them",
    Appended.stale: "a newer run holds the thread",
}

Holds = Callable[[Ownership], Awaitable[bool]]
"""Returns whether the run holds its thread with this epoch and fence. Raises CoordinatorError if that is
unknown."""


def confirming(store: DecisionStore) -> Holds:
    """Returns a `Holds` that reads the run's row."""

    async def holds(own: Ownership) -> bool:
        standing = await store.standing(own.run_id)
        if standing is None or (standing.owner_epoch, standing.fence) != (own.epoch, own.fence):
            return False
        return not standing.settled

    return holds


class _Writing:
    """A run of this worker that has emitted events under this fence."""

    __slots__ = ("appended", "fence", "losing", "number", "sender", "window")

    def __init__(self, fence: int, window: Window, sender: Sender) -> None:
        self.fence, self.window, self.sender = fence, window, sender
        self.number = 0
        self.appended: EventId | None = None
        self.losing = False

    def entry(self, number: int, mode: str, text: str) -> Entry:
        oldest = self.window.add(number, len(text))
        # Entries of earlier fences are trimmed together with the first entries of this fence.
        floor = BEGINNING if oldest == 1 else EventId(self.fence, oldest)
        return Entry(EventId(self.fence, number), mode, text, floor)


class EventWriter:
    """Assigns a number to every emitted event, also to one whose append is lost."""

    def __init__(
        self,
        log: EventLog,
        notifier: Notifier,
        settings: Settings,
        *,
        holds: Holds,
        jobs: Jobs,
    ) -> None:
        self._log, self._notifier, self._settings, self._holds = log, notifier, settings, holds
        self._jobs, self._room = jobs, Room()
        self._runs: dict[str, _Writing] = {}
        self.lost = 0
        """Number of events since construction that are known to be missing in their logs."""

    def encode(self, mode: str, data: Json, *, any_size: bool = False) -> str:
        """Returns the JSON of an event in ASCII, so that a character is a byte. Raises InvalidArgument if
        `data` is not JSON or too large."""
        check_id("mode", mode)
        try:
            text = _encode(data)
        except (TypeError, ValueError, RecursionError) as error:
            why = json_fault("data", data) or str(error)
            raise InvalidArgument("data", f"must be JSON for an event {mode!r}: {why}") from None
        limit = self._settings.event_max_bytes
        if len(text) > limit and not any_size:
            why = f"an event may have {limit} bytes of JSON, and this {mode!r} has {len(text)}"
            raise InvalidArgument("data", why)
        return text

    async def append(self, own: Ownership, mode: str, text: str) -> None:
        """Returns when the event is appended, or after `event_budget`: then it stays in the bounded backlog,
        and is appended when the log answers again. An event that is too large is omitted; its number is
        missing in the log. Raises StaleFence if the log refuses the fence and the store confirms that the run
        has lost its thread."""
        writing = self._writing(own)
        writing.number += 1
        if len(text) > self._settings.event_max_bytes:
            self._count(own, writing, Appended.lost, f"{len(text)} bytes are too many")
            return
        entry = writing.entry(writing.number, mode, text)
        await writing.sender.send(entry, self._settings.event_budget)

    async def _append_verified(self, own: Ownership, entry: Entry) -> Appended:
        """Appends an entry whose fence the log calls stale. If the store confirms the fence (it was restored
        from a backup, or has failed over to a standby that lagged), the log is deleted first. Never returns
        `stale`; raises StaleFence if the store does not confirm the fence."""
        try:
            holds = await self._holds(own)
        except CoordinatorError:
            return Appended.lost
        if not holds:
            raise StaleFence(own.thread_id, own.fence)
        self._log.reclaim(own.thread_id, own.run_id, own.fence)
        appended = await self._log.append(own.thread_id, own.run_id, entry)
        return Appended.refused if appended is Appended.stale else appended

    def _writing(self, own: Ownership) -> _Writing:
        writing = self._runs.get(own.run_id)
        if writing is None or writing.fence != own.fence:
            window = Window(self._settings.event_log_max, self._settings.event_log_max_bytes)
            if writing is not None:
                writing.sender.discard()
            writing = self._runs[own.run_id] = _Writing(own.fence, window, self._sender(own))
        return writing

    def _sender(self, own: Ownership) -> Sender:
        def over(entry: Entry, appended: Appended) -> None:
            writing = self._runs.get(own.run_id)
            if writing is not None and writing.fence != own.fence:
                writing = None
            if appended is Appended.done:
                if writing is not None:
                    writing.appended = entry.id
                self._notifier.hint(own.thread_id, own.run_id, entry.id)
            if writing is not None and entry.mode != END:
                self._count(own, writing, appended, _WHY.get(appended, "the log did not answer in time"))

        return Sender(
            self._log,
            own,
            jobs=self._jobs,
            room=self._room,
            on_stale=lambda entry: self._append_verified(own, entry),
            on_over=over,
        )

    def _count(self, own: Ownership, writing: _Writing, appended: Appended, why: str) -> None:
        lost = appended is not Appended.done
        self.lost += lost
        if lost and not writing.losing:
            logger.warning(
                "Events of run %r on thread %r are missing in its log, followers receive a gap: %s",
                own.run_id,
                own.thread_id,
                why,
            )
        writing.losing = lost

    def close(self, own: Ownership) -> None:
        """Appends the last entry, which closes the log. No effect if the run has emitted nothing."""
        writing = self._runs.get(own.run_id)
        if writing is not None and writing.fence == own.fence:
            writing.sender.close(writing.entry(writing.number + 1, END, ""))

    def emitted(self, run_id: str) -> bool:
        """Returns whether this worker's run has emitted an event."""
        return run_id in self._runs

    def appended(self, run_id: str) -> EventId | None:
        """Returns the newest entry that this worker has appended to the run's log, if any."""
        writing = self._runs.get(run_id)
        return None if writing is None else writing.appended

    def forget(self, run_id: str) -> None:
        """Releases the run's memory. Called when the run is evicted."""
        if (writing := self._runs.pop(run_id, None)) is not None:
            writing.sender.discard()
        self._log.forget(run_id)
