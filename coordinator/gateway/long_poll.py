"""A JSON response with the result of a run, sent when the run ends. If that is in a moment, the response is
sent as a whole. Else the headers are sent first, then white space as a heartbeat, which JSON allows before a
value."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import cast

from starlette.types import Receive, Scope, Send

from coordinator.errors import RunNotFound, StoreUnavailable, ThreadNotFound
from coordinator.gateway.long_lived_responses import LongLivedResponse, SendBody, StreamSlot
from coordinator.gateway.wire.documents import failure, interrupt_parts
from coordinator.gateway.wire.json import Json, encoded
from coordinator.manager import RunManager
from coordinator.schemas import Ended, RunStatus
from stores.states import FAILED
from stores.tasks import begin_soon

WHITE_SPACE = b"\n"

MOMENT = 0.1
"""Seconds. Many runs end within them, also on a worker that is busy, and a response that is sent as a whole
costs a tenth of an open one."""

_RETRY_DELAY = 0.5
"""Seconds until the next attempt while the store is unavailable."""


class LongPollResponse(LongLivedResponse):
    """Sends the JSON of `result`: as a whole if it is available within `MOMENT`, else the headers first, and
    the JSON when it is available. `result` may be cancelled and called again. A disconnect of the client
    within `MOMENT` is detected after it."""

    media_type = "application/json"

    def __init__(
        self,
        result: Callable[[], Coroutine[object, object, Json]],
        slot: StreamSlot,
        *,
        heartbeat: float,
        headers: Mapping[str, str],
        on_disconnect: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(slot, headers=headers, on_disconnect=on_disconnect)
        self._result, self._heartbeat = result, heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._slot.watchers.using(self._slot):
            try:
                async with asyncio.timeout(MOMENT):
                    result = await self._result()
            except TimeoutError:
                await super().__call__(scope, receive, send)
                return
            await self.send_whole(encoded(result), send)

    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        await start()
        result = begin_soon(self._result())
        try:
            while not (await asyncio.wait((result,), timeout=self._heartbeat))[0]:
                await send(WHITE_SPACE)
            await send(encoded(result.result()))
        finally:
            if not result.done():
                result.cancel()
                await asyncio.wait((result,))


async def result_of(manager: RunManager, thread_id: str, run_id: str, user_id: str | None) -> Json:
    """Waits until the run has settled and returns the body of wait, join and cancel: the run's own result,
    even if the thread has changed since; the thread's values if the run was stopped or removed; `__error__`
    if it failed. Retries while the store is unavailable."""
    while True:
        try:
            return await _read_result(manager, thread_id, run_id, user_id)
        except StoreUnavailable:
            await asyncio.sleep(_RETRY_DELAY)


async def _read_result(manager: RunManager, thread_id: str, run_id: str, user_id: str | None) -> Json:
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
    try:
        thread = await manager.threads.get(thread_id, user_id=user_id)
    except ThreadNotFound:  # removed since the run ended
        return {}
    return {} if thread.values is None else thread.values


def _with_interrupts(ended: Ended, result: Json) -> Json:
    """Adds the interrupts of a paused run. It has none if it stopped at a breakpoint."""
    if not ended.paused or not ended.interrupts:
        return result
    values = cast("dict[str, Json]", result) if isinstance(result, dict) else {"result": result}
    return {**values, "__interrupt__": [interrupt_parts(each) for each in ended.interrupts]}
