"""The slot lock on Redis: a key for each thread that a run holds. No key is renewed."""

from __future__ import annotations

from coordinator.lock import SlotAnswer, SlotState
from coordinator.redis.keys import to_bytes, to_text
from coordinator.redis.link import RedisLink
from coordinator.redis.messages import encode_settled
from coordinator.redis.resp import Reply
from coordinator.redis.scripts import bind, read, release, slot_holder

SLOT_TTL_MS = 15 * 60 * 1000
"""A slot that expires too early, or exists too long, costs one read of the store at the next admission."""

_UNKNOWN = SlotAnswer(SlotState.unknown)
_FREE = SlotAnswer(SlotState.free)


class RedisSlotLock:
    """Shares `link` with the notifier, and does not close it. `bind` and `release` are lossy: their errors
    are logged by the link."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def admit(self, thread_id: str, run_id: str) -> SlotAnswer:
        if self._link.away:
            return _UNKNOWN
        reply = await self._link.call(read(self._link.keys.thread(thread_id).slot))
        return _to_answer(reply, to_bytes(run_id))

    def bind(self, thread_id: str, run_id: str, *, fence: int) -> None:
        slot = self._link.keys.thread(thread_id).slot
        self._link.post(bind(slot, run=to_bytes(run_id), fence=fence, ttl_ms=SLOT_TTL_MS))

    def release(self, thread_id: str, run_id: str, *, fence: int) -> None:
        if not fence:
            return
        slot, events = self._link.keys.thread(thread_id)
        message = encode_settled(thread_id, run_id)
        self._link.post(release(slot, fence=fence, channel=events, message=message))


def _to_answer(reply: Reply, run: bytes) -> SlotAnswer:
    if not isinstance(reply, bytes):
        return _UNKNOWN
    holder = slot_holder(reply)
    if not reply or holder == run:
        return _FREE
    return _UNKNOWN if holder is None else SlotAnswer(SlotState.busy, to_text(holder))
