"""Responses that stay open: streams, and JSON that is sent when a run ends. Covers their limits, the
disconnect of their client, and their end when the worker drains."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from coordinator.errors import CoordinatorError, Draining, StoreUnavailable
from coordinator.gateway.errors import TooManyOpen
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

SendBody: TypeAlias = Callable[[bytes], Awaitable[None]]

_RETRY_DELAY = 1.0
"""Seconds between attempts to record a disconnect while the store is unavailable."""
_ATTEMPTS = 60


class ResponseAborted(Exception):
    """The response cannot be completed. Its connection is closed, so that the client does not take it for
    complete."""


class StreamSlot:
    """Reserves room for one open response until that ends. `counted`: whether it counts against the limits.
    `attached`: a response owns it."""

    def __init__(self, watchers: Watchers, user_id: str | None, *, counted: bool) -> None:
        self.watchers, self.user_id, self.counted = watchers, user_id, counted
        self.attached = False


class Watchers:
    """The open responses of this worker: limits their number and aborts them when the worker has drained.

    `per_user`: the limit for each user, so that one user cannot exhaust `limit`. Callers without a user
    (`Caller.user_id`) are bounded only by `limit`.
    """

    def __init__(self, limit: int, per_user: int) -> None:
        self._limit, self._per_user = limit, per_user
        self._slots: set[StreamSlot] = set()
        self._counts: Counter[str | None] = Counter()
        self._bodies: set[asyncio.Task[None]] = set()
        self._aborted = False

    @property
    def open(self) -> int:
        return len(self._slots)

    @contextmanager
    def reserve(self, user_id: str | None, *, always: bool = False) -> Generator[StreamSlot]:
        """Reserves a slot before the work for the response begins. It is freed at the end of the block unless
        a response owns it by then. `always`: neither checks the limits nor counts against them. Raises
        Draining, TooManyOpen."""
        if self._aborted:
            raise Draining
        if not always:
            self._check_limits(user_id)
        slot = StreamSlot(self, user_id, counted=not always)
        self._slots.add(slot)
        self._counts[user_id] += slot.counted
        try:
            yield slot
        finally:
            if not slot.attached:
                self._free(slot)

    def _check_limits(self, user_id: str | None) -> None:
        if user_id is not None and self._counts[user_id] >= self._per_user:
            raise TooManyOpen(self._per_user, user_id)
        if self._counts.total() >= self._limit:
            raise TooManyOpen(self._limit)

    def _free(self, slot: StreamSlot) -> None:
        if slot in self._slots:
            self._slots.discard(slot)
            self._counts[slot.user_id] -= slot.counted
            if not self._counts[slot.user_id]:
                del self._counts[slot.user_id]

    @contextmanager
    def using(self, slot: StreamSlot) -> Generator[None]:
        """Frees `slot` at the end of the block. Blocks may be nested."""
        try:
            yield
        finally:
            self._free(slot)

    @contextmanager
    def track(self, slot: StreamSlot, body: asyncio.Task[None]) -> Generator[None]:
        """Lets `abort_all` cancel `body` during the block, and frees `slot` at its end."""
        self._bodies.add(body)
        if self._aborted:
            body.cancel()
        with self.using(slot):
            try:
                yield
            finally:
                self._bodies.discard(body)

    def abort_all(self) -> None:
        """Aborts every open response and refuses new ones; clients resume at another worker. Called when the
        manager has drained. An abort does not count as a disconnect of the client.

        A stream that was closed normally would look complete to a client.
        """
        self._aborted = True
        for body in self._bodies:
            body.cancel()


class LongLivedResponse(Response, ABC):
    """A response that ends when it is complete, when its client disconnects, or when the worker aborts it.
    `on_disconnect` is called only if the client has disconnected."""

    def __init__(
        self,
        slot: StreamSlot,
        *,
        headers: Mapping[str, str],
        on_disconnect: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        slot.attached = True
        self._slot, self._on_disconnect = slot, on_disconnect
        self._started = False

    @abstractmethod
    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        """Calls `start` once, which sends the headers, then sends the body. Is cancelled when the client
        disconnects or the worker aborts the response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        body = begin_soon(self._body(send))
        disconnected = begin_soon(_await_disconnect(receive))
        with self._slot.watchers.track(self._slot, body):
            try:
                await asyncio.wait((body, disconnected), return_when=asyncio.FIRST_COMPLETED)
                client_left = not body.done()
            finally:
                body.cancel()
                disconnected.cancel()
                await asyncio.wait((body, disconnected))
        if client_left or (not body.cancelled() and isinstance(body.exception(), OSError)):
            await self._notify_disconnect()
        elif body.cancelled() or isinstance(body.exception(), ResponseAborted):
            if not self._started:
                raise Draining
        else:
            body.result()

    async def send_whole(self, body: bytes, send: Send) -> None:
        """Sends the headers and the body, in place of `respond`."""
        self.headers["content-length"] = str(len(body))
        headers = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        try:
            await send(headers)
            await send({"type": "http.response.body", "body": body, "more_body": False})
        except OSError:
            await self._notify_disconnect()

    async def _body(self, send: Send) -> None:
        async def start() -> None:
            self._started = True
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )

        async def chunk(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        await self.respond(start, chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _notify_disconnect(self) -> None:
        """Records the disconnect. Retries while the store is unavailable, at most `_ATTEMPTS` times; else the
        run would continue without a client."""
        if self._on_disconnect is None:
            return
        for _ in range(_ATTEMPTS):
            try:
                await self._on_disconnect()
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_DELAY)
            except CoordinatorError:
                logger.warning(
                    "a client disconnected, which could not be recorded for its run", exc_info=True
                )
                return
            else:
                return
        logger.warning(
            "a client disconnected, which could not be recorded for its run: the store is unavailable"
        )


async def _await_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
