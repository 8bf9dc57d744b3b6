"""JSON that is waited for: how a run ended. White space is sent meanwhile, which JSON allows before it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, cast

from coordinator.errors import RunNotFound, StoreUnavailable
from coordinator.gateway.held import HeldResponse, Place, SendBody
from coordinator.gateway.wire.documents import failure
from coordinator.gateway.wire.json import Json, encoded
from coordinator.manager import RunManager
from coordinator.schemas import Ended, RunStatus
from stores.states import FAILED
from stores.tasks import begin_soon

WHITE_SPACE = b"\n"

_AGAIN = 0.5
"""Seconds until the store is asked again, which was away."""


class LongAnswer(HeldResponse):
    """The headers go out at once, the JSON of `ending` when it is there."""

    media_type = "application/json"

    def __init__(
        self,
        ending: Callable[[], Coroutine[Any, Any, Json]],
        place: Place,
        *,
        heartbeat: float,
        headers: Mapping[str, str],
        on_gone: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(place, headers=headers, on_gone=on_gone)
        self._ending, self._heartbeat = ending, heartbeat

    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        await start()
        ending = begin_soon(self._ending())
        try:
            while not (await asyncio.wait((ending,), timeout=self._heartbeat))[0]:
                await send(WHITE_SPACE)
            await send(encoded(ending.result()))
        finally:
            if not ending.done():
                ending.cancel()
                await asyncio.wait((ending,))


async def ending_of(manager: RunManager, thread_id: str, run_id: str, user_id: str | None) -> Json:
    """What wait, join and cancel answer once the run has settled: its own result, whatever the thread has
    become since; the thread's values where it was stopped; `__error__` where it failed or is gone. The store
    may be away meanwhile."""
    while True:
        try:
            return await _ending_of(manager, thread_id, run_id, user_id)
        except StoreUnavailable:
            await asyncio.sleep(_AGAIN)


async def _ending_of(manager: RunManager, thread_id: str, run_id: str, user_id: str | None) -> Json:
    try:
        ended = await manager.ended(run_id, user_id=user_id)
    except RunNotFound:  # rolled back, or deleted
        return await _values(manager, thread_id, user_id)
    if ended.status in FAILED:
        return {"__error__": failure(ended.status, ended.error)}
    result = ended.result
    if ended.status is not RunStatus.success or result is None:
        result = await _values(manager, thread_id, user_id)
    return _with_interrupts(ended, result)


async def _values(manager: RunManager, thread_id: str, user_id: str | None) -> Json:
    thread = await manager.thread(thread_id, user_id=user_id)
    return {} if thread is None or thread.values is None else thread.values


def _with_interrupts(ended: Ended, result: Json) -> Json:
    if not ended.paused:
        return result
    values = cast("dict[str, Json]", result) if isinstance(result, dict) else {"result": result}
    return {**values, "__interrupt__": ended.interrupts or []}
