"""All runs of a thread as one stream of server-sent events, one run after another.

    event: custom\\r\\ndata: {…}\\r\\nid: <run id>/3-7\\r\\n\\r\\n

Each run contributes `metadata`, its events (in the modes that it was created with) and its error, as in its
own stream, and at its end `metadata` with `"status": "run_done"`. An id names the run and the event in the
run's log, so a client can resume at any worker as long as the logs are kept. The stream ends when the thread
is deleted, is aborted when the worker drains, and otherwise is closed by its client.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Literal

from coordinator.errors import InvalidArgument, RunNotFound, StoreUnavailable, ThreadNotFound
from coordinator.event_log import End, Event, Gap
from coordinator.events.follower import Follower
from coordinator.gateway.long_lived_responses import LongLivedResponse, SendBody, StreamSlot
from coordinator.gateway.streams import (
    HEARTBEAT,
    TAIL,
    Chunk,
    Position,
    events_of_modes,
    frame,
    gap_frame,
    next_items,
    position_of,
)
from coordinator.gateway.wire.documents import failure
from coordinator.gateway.wire.json import encoded, readable
from coordinator.manager import RunManager
from stores.rows import RunRow
from stores.states import FAILED

ThreadMode = Literal["run_modes", "lifecycle"]

_FIRST, _LAST = "0-0", f"{2**62}-0"
_PAGE_SIZE = 100
"""Newest runs that each poll reads, in addition to those that have not settled."""
_MAX_REMEMBERED = 2000
"""Streamed runs that a stream remembers, so that it does not repeat them."""
_POLL_INTERVAL = 0.5
"""Seconds between two polls for the next run."""
_ID = re.compile(r"([^/]{1,255})/([0-9]{1,19}-[0-9]{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ThreadPosition:
    """The position at which a client resumes: in run `run_id` after event `after`. Without a run, from now
    on, or from the beginning with `start`."""

    run_id: str | None = None
    after: Position | None = None
    start: bool = False


def thread_position_of(last_event_id: str | None) -> ThreadPosition:
    """Parses `Last-Event-ID`. Raises InvalidArgument."""
    text = (last_event_id or "").strip()
    if not text:
        return ThreadPosition()
    if text in ("-1", "0", "-"):
        return ThreadPosition(start=True)
    if (match := _ID.fullmatch(text)) is None:
        raise InvalidArgument("Last-Event-ID", f"must be <run id>/<fence>-<number>, not {text!r:.50}")
    return ThreadPosition(match[1], position_of(match[2]))


class _RunQueue:
    """The runs of a thread in the order in which they start, each once."""

    def __init__(self, manager: RunManager, thread_id: str, user_id: str | None) -> None:
        self._manager, self._thread_id, self._user_id = manager, thread_id, user_id
        self._streamed: OrderedDict[str, None] = OrderedDict()
        self._settled_until = -1
        """Runs that settled until then (us on the store's clock) are not streamed."""

    async def resume(self, position: ThreadPosition) -> tuple[RunRow | None, bool]:
        """Returns the first run to stream, None if it is not known yet, and whether events before it are
        lost. Raises ThreadNotFound."""
        rows = await self._rows()
        if position.start:
            return None, False
        if position.run_id is not None:
            try:
                row = await self._manager.runs.get(
                    position.run_id, thread_id=self._thread_id, user_id=self._user_id
                )
            except RunNotFound:
                self._skip_settled(rows)
                return None, True
            self._settled_until = row.settled_at or row.started_at or 0
            self.mark_streamed(row)
            return row, False
        self._skip_settled(rows)
        active = [row for row in rows if row.settled_at is None and not row.waiting]
        first = min(active, key=_start_order, default=None)
        if first is not None:
            self.mark_streamed(first)
        return first, False

    def _skip_settled(self, rows: list[RunRow]) -> None:
        self._settled_until = max((row.settled_at or 0 for row in rows), default=0)

    def mark_streamed(self, row: RunRow) -> None:
        self._streamed[row.run_id] = None
        while len(self._streamed) > _MAX_REMEMBERED:
            self._streamed.popitem(last=False)

    async def next_run(self) -> RunRow | None:
        """Returns the next run that has started, or None. Raises ThreadNotFound, StoreUnavailable."""
        unstreamed = [row for row in await self._rows() if self._is_new(row)]
        if (row := min(unstreamed, key=_start_order, default=None)) is not None:
            self.mark_streamed(row)
        return row

    def _is_new(self, row: RunRow) -> bool:
        if row.waiting or row.run_id in self._streamed:
            return False
        return row.settled_at is None or row.settled_at > self._settled_until

    async def _rows(self) -> list[RunRow]:
        newest = await self._list(())
        return newest if len(newest) < _PAGE_SIZE else [*newest, *await self._list(("pending", "running"))]

    async def _list(self, statuses: tuple[str, ...]) -> list[RunRow]:
        return await self._manager.runs.of_thread(
            self._thread_id, statuses=statuses, limit=_PAGE_SIZE, user_id=self._user_id
        )


def _start_order(row: RunRow) -> tuple[int, str]:
    return row.started_at or row.settled_at or 2**63, row.run_id


class ThreadStream(LongLivedResponse):
    media_type = "text/event-stream"

    def __init__(
        self,
        manager: RunManager,
        thread_id: str,
        slot: StreamSlot,
        *,
        user_id: str | None,
        modes: frozenset[ThreadMode],
        position: ThreadPosition,
        heartbeat: float,
    ) -> None:
        path = f"/threads/{thread_id}/stream"
        headers = {"location": path, "cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(slot, headers=headers)
        self._manager, self._thread_id, self._user_id = manager, thread_id, user_id
        self._events, self._position, self._heartbeat = "run_modes" in modes, position, heartbeat
        self._runs = _RunQueue(manager, thread_id, user_id)

    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        row, lost_events = await self._runs.resume(self._position)
        position = self._position.after or Position(TAIL.after, with_metadata=True)
        follower = None if row is None or position.ended else self._follower(row, position)
        if (
            follower is not None and position.after == TAIL.after
        ):  # subscribe before the headers: no later event is lost
            await follower.__aenter__()
        await start()
        if lost_events:
            await send(gap_frame(None, None))
        try:
            if row is not None and follower is not None:
                await self._stream_run(row, follower, send, with_metadata=position.with_metadata)
            await self._stream_following(send)
        except ThreadNotFound as error:
            await send(frame("error", encoded({"error": "ThreadNotFound", "message": str(error)})))

    async def _stream_following(self, send: SendBody) -> None:
        idle = 0.0
        while True:
            try:
                row = await self._runs.next_run()
            except StoreUnavailable:
                row = None
            if row is not None:
                await self._stream_run(row, self._follower(row, Position()), send, with_metadata=True)
                idle = 0.0
                continue
            await asyncio.sleep(_POLL_INTERVAL)
            idle += _POLL_INTERVAL
            if idle >= self._heartbeat:
                await send(HEARTBEAT)
                idle = 0.0

    def _follower(self, row: RunRow, position: Position) -> Follower:
        modes = events_of_modes(row.kwargs.get("stream_mode")) if self._events else frozenset[str]()
        return self._manager.follow(row.run_id, after=position.after, modes=modes, user_id=self._user_id)

    async def _stream_run(
        self, row: RunRow, follower: Follower, send: SendBody, *, with_metadata: bool
    ) -> None:
        """Streams one run to its end."""
        if with_metadata:
            data = {"run_id": row.run_id, "attempt": max(1, row.attempt)}
            await send(self._frame(row, "metadata", encoded(data), _FIRST))
        last_id, complete, chunk = None, True, Chunk(send)
        end: End | None = None
        async with aclosing(follower):
            while end is None:
                try:
                    items = await next_items(follower, self._heartbeat, send)
                except RunNotFound:
                    await send(gap_frame(_full_id(row, last_id), None))
                    return
                for item in items:
                    full = False
                    if isinstance(item, End):
                        end = item
                    elif isinstance(item, Gap):
                        complete = False
                        full = chunk.add(gap_frame(_full_id(row, item.after), _full_id(row, item.before)))
                    else:
                        last_id = str(item.id)
                        if "|" not in item.mode or row.kwargs.get("stream_subgraphs") is True:
                            full = chunk.add(follower.encoded(item, "of a thread", partial(self._event, row)))
                    if full:
                        await chunk.flush()
                await chunk.flush()
        await self._end(row, end, send, complete=complete)

    async def _end(self, row: RunRow, end: End, send: SendBody, *, complete: bool) -> None:
        if complete and not end.complete:
            await send(gap_frame(_full_id(row, end.last_id), None))
        if end.status in FAILED:
            await send(frame("error", encoded(failure(end.status, end.error))))
        run_done = {"status": "run_done", "run_id": row.run_id}
        await send(self._frame(row, "metadata", encoded(run_done), _LAST))

    def _event(self, row: RunRow, event: Event) -> bytes:
        return self._frame(row, event.mode, readable(event.json), str(event.id))

    def _frame(self, row: RunRow, event: str, data: bytes, event_id: str) -> bytes:
        return frame(event, data, f"{row.run_id}/{event_id}")


def _full_id(row: RunRow, event_id: str | None) -> str | None:
    return None if event_id is None else f"{row.run_id}/{event_id}"
