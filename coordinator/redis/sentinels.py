"""Sentinels: queries them for the master, in an order that prefers those that answered correctly."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from redis.exceptions import RedisError

from coordinator.redis.error_text import describe

SENTINEL_LIMIT = 0.3
"""Seconds for one sentinel: TCP, TLS, AUTH, and the reply."""


class HostPort(NamedTuple):
    """The endpoint of a server. `host` is a name or an IP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


Query = Callable[[HostPort], Awaitable[HostPort]]
"""Queries one sentinel for its master. Raises OSError, RedisError, or ValueError for an invalid reply."""


class Sentinels:
    """A sentinel that does not answer, answers with an error, or names an unusable server is queried last
    from then on. So a bad sentinel costs at most one attempt while another one answers."""

    def __init__(self, sentinels: list[HostPort], service: str, query: Query) -> None:
        self._sentinels, self._service, self._query = sentinels, service, query

    async def master(self) -> tuple[HostPort, HostPort]:
        """Returns the master, and the sentinel that named it. Raises ConnectionError."""
        errors: list[str] = []
        for sentinel in list(self._sentinels):
            try:
                return await self._query_one(sentinel), sentinel
            except (OSError, RedisError, ValueError) as error:
                errors.append(f"{sentinel}: {describe(error, SENTINEL_LIMIT)}")
                self.distrust(sentinel)
        raise ConnectionError(f"no sentinel names the master of {self._service!r}: {'; '.join(errors)[:500]}")

    async def other_master(self, current: HostPort) -> HostPort | None:
        """Returns the master if it differs from `current` and a majority of the answering sentinels names it;
        else None."""
        try:
            named, _ = await self.master()
        except ConnectionError:
            return None
        if named == current:
            return None
        answers = await asyncio.gather(
            *(self._query_one(sentinel) for sentinel in self._sentinels), return_exceptions=True
        )
        votes = Counter(answer for answer in answers if isinstance(answer, HostPort))
        if not votes:
            return None
        master, count = votes.most_common(1)[0]
        return master if master != current and count * 2 > votes.total() else None

    def distrust(self, sentinel: HostPort) -> None:
        """Queries `sentinel` last from now on."""
        if sentinel in self._sentinels:
            self._sentinels.remove(sentinel)
            self._sentinels.append(sentinel)

    async def _query_one(self, sentinel: HostPort) -> HostPort:
        async with asyncio.timeout(SENTINEL_LIMIT):
            return await self._query(sentinel)
