"""The writer of event logs on the owner: numbers events, encodes them, and enforces bounds."""

from __future__ import annotations

import asyncio
import codecs
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256

from coordinator.arguments import check_mode
from coordinator.errors import CoordinatorError, InvalidArgument, StaleFence
from coordinator.event_log import (
    BEGINNING,
    END,
    OMITTED,
    Appended,
    CopiedEventLog,
    Entry,
    EventId,
    EventLog,
)
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


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler. In JSON, characters beyond ASCII are in strings only."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.encoder.encode_basestring_ascii(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error("coordinator.json", _escape)


def _in_ascii(data: bytes) -> str:
    return data.decode("utf-8").encode("ascii", "coordinator.json").decode("ascii")


_WHY = {
    Appended.late: "they arrived out of order",
    Appended.refused: "the log refuses them",
    Appended.stale: "a newer run holds the thread",
}

FLUSH = 1.0
"""Maximum time (s) that a hand-over waits for the log."""
MAX_MODE = 4096
"""Bytes of the name of an event. Names of nested subgraphs have 45 bytes for each level."""


def bounded_mode(mode: str) -> str:
    """Returns the mode; one that is too long is cut, and ends with a hash of the whole instead."""
    if len(mode) <= MAX_MODE // 4 or len(encoded := mode.encode()) <= MAX_MODE:
        return mode
    digest = sha256(encoded).hexdigest()[:32]
    return f"{encoded[: MAX_MODE - len(digest) - 1].decode(errors='ignore')}#{digest}"


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

    __slots__ = ("appended", "closed", "fence", "losing", "number", "omitting", "sender", "window")

    def __init__(self, fence: int, window: Window, sender: Sender) -> None:
        self.fence, self.window, self.sender = fence, window, sender
        self.number = 0
        self.appended: EventId | None = None
        self.losing = self.omitting = self.closed = False

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

    def encode(self, mode: str, data: Json) -> str:
        """Returns the JSON of an event in ASCII without line breaks, so that a character is a byte. Raises
        InvalidArgument if `data` is not JSON."""
        check_mode(mode)
        try:
            return _encode(data)
        except (TypeError, ValueError, RecursionError) as error:
            why = json_fault("data", data) or str(error)
            raise InvalidArgument("data", f"must be JSON for an event {mode!r}: {why}") from None

    def encoded(self, mode: str, data: bytes) -> str:
        """As `encode`, of JSON in UTF-8."""
        check_mode(mode)
        try:
            text = data.decode("ascii") if data.isascii() else _in_ascii(data)
        except UnicodeDecodeError as error:
            raise InvalidArgument("data", f"must be UTF-8 for an event {mode!r}: {error}") from None
        return text.replace("\r", " ").replace("\n", " ")  # of indented JSON; in strings they are escaped

    def inherit(self, own: Ownership) -> None:
        """Must be called before the first event of a further attempt of a run."""
        if isinstance(self._log, CopiedEventLog):
            self._log.inherit(own.run_id)

    async def append(self, own: Ownership, mode: str, text: str) -> None:
        """Returns when the event is appended, or after `event_budget`: then it stays in the bounded backlog,
        and is appended when the log answers again. An event that is too large is replaced by an `omitted`
        one, a mode that is too long is shortened. Raises StaleFence if the log refuses the fence and the
        store confirms that the run has lost its thread."""
        writing = self._writing(own)
        writing.number += 1
        mode = bounded_mode(mode)
        if len(text) > self._settings.event_max_bytes:
            mode, text = OMITTED, self._omission(own, writing, mode, len(text))
        entry = writing.entry(writing.number, mode, text)
        await writing.sender.send(entry, self._settings.event_budget)

    def _omission(self, own: Ownership, writing: _Writing, mode: str, size: int) -> str:
        """Returns the data of the event in place of one that is too large. Logs the first one of a run."""
        limit = self._settings.event_max_bytes
        self.lost += 1
        if not writing.omitting:
            writing.omitting = True
            logger.warning(
                "An event %r of run %r on thread %r has %d bytes of JSON and is omitted, as is every later"
                " one with more than %d (setting event_max_bytes)",
                mode,
                own.run_id,
                own.thread_id,
                size,
                limit,
            )
        return _encode({"mode": mode, "bytes": size, "max_bytes": limit})

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

    def close(self, own: Ownership, *, if_empty: bool = False) -> None:
        """Appends the last entry, which closes the log. Idempotent. No effect if the run has emitted nothing,
        unless `if_empty`."""
        writing = self._writing(own) if if_empty else self._runs.get(own.run_id)
        if writing is not None and writing.fence == own.fence and not writing.closed:
            writing.closed = True
            writing.sender.close(writing.entry(writing.number + 1, END, ""))

    def is_closed(self, own: Ownership) -> bool:
        """Returns whether `close` has closed the log under this fence."""
        writing = self._runs.get(own.run_id)
        return writing is not None and writing.fence == own.fence and writing.closed

    async def flushed(self, own: Ownership) -> None:
        """Returns when other workers can read all that the run has emitted, at the latest after FLUSH (s):
        then its followers may get a gap."""
        writing = self._runs.get(own.run_id)
        if writing is None or writing.fence != own.fence:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH):
                await writing.sender.sent()
                await self._log.flushed(own.thread_id, own.run_id)

    def log_end(self, own: Ownership, attempt: int) -> int | None:
        """Returns the number of the last entry of the run's log under this fence, 0 if the run has emitted
        nothing. None = unknown: the log is not closed, or only an earlier attempt has emitted something, or
        may have."""
        writing = self._runs.get(own.run_id)
        if writing is None:
            return 0 if attempt == 1 else None
        return writing.number + 1 if writing.closed and writing.fence == own.fence else None

    def appended(self, run_id: str) -> EventId | None:
        """Returns the newest entry that this worker has appended to the run's log, if any."""
        writing = self._runs.get(run_id)
        return None if writing is None else writing.appended

    def forget(self, run_id: str) -> None:
        """Releases the run's memory. Called when the run is evicted."""
        if (writing := self._runs.pop(run_id, None)) is not None:
            writing.sender.discard()
        self._log.forget(run_id)
