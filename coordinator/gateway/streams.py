"""The events of a run as server-sent events, from any worker.

    event: values\\r\\ndata: {…}\\r\\nid: 3-7\\r\\n\\r\\n        `id` only for resumable runs

The first event is `metadata`; a failure is one `error`. A `gap` marks events that are missing, or that cannot
be proven complete. The body ends when the run has settled. A body that ends without `gap` and `error` is
complete; any other end of a stream (the worker drains, its store is closed) aborts the connection.

Ids are those of the run's event log, which every worker can read. `metadata` and `error` are not in the log;
their ids sort before and after all ids of the log.

sse-starlette is not used: it writes the id before the event, ends every stream of the process at a signal, by
a flag that all servers of the process share, and replaces a method of uvicorn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from coordinator.errors import InvalidArgument, RunNotFound, StoreUnavailable
from coordinator.event_log import End, Event, EventId, Gap
from coordinator.events.follower import Follower
from coordinator.gateway.long_lived_responses import LongLivedResponse, ResponseAborted, SendBody, StreamSlot
from coordinator.gateway.silent_modes import SilentModes
from coordinator.gateway.wire.documents import failure
from coordinator.gateway.wire.json import encoded, readable
from coordinator.manager import RunManager
from stores.states import FAILED

HEARTBEAT = b": heartbeat\r\n\r\n"

_FIRST = "0-0"
_LAST = f"{2**62}-0"
_FROM_THE_START = frozenset({"-1", "0", "-"})

MAX_CHUNK = 16 * 1024
"""Bytes of events in one message to the server. The server waits for a slow client before each message."""

_RETRY_DELAY = 0.5
"""Seconds until the next attempt while the store is unavailable."""

# Modes of clients and the events that belong to each, including `event|<subgraph>`.
_EVENTS_OF = {
    "messages-tuple": ("messages",),
    "messages": ("messages", "messages/partial", "messages/complete", "messages/metadata"),
}


@dataclass(frozen=True, slots=True)
class Position:
    """The position at which a client resumes; `after` is as for `RunManager.follow`."""

    after: str | None = None
    with_metadata: bool = True
    """The client has not received `metadata`."""
    ended: bool = False
    """The client has received the `error` of the run."""
    lost_events: bool = False
    """The client wants to resume a run that is not resumable: earlier events are lost."""


TAIL = Position("$", with_metadata=False)


def position_of(last_event_id: str) -> Position:
    """Parses `Last-Event-ID`; -1, 0 and - stand for the start. Raises InvalidArgument."""
    event_id = last_event_id.strip()
    if event_id in _FROM_THE_START or event_id == _FIRST:
        return Position(with_metadata=event_id != _FIRST)
    try:
        EventId.parse(event_id)
    except ValueError as error:
        raise InvalidArgument("Last-Event-ID", f"{error}, not {event_id!r:.50}") from None
    return Position(event_id, with_metadata=False, ended=event_id == _LAST)


def events_of_modes(modes: Collection[str] | None) -> frozenset[str] | None:
    """Returns the events of `modes`. None = all events, as for runs that were not created over HTTP."""
    if modes is None:
        return None
    return frozenset(event for mode in modes for event in _EVENTS_OF.get(mode, (mode,)))


def frame(event: str, data: bytes, event_id: str | None = None) -> bytes:
    """Encodes one server-sent event. `data` must not contain line breaks."""
    id_line = b"" if event_id is None else b"id: " + event_id.encode() + b"\r\n"
    return b"event: " + event.encode("utf-8", "replace") + b"\r\ndata: " + data + b"\r\n" + id_line + b"\r\n"


def gap_frame(after: str | None, before: str | None) -> bytes:
    return frame("gap", encoded({"after": after, "before": before}))


def _frame_with_id(event: Event) -> bytes:
    return frame(event.mode, readable(event.json), str(event.id))


def _frame_without_id(event: Event) -> bytes:
    return frame(event.mode, readable(event.json))


async def next_items(follower: Follower, heartbeat: float, send: SendBody) -> list[Event | Gap | End]:
    """Returns all items that wait, at least one. Sends a heartbeat each `heartbeat` (s) without one, and
    while the store is unavailable. Raises RunNotFound, ResponseAborted."""
    while True:
        try:
            if items := await follower.batch(heartbeat):
                return items
            await send(HEARTBEAT)
        except StoreUnavailable:
            await send(HEARTBEAT)
            await asyncio.sleep(_RETRY_DELAY)
        except StopAsyncIteration:  # the follower was closed before the run ended
            raise ResponseAborted from None


class Chunk:
    """Joins frames to one message to the server, because a message costs more than an event."""

    def __init__(self, send: SendBody) -> None:
        self._send, self._frames, self._size = send, list[bytes](), 0

    def add(self, one: bytes) -> bool:
        """Returns whether the frames have reached `MAX_CHUNK`: then they have to be flushed."""
        self._frames.append(one)
        self._size += len(one)
        return self._size >= MAX_CHUNK

    async def flush(self) -> None:
        if self._frames:
            frames, self._frames, self._size = self._frames, [], 0
            await self._send(frames[0] if len(frames) == 1 else b"".join(frames))


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """The run that a client streams, and which of its events."""

    run_id: str
    user_id: str | None
    attempt: int
    modes: Collection[str] | None
    subgraphs: bool
    resumable: bool
    position: Position
    assistant_id: str | None = None


class RunStream(LongLivedResponse):
    media_type = "text/event-stream"

    def __init__(
        self,
        manager: RunManager,
        request: StreamRequest,
        slot: StreamSlot,
        *,
        heartbeat: float,
        headers: dict[str, str],
        on_disconnect: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        unbuffered = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(slot, headers=headers | unbuffered, on_disconnect=on_disconnect)
        self._manager, self._request, self._heartbeat = manager, request, heartbeat
        complete = request.position == Position()
        assistant = manager.assistants.get(request.assistant_id) if complete else None
        self._silent_modes = SilentModes(assistant, request.modes, lambda mode: _EVENTS_OF.get(mode, (mode,)))

    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        request = self._request
        follower = self._manager.follow(
            request.run_id,
            after=request.position.after,
            modes=events_of_modes(request.modes),
            user_id=request.user_id,
        )
        try:
            if request.position.after == TAIL.after:  # subscribe before the headers: no later event is lost
                await follower.__aenter__()
            await start()
            if request.position.with_metadata:
                await send(self._metadata())
            if request.position.lost_events:
                await send(gap_frame(None, None))
            await self._follow(follower, send)
        finally:
            await follower.aclose()

    async def _follow(self, follower: Follower, send: SendBody) -> None:
        last: EventId | None = None
        complete, chunk = True, Chunk(send)
        while True:
            try:
                items = await next_items(follower, self._heartbeat, send)
            except RunNotFound:
                await send(gap_frame(None if last is None else str(last), None) + self._removed())
                return
            for item in items:
                if isinstance(item, End):
                    await chunk.flush()
                    await self._end(item, send, complete=complete)
                    return
                if isinstance(item, Event):
                    last = item.id
                else:
                    complete = False
                if (one := self._frame_of(item, follower)) is not None and chunk.add(one):
                    await chunk.flush()
            await chunk.flush()

    async def _end(self, end: End, send: SendBody, *, complete: bool) -> None:
        """Sends a final gap if no gap was sent and the log cannot prove that it is complete, then the error
        of a failed run."""
        if complete and not end.complete:
            await send(gap_frame(end.last_id, None))
        if end.status in FAILED:
            data = encoded(failure(end.status, end.error))
            await send(frame("error", data, self._id_if_resumable(_LAST)))
        elif (comment := self._silent_modes.comment()) is not None:
            await send(comment)

    def _removed(self) -> bytes:
        text = f"run {self._request.run_id} was removed while it was streamed"
        return frame("error", encoded({"error": "RunNotFound", "message": text}))

    def _metadata(self) -> bytes:
        data = {"run_id": self._request.run_id, "attempt": self._request.attempt}
        return frame("metadata", encoded(data), self._id_if_resumable(_FIRST))

    def _frame_of(self, item: Event | Gap, follower: Follower) -> bytes | None:
        if isinstance(item, Gap):
            return gap_frame(item.after, item.before)
        self._silent_modes.observe(item.mode)
        if "|" in item.mode and not self._request.subgraphs:
            return None
        if self._request.resumable:
            return follower.encoded(item, "with id", _frame_with_id)
        return follower.encoded(item, "without id", _frame_without_id)

    def _id_if_resumable(self, event_id: str) -> str | None:
        return event_id if self._request.resumable else None


class EndedStream(LongLivedResponse):
    """The stream of a settled run from now on: only the error of a failed run, because the client may have
    lost its connection before it. `lost_events`: see `Position`."""

    media_type = "text/event-stream"

    def __init__(
        self,
        slot: StreamSlot,
        *,
        headers: dict[str, str],
        lost_events: bool = False,
        failure_document: dict[str, str] | None = None,
    ) -> None:
        super().__init__(slot, headers=headers)
        self._lost_events, self._failure = lost_events, failure_document

    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        await start()
        if self._lost_events:
            await send(gap_frame(None, None))
        if self._failure is not None:
            await send(frame("error", encoded(self._failure)))
