"""Sentinels: which address has the master, and which sentinel is asked first next time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from redis.exceptions import RedisError

from coordinator.redis.words import words_of

SENTINEL_LIMIT = 0.3
"""Seconds for one sentinel: TCP, TLS, AUTH, the answer."""


class Place(NamedTuple):
    """Where a server listens. `host` is a name or an address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


Ask = Callable[[Place], Awaitable[Place]]
"""Ask one sentinel for its master. Raises OSError, RedisError, or ValueError for an answer that is none."""


class Sentinels:
    """One that does not answer, answers with an error, or names a place that is of no use is asked last from
    then on. So one bad sentinel costs one attempt at most, and nothing as long as another one answers."""

    def __init__(self, places: list[Place], service: str, ask: Ask) -> None:
        self._places, self._service, self._ask = places, service, ask

    async def master(self) -> tuple[Place, Place]:
        """The master, and the sentinel that named it. Raises ConnectionError."""
        errors: list[str] = []
        for sentinel in list(self._places):
            try:
                return await self._one(sentinel), sentinel
            except (OSError, RedisError, ValueError) as error:
                errors.append(f"{sentinel}: {words_of(error, SENTINEL_LIMIT)}")
                self.distrust(sentinel)
        raise ConnectionError(f"no sentinel names the master of {self._service!r}: {'; '.join(errors)[:500]}")

    async def another_than(self, current: Place) -> Place | None:
        """The master, if it is another one: of those that answer, more than half must say so."""
        try:
            named, _ = await self.master()
        except ConnectionError:
            return None
        if named == current:
            return None
        answers = await asyncio.gather(*(self._one(place) for place in self._places), return_exceptions=True)
        named_by = Counter(answer for answer in answers if isinstance(answer, Place))
        if not named_by:
            return None
        place, votes = named_by.most_common(1)[0]
        return place if place != current and votes * 2 > named_by.total() else None

    def distrust(self, sentinel: Place) -> None:
        """What it named was of no use."""
        if sentinel in self._places:
            self._places.remove(sentinel)
            self._places.append(sentinel)

    async def _one(self, sentinel: Place) -> Place:
        async with asyncio.timeout(SENTINEL_LIMIT):
            return await self._ask(sentinel)
