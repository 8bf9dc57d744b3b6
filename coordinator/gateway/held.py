"""Answers that stay open: streams, and JSON that is waited for. What both owe their client and the worker."""

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

_AGAIN = 1.0
"""Seconds between attempts to write down that a client has gone, while the store is away."""
_ATTEMPTS = 60


class BrokenOff(Exception):
    """The answer cannot be completed, and must not look complete: its connection is closed instead."""


class Place:
    """Room for one held answer, until it is over. `counted`: against the limits."""

    def __init__(self, watchers: Watchers, user_id: str | None, *, counted: bool) -> None:
        self.watchers, self.user_id, self.counted = watchers, user_id, counted
        self.taken = False


class Watchers:
    """The held answers of this worker: how many there may be, and their end when the worker leaves.

    `per_user`: how many of them may be one user's, so that one cannot take the places of all others. Callers
    without a user (`Caller.user_id`) have no share of their own.
    """

    def __init__(self, limit: int, per_user: int) -> None:
        self._limit, self._per_user = limit, per_user
        self._places: set[Place] = set()
        self._counted: Counter[str | None] = Counter()
        self._bodies: set[asyncio.Task[None]] = set()
        self._leaving = False

    @property
    def open(self) -> int:
        return len(self._places)

    @contextmanager
    def place(self, user_id: str | None, *, always: bool = False) -> Generator[Place]:
        """Before anything is done for whoever is going to watch. Free again at the end of the block, unless
        an answer has taken it. Raises Draining; TooManyOpen, but for what has to be possible `always`, which
        takes nobody's place."""
        if self._leaving:
            raise Draining
        if not always:
            self._check_room(user_id)
        place = Place(self, user_id, counted=not always)
        self._places.add(place)
        self._counted[user_id] += place.counted
        try:
            yield place
        finally:
            if not place.taken:
                self._free(place)

    def _check_room(self, user_id: str | None) -> None:
        if user_id is not None and self._counted[user_id] >= self._per_user:
            raise TooManyOpen(self._per_user, user_id)
        if self._counted.total() >= self._limit:
            raise TooManyOpen(self._limit)

    def _free(self, place: Place) -> None:
        if place in self._places:
            self._places.discard(place)
            self._counted[place.user_id] -= place.counted
            if not self._counted[place.user_id]:
                del self._counted[place.user_id]

    @contextmanager
    def holding(self, place: Place, body: asyncio.Task[None]) -> Generator[None]:
        self._bodies.add(body)
        if self._leaving:
            body.cancel()
        try:
            yield
        finally:
            self._bodies.discard(body)
            self._free(place)

    def let_go(self) -> None:
        """Break off every held answer, for clients to go on at another worker; new ones are refused. For a
        worker that leaves, once its own runs are over. Nobody is taken to have gone away.

        A stream that was closed instead would look complete to a client that asks for the run only after
        the run has ended.
        """
        self._leaving = True
        for body in self._bodies:
            body.cancel()


class HeldResponse(Response, ABC):
    """Goes on until it is complete or its client has gone: then `on_gone` is called.

    The end of the worker is not taken for the end of the client.
    """

    def __init__(
        self,
        place: Place,
        *,
        headers: Mapping[str, str],
        on_gone: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        place.taken = True
        self._place, self._on_gone = place, on_gone
        self._started = False

    @abstractmethod
    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        """Start once with the headers, then send the body. Cancelled where it is not wanted any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        body = begin_soon(self._body(send))
        gone = begin_soon(_disconnect(receive))
        with self._place.watchers.holding(self._place, body):
            try:
                await asyncio.wait((body, gone), return_when=asyncio.FIRST_COMPLETED)
                left = not body.done()
            finally:
                body.cancel()
                gone.cancel()
                await asyncio.wait((body, gone))
        if left or (not body.cancelled() and isinstance(body.exception(), OSError)):
            await self._gone()
        elif body.cancelled() or isinstance(body.exception(), BrokenOff):
            if not self._started:
                raise Draining
        else:
            body.result()

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

    async def _gone(self) -> None:
        """Not given up because the store is away: the run would go on for nobody."""
        if self._on_gone is None:
            return
        for _ in range(_ATTEMPTS):
            try:
                await self._on_gone()
            except StoreUnavailable:
                await asyncio.sleep(_AGAIN)
            except CoordinatorError:
                logger.warning("A client has gone, and its run could not be told", exc_info=True)
                return
            else:
                return
        logger.warning("A client has gone, and its run could not be told: the store is away")


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
