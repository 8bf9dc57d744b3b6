"""A run as server-sent events, from any worker.

    event: values\\r\\ndata: {…}\\r\\nid: 3-7\\r\\n\\r\\n        `id` only for resumable runs

First comes `metadata`; a failure is one `error`; where something is missing, or nobody can prove that
nothing is, a `gap` says so; when the run has settled the body ends. A body that ends without `gap` and
`error` was told whole; whatever else ends a stream (the worker leaves, its store is closed) breaks the
connection off.

Ids are those of the run's event log, which every worker reads; `metadata` and `error` are no events of the
log, so they have ids before and after all of them.

These lines are our own: sse-starlette puts the id before the event, ends every stream of the process at once
when a signal comes, by a flag that all servers of the process share, and replaces a method of uvicorn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from coordinator.errors import InvalidArgument, RunNotFound, StoreUnavailable
from coordinator.event_log import End, Event, EventId, Gap
from coordinator.events.follower import Follower
from coordinator.gateway.held import BrokenOff, HeldResponse, Place, SendBody
from coordinator.gateway.silent_modes import SilentModes
from coordinator.gateway.wire.documents import failure
from coordinator.gateway.wire.json import encoded, readable
from coordinator.manager import RunManager
from stores.states import FAILED

HEARTBEAT = b": heartbeat\r\n\r\n"

_FIRST = "0-0"
_LAST = f"{2**62}-0"
_FROM_THE_START = frozenset({"-1", "0", "-"})

_AGAIN = 0.5
"""Seconds until the store is asked again, which was away."""

# What a client calls a mode, and the events that belong to it. Of each also `mode|<subgraph>`.
_EVENTS_OF = {
    "messages-tuple": ("messages",),
    "messages": ("messages", "messages/partial", "messages/complete", "messages/metadata"),
}


@dataclass(frozen=True, slots=True)
class Position:
    """Where a client goes on reading: `after` as `RunManager.follow` has it."""

    after: str | None = None
    begins: bool = True
    """It has not seen `metadata`."""
    ended: bool = False
    """It has seen how the run failed."""
    missed: bool = False
    """It asked for what came before, of a run whose events have no ids to go on after."""


TAIL = Position("$", begins=False)


def position_of(last_event_id: str) -> Position:
    """Raises InvalidArgument."""
    given = last_event_id.strip()
    if given in _FROM_THE_START or given == _FIRST:
        return Position(begins=given != _FIRST)
    try:
        EventId.parse(given)
    except ValueError as error:
        raise InvalidArgument("Last-Event-ID", f"{error}, not {given!r:.50}") from None
    return Position(given, begins=False, ended=given == _LAST)


def events_of(modes: Collection[str] | None) -> frozenset[str] | None:
    """None = all of them, as a run has it that was not created over HTTP."""
    if modes is None:
        return None
    return frozenset(event for mode in modes for event in _EVENTS_OF.get(mode, (mode,)))


def frame(event: str, data: bytes, event_id: str | None = None) -> bytes:
    numbered = b"" if event_id is None else b"id: " + event_id.encode() + b"\r\n"
    return b"event: " + event.encode("utf-8", "replace") + b"\r\ndata: " + data + b"\r\n" + numbered + b"\r\n"


def gap_frame(after: str | None, before: str | None) -> bytes:
    return frame("gap", encoded({"after": after, "before": before}))


@dataclass(frozen=True, slots=True)
class Watched:
    """Which run is watched, and what of it."""

    run_id: str
    user_id: str | None
    attempt: int
    modes: Collection[str] | None
    subgraphs: bool
    resumable: bool
    position: Position
    assistant_id: str | None = None


class RunStream(HeldResponse):
    media_type = "text/event-stream"

    def __init__(
        self,
        manager: RunManager,
        watched: Watched,
        place: Place,
        *,
        heartbeat: float,
        headers: dict[str, str],
        on_gone: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        unbuffered = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(place, headers=headers | unbuffered, on_gone=on_gone)
        self._manager, self._watched, self._heartbeat = manager, watched, heartbeat
        whole = watched.position == Position()
        assistant = manager.assistants.get(watched.assistant_id) if whole else None
        self._silent = SilentModes(assistant, watched.modes, lambda mode: _EVENTS_OF.get(mode, (mode,)))

    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        watched = self._watched
        follower = self._manager.follow(
            watched.run_id,
            after=watched.position.after,
            modes=events_of(watched.modes),
            user_id=watched.user_id,
        )
        try:
            if watched.position.after == TAIL.after:  # what comes once the client has the headers is told
                await follower.__aenter__()
            await start()
            if watched.position.begins:
                await send(self._metadata())
            if watched.position.missed:
                await send(gap_frame(None, None))
            await self._follow(follower, send)
        finally:
            await follower.aclose()

    async def _follow(self, follower: Follower, send: SendBody) -> None:
        last, whole = None, True
        while True:
            try:
                async with asyncio.timeout(self._heartbeat):
                    told = await anext(follower)
            except TimeoutError:
                await send(HEARTBEAT)
            except StoreUnavailable:
                await send(HEARTBEAT)
                await asyncio.sleep(_AGAIN)
            except StopAsyncIteration:  # nobody told how the run ended
                raise BrokenOff from None
            except RunNotFound:
                await send(gap_frame(last, None) + self._removed())
                return
            else:
                if isinstance(told, End):
                    await self._end(told, send, whole=whole)
                    return
                if isinstance(told, Event):
                    last = str(told.id)
                else:
                    whole = False
                if (chunk := self._frame_of(told)) is not None:
                    await send(chunk)

    async def _end(self, end: End, send: SendBody, *, whole: bool) -> None:
        """Where nothing was missing so far and still nobody can say that all was told, a gap comes last."""
        if whole and not end.complete:
            await send(gap_frame(end.last_id, None))
        if end.status in FAILED:
            data = encoded(failure(end.status, end.error))
            await send(frame("error", data, self._numbered(_LAST)))
        elif (comment := self._silent.comment()) is not None:
            await send(comment)

    def _removed(self) -> bytes:
        text = f"run {self._watched.run_id} was removed while it was followed"
        return frame("error", encoded({"error": "RunNotFound", "message": text}))

    def _metadata(self) -> bytes:
        data = {"run_id": self._watched.run_id, "attempt": self._watched.attempt}
        return frame("metadata", encoded(data), self._numbered(_FIRST))

    def _frame_of(self, told: Event | Gap) -> bytes | None:
        if isinstance(told, Gap):
            return gap_frame(told.after, told.before)
        self._silent.came(told.mode)
        if "|" in told.mode and not self._watched.subgraphs:
            return None
        return frame(told.mode, readable(told.json), self._numbered(str(told.id)))

    def _numbered(self, event_id: str) -> str | None:
        return event_id if self._watched.resumable else None


class EndedStream(HeldResponse):
    """Of a run that is over, to a client that wants only what comes from now on: how it has `failed`, for the
    client may have watched it and lost its connection. `missed`: see `Position`."""

    media_type = "text/event-stream"

    def __init__(
        self,
        place: Place,
        *,
        headers: dict[str, str],
        missed: bool = False,
        failed: dict[str, str] | None = None,
    ) -> None:
        super().__init__(place, headers=headers)
        self._missed, self._failed = missed, failed

    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        await start()
        if self._missed:
            await send(gap_frame(None, None))
        if self._failed is not None:
            await send(frame("error", encoded(self._failed)))
