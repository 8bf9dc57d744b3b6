"""The slot lock on Redis: three scripts over the shared link. No key is renewed per run."""

from __future__ import annotations

from coordinator.lock import SlotAnswer, SlotState
from coordinator.redis.keys import to_bytes, to_text
from coordinator.redis.link import RedisLink
from coordinator.redis.messages import encode_settled
from coordinator.redis.resp import Reply
from coordinator.redis.scripts import admit, bind, release

SLOT_TTL_MS = 15 * 60 * 1000
"""A slot that expires too early, or exists too long, costs one read of the store at the next admission."""

RESERVATION_MS = 5000

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
        slot, reservation, _ = self._link.keys.thread(thread_id)
        command = admit(slot, reservation, run=to_bytes(run_id), reservation_ms=RESERVATION_MS)
        return _to_answer(await self._link.call(command))

    def bind(self, thread_id: str, run_id: str, *, epoch: int, fence: int) -> None:
        slot, reservation, _ = self._link.keys.thread(thread_id)
        run = to_bytes(run_id)
        self._link.post(bind(slot, reservation, run=run, epoch=epoch, fence=fence, ttl_ms=SLOT_TTL_MS))

    def release(self, thread_id: str, run_id: str, *, fence: int) -> None:
        slot, reservation, events = self._link.keys.thread(thread_id)
        message = encode_settled(thread_id, run_id) if fence else b""
        self._link.post(
            release(slot, reservation, run=to_bytes(run_id), fence=fence, channel=events, message=message)
        )


def _to_answer(reply: Reply) -> SlotAnswer:
    if reply == b"f":
        return _FREE
    if isinstance(reply, bytes) and reply[:1] in {b"b", b"r"}:
        state = SlotState.busy if reply[:1] == b"b" else SlotState.reserving
        return SlotAnswer(state, to_text(reply[1:]))
    return _UNKNOWN
