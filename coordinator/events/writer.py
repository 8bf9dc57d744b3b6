"""The owner's side of event logs: numbers, JSON, bounds."""

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

# What `json.dumps` makes for each call that does not use its defaults costs more than encoding a token.
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), check_circular=True).encode


_WHY = {
    Appended.late: "they came out of order",
    Appended.refused: "the log refuses them",
    Appended.stale: "a newer run has the thread",
}

Holds = Callable[[Ownership], Awaitable[bool]]
"""Does the run hold its thread with this epoch and fence? Raises CoordinatorError where nobody can say."""


def confirming(store: DecisionStore) -> Holds:
    """Answers from the run's row."""

    async def holds(own: Ownership) -> bool:
        standing = await store.standing(own.run_id)
        if standing is None or (standing.owner_epoch, standing.fence) != (own.epoch, own.fence):
            return False
        return not standing.settled

    return holds


class _Writing:
    """A run of this worker that has emitted something under this fence."""

    __slots__ = ("fence", "losing", "number", "sender", "window")

    def __init__(self, fence: int, window: Window, sender: Sender) -> None:
        self.fence, self.window, self.sender = fence, window, sender
        self.number = 0
        self.losing = False

    def entry(self, number: int, mode: str, text: str) -> Entry:
        oldest = self.window.add(number, len(text))
        # What an earlier fence left behind goes when the first of this one have to.
        floor = BEGINNING if oldest == 1 else EventId(self.fence, oldest)
        return Entry(EventId(self.fence, number), mode, text, floor)


class EventWriter:
    """Numbers are counted here and nowhere else, one for each emit, also for one whose append is lost."""

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
        """Events that no log has taken, as far as is known, since construction."""

    def encode(self, mode: str, data: Json, *, any_size: bool = False) -> str:
        """The JSON of an event: ASCII, so a character is a byte. Raises InvalidArgument for what is no JSON,
        or too large."""
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
        """Returns when the log has it, or when that took too long: then the event is kept, within bounds, and
        appended when the log answers again. One that is too large is left out, its number is missing in the
        log. Raises StaleFence where the log refuses the fence and the store confirms that the run has lost
        its thread."""
        writing = self._writing(own)
        writing.number += 1
        if len(text) > self._settings.event_max_bytes:
            self._tell(own, writing, Appended.lost, f"{len(text)} bytes are too many")
            return
        entry = writing.entry(writing.number, mode, text)
        await writing.sender.send(entry, self._settings.event_budget)

    async def _append_verified(self, own: Ownership, entry: Entry) -> Appended:
        """The log is ahead of its store where the store was restored from a backup, or has failed over to a
        standby that lagged. Then the log gives way. Never `stale`; raises StaleFence only if the store says
        so."""
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
            if appended is Appended.done:
                self._notifier.hint(own.thread_id, own.run_id, entry.id)
            if writing is not None and writing.fence == own.fence and entry.mode != END:
                self._tell(own, writing, appended, _WHY.get(appended, "the log did not answer for too long"))

        return Sender(
            self._log,
            own,
            jobs=self._jobs,
            room=self._room,
            on_stale=lambda entry: self._append_verified(own, entry),
            on_over=over,
        )

    def _tell(self, own: Ownership, writing: _Writing, appended: Appended, why: str) -> None:
        lost = appended is not Appended.done
        self.lost += lost
        if lost and not writing.losing:
            logger.warning("Events of run %r are missing in its log: %s", own.run_id, why)
        writing.losing = lost

    def close(self, own: Ownership) -> None:
        """The run emits no more: its log says which number was the last. No emit, no log."""
        writing = self._runs.get(own.run_id)
        if writing is not None and writing.fence == own.fence:
            writing.sender.close(writing.entry(writing.number + 1, END, ""))

    def emitted(self, run_id: str) -> bool:
        """Has this worker's run emitted anything?"""
        return run_id in self._runs

    def forget(self, run_id: str) -> None:
        """The run has left memory."""
        if (writing := self._runs.pop(run_id, None)) is not None:
            writing.sender.discard()
        self._log.forget(run_id)
