"""The events of a thread as server-sent events: `event` is the method, `id` the place, `data` the event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coordinator.errors import ThreadNotFound
from coordinator.gateway.long_lived_responses import LongLivedResponse, SendBody, StreamSlot
from coordinator.gateway.protocol.events import Missing, error_body
from coordinator.gateway.protocol.thread_events import Item, ThreadEvents
from coordinator.gateway.streams import HEARTBEAT, Chunk, frame


class EventStream(LongLivedResponse):
    """Stays open until its client closes it, the thread is removed, or the worker drains."""

    media_type = "text/event-stream"

    def __init__(self, events: ThreadEvents, slot: StreamSlot, *, heartbeat: float) -> None:
        super().__init__(slot, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._events, self._heartbeat = events, heartbeat

    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        async with self._events as events:
            await start()
            chunk = Chunk(send)
            try:
                while True:
                    items = await events.batch(self._heartbeat)
                    if not items:
                        await send(HEARTBEAT)
                    for item in items:
                        if chunk.add(_frame(item)):
                            await chunk.flush()
                    await chunk.flush()
            except ThreadNotFound as error:
                await send(frame("error", error_body(None, "no_such_run", str(error))))


def _frame(item: Item) -> bytes:
    if isinstance(item, Missing):
        return frame("error", item.body)
    return frame(item.method, item.body, str(item.seq))
