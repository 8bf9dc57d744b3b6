"""All runs of a thread as one stream of server-sent events, one run after another.

    event: custom\\r\\ndata: {…}\\r\\nid: <run id>/3-7\\r\\n\\r\\n

Of each run `metadata`, what it emits (with the modes that it was created with) and how it failed, as in a
stream of its own, and at its end `metadata` with `"status": "run_done"`. An id names the run and the event in
the run's log: so a client goes on at any worker, as far as the logs of the runs are kept. The stream ends
with its thread, or breaks off with its worker; its client closes it.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from coordinator.errors import InvalidArgument, RunNotFound, StoreUnavailable, ThreadNotFound
from coordinator.event_log import End, Event, Gap
from coordinator.events.follower import Follower
from coordinator.gateway.held import BrokenOff, HeldResponse, Place, SendBody
from coordinator.gateway.streams import (
    HEARTBEAT,
    TAIL,
    Position,
    events_of,
    frame,
    gap_frame,
    position_of,
)
from coordinator.gateway.wire.documents import failure
from coordinator.gateway.wire.json import encoded, readable
from coordinator.manager import RunManager
from stores.rows import RunRow
from stores.states import FAILED

ThreadMode = Literal["run_modes", "lifecycle"]

_FIRST, _LAST = "0-0", f"{2**62}-0"
_PAGE = 100
"""Runs that are looked at, the newest ones, beside those that have not settled."""
_KNOWN = 2000
"""Runs that a stream remembers to have told."""
_LOOK = 0.5
"""Seconds between two looks for the next run."""
_ID = re.compile(r"([^/]{1,255})/([0-9]{1,19}-[0-9]{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ThreadPosition:
    """Where a client goes on: in this run after that event; without a run, from now on or the `start`."""

    run_id: str | None = None
    after: Position | None = None
    start: bool = False


def thread_position_of(last_event_id: str | None) -> ThreadPosition:
    """Raises InvalidArgument."""
    given = (last_event_id or "").strip()
    if not given:
        return ThreadPosition()
    if given in ("-1", "0", "-"):
        return ThreadPosition(start=True)
    if (found := _ID.fullmatch(given)) is None:
        raise InvalidArgument("Last-Event-ID", f"must be <run id>/<fence>-<number>, not {given!r:.50}")
    return ThreadPosition(found[1], position_of(found[2]))


class _Runs:
    """The runs of a thread in the order in which they begin, each once."""

    def __init__(self, manager: RunManager, thread_id: str, user_id: str | None) -> None:
        self._manager, self._thread_id, self._user_id = manager, thread_id, user_id
        self._told: OrderedDict[str, None] = OrderedDict()
        self._settled_until = -1
        """What settled by then (us of the store's clock) is over for this stream."""

    async def begin(self, position: ThreadPosition) -> tuple[RunRow | None, bool]:
        """The run to begin with, if it is known already, and whether what came before it is lost. Raises
        ThreadNotFound."""
        rows = await self._rows()
        if position.start:
            return None, False
        if position.run_id is not None:
            try:
                row = await self._manager.run(
                    position.run_id, thread_id=self._thread_id, user_id=self._user_id
                )
            except RunNotFound:
                self._from_now_on(rows)
                return None, True
            self._settled_until = row.settled_at or row.started_at or 0
            self.told(row)
            return row, False
        self._from_now_on(rows)
        active = [row for row in rows if row.settled_at is None and not row.waiting]
        first = min(active, key=_begun, default=None)
        if first is not None:
            self.told(first)
        return first, False

    def _from_now_on(self, rows: list[RunRow]) -> None:
        self._settled_until = max((row.settled_at or 0 for row in rows), default=0)

    def told(self, row: RunRow) -> None:
        self._told[row.run_id] = None
        while len(self._told) > _KNOWN:
            self._told.popitem(last=False)

    async def next(self) -> RunRow | None:
        """None: no other run has begun. Raises ThreadNotFound, StoreUnavailable."""
        new = [row for row in await self._rows() if self._is_new(row)]
        if (row := min(new, key=_begun, default=None)) is not None:
            self.told(row)
        return row

    def _is_new(self, row: RunRow) -> bool:
        if row.waiting or row.run_id in self._told:
            return False
        return row.settled_at is None or row.settled_at > self._settled_until

    async def _rows(self) -> list[RunRow]:
        newest = await self._of(())
        return newest if len(newest) < _PAGE else [*newest, *await self._of(("pending", "running"))]

    async def _of(self, statuses: tuple[str, ...]) -> list[RunRow]:
        return await self._manager.thread_runs(
            self._thread_id, statuses=statuses, limit=_PAGE, user_id=self._user_id
        )


def _begun(row: RunRow) -> tuple[int, str]:
    return row.started_at or row.settled_at or 2**63, row.run_id


class ThreadStream(HeldResponse):
    media_type = "text/event-stream"

    def __init__(
        self,
        manager: RunManager,
        thread_id: str,
        place: Place,
        *,
        user_id: str | None,
        modes: frozenset[ThreadMode],
        position: ThreadPosition,
        heartbeat: float,
    ) -> None:
        path = f"/threads/{thread_id}/stream"
        headers = {"location": path, "cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(place, headers=headers)
        self._manager, self._thread_id, self._user_id = manager, thread_id, user_id
        self._events, self._position, self._heartbeat = "run_modes" in modes, position, heartbeat
        self._runs = _Runs(manager, thread_id, user_id)

    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        row, lost = await self._runs.begin(self._position)
        position = self._position.after or Position(TAIL.after, begins=True)
        follower = None if row is None or position.ended else self._follower(row, position)
        if (
            follower is not None and position.after == TAIL.after
        ):  # what comes once the client has the headers
            await follower.__aenter__()
        await start()
        if lost:
            await send(gap_frame(None, None))
        try:
            if row is not None and follower is not None:
                await self._tell(row, follower, send, begins=position.begins)
            await self._tell_others(send)
        except ThreadNotFound as error:
            await send(frame("error", encoded({"error": "ThreadNotFound", "message": str(error)})))

    async def _tell_others(self, send: SendBody) -> None:
        quiet = 0.0
        while True:
            try:
                row = await self._runs.next()
            except StoreUnavailable:
                row = None
            if row is not None:
                await self._tell(row, self._follower(row, Position()), send, begins=True)
                quiet = 0.0
                continue
            await asyncio.sleep(_LOOK)
            quiet += _LOOK
            if quiet >= self._heartbeat:
                await send(HEARTBEAT)
                quiet = 0.0

    def _follower(self, row: RunRow, position: Position) -> Follower:
        modes = events_of(row.kwargs.get("stream_mode")) if self._events else frozenset[str]()
        return self._manager.follow(row.run_id, after=position.after, modes=modes, user_id=self._user_id)

    async def _tell(self, row: RunRow, follower: Follower, send: SendBody, *, begins: bool) -> None:
        """One run, to its end."""
        if begins:
            data = {"run_id": row.run_id, "attempt": max(1, row.attempt)}
            await send(self._frame(row, "metadata", encoded(data), _FIRST))
        last, whole = None, True
        async with aclosing(follower):
            while True:
                try:
                    told = await self._next(follower, send)
                except RunNotFound:
                    await send(gap_frame(_of(row, last), None))
                    return
                if isinstance(told, End):
                    break
                if isinstance(told, Event):
                    last = str(told.id)
                    if "|" not in told.mode or row.kwargs.get("stream_subgraphs") is True:
                        await send(self._frame(row, told.mode, readable(told.json), last))
                else:
                    whole = False
                    await send(gap_frame(_of(row, told.after), _of(row, told.before)))
        await self._end(row, told, send, whole=whole)

    async def _next(self, follower: Follower, send: SendBody) -> Event | Gap | End:
        """Raises RunNotFound."""
        while True:
            try:
                async with asyncio.timeout(self._heartbeat):
                    return await anext(follower)
            except TimeoutError:
                await send(HEARTBEAT)
            except StoreUnavailable:
                await send(HEARTBEAT)
                await asyncio.sleep(_LOOK)
            except StopAsyncIteration:  # nobody told how the run ended
                raise BrokenOff from None

    async def _end(self, row: RunRow, end: End, send: SendBody, *, whole: bool) -> None:
        if whole and not end.complete:
            await send(gap_frame(_of(row, end.last_id), None))
        if end.status in FAILED:
            await send(frame("error", encoded(failure(end.status, end.error))))
        done = {"status": "run_done", "run_id": row.run_id}
        await send(self._frame(row, "metadata", encoded(done), _LAST))

    def _frame(self, row: RunRow, event: str, data: bytes, event_id: str) -> bytes:
        return frame(event, data, f"{row.run_id}/{event_id}")


def _of(row: RunRow, event_id: str | None) -> str | None:
    return None if event_id is None else f"{row.run_id}/{event_id}"
