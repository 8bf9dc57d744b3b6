"""The event log as one Redis stream for each run, with explicit ids.

It uses a separate link, so that a megabyte of events does not delay a cancel.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from coordinator.event_log import TAIL, Appended, Entry, Event, EventId, Page
from coordinator.redis.keys import to_bytes
from coordinator.redis.link import RedisLink
from coordinator.redis.published import PublishedEvents, checked_event
from coordinator.redis.resp import Reply, ReplyError
from coordinator.redis.scripts import Command, append, read_log, reclaim, remove

PAGE_BYTES = 256 * 1024
"""A page ends after the event that reaches this size, which is what asyncio reads from a socket at once."""

_ANSWERS = {b"d": Appended.done, b"l": Appended.late, b"s": Appended.stale}


class RedisEventLog:
    """Does not close `link`. `ttl`: seconds after the last append. `published`: events that the notifier has
    received."""

    def __init__(self, link: RedisLink, ttl: float, published: PublishedEvents | None = None) -> None:
        self._link = link
        self._published = PublishedEvents() if published is None else published
        self._ttl_ms = max(1, int(ttl * 1000))

    @property
    def away(self) -> bool:
        return self._link.away

    @property
    def trouble(self) -> str | None:
        return self._link.trouble

    async def returned(self) -> None:
        await self._link.returned()

    async def append(self, thread_id: str, run_id: str, entry: Entry) -> Appended:
        reply = await self._link.call_or_error(self._command(thread_id, run_id, entry))
        if isinstance(reply, ReplyError) and not self._link.away:
            return Appended.refused
        appended = _ANSWERS.get(reply, Appended.lost) if isinstance(reply, bytes) else Appended.lost
        if appended is Appended.done and self._published:  # followers here are woken now, before the message
            event = Event(entry.id, entry.mode, entry.json)
            self._published.add(self._link.keys.run(run_id), event)
        return appended

    def reclaim(self, thread_id: str, run_id: str, fence: int) -> None:
        keys = self._link.keys
        slot, log = keys.thread(thread_id).slot, keys.log(thread_id, run_id)
        self._link.post(reclaim(slot, log, fence=fence))

    def close(self, thread_id: str, run_id: str, entry: Entry) -> None:
        self._link.post(self._command(thread_id, run_id, entry))

    async def flushed(self, thread_id: str, run_id: str) -> None:
        """Returns with the answer to a command behind the last entry, at once if Redis is away."""
        await self.read(thread_id, run_id, TAIL, 1)

    async def read(self, thread_id: str, run_id: str, after: EventId | None, limit: int) -> Page | None:
        log = self._link.keys.log(thread_id, run_id)
        begin = b"-" if after is None else str(after.next).encode()
        reply = await self._link.call(read_log(log, begin=begin, limit=limit, page_bytes=PAGE_BYTES))
        return _page(reply)

    def peek(self, run_id: str, after: EventId | None, limit: int) -> Page | None:
        return self._published.after(self._link.keys.run(run_id), after, limit)

    @asynccontextmanager
    async def followed(self, thread_id: str, run_id: str) -> AsyncGenerator[None]:
        yield

    async def aclose(self) -> None:
        """No effect: the owner of the link closes it, and it sends pending commands then."""

    def forget(self, run_id: str) -> None:
        """No effect: the stream expires."""

    def remove(self, thread_id: str, run_id: str) -> None:
        self._link.post(remove(self._link.keys.log(thread_id, run_id)))

    def _command(self, thread_id: str, run_id: str, entry: Entry) -> Command:
        keys = self._link.keys
        slot, events = keys.thread(thread_id)
        return append(
            slot,
            keys.log(thread_id, run_id),
            run=keys.run(run_id),
            fence=entry.id.fence,
            number=entry.id.number,
            floor=str(entry.floor).encode(),
            mode=to_bytes(entry.mode),
            data=to_bytes(entry.json),
            ttl_ms=self._ttl_ms,
            channel=events,
        )


def _page(reply: Reply) -> Page | None:
    """Parses a page. Returns None if there is no reply, or the stream has entries that no EventWriter
    appended."""
    if not isinstance(reply, list) or not reply or not all(isinstance(part, bytes) for part in reply):
        return None
    try:
        texts = [part.decode("utf-8", "surrogatepass") for part in reply if isinstance(part, bytes)]
        top = EventId.parse(texts[0]) if texts[0] else None
        fields = iter(texts[1:])
        events = tuple(checked_event(EventId.parse(text), next(fields), next(fields)) for text in fields)
    except (ValueError, RuntimeError):
        return None
    return Page(events, top)
