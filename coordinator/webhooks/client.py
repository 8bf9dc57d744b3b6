"""One request to one receiver, over a connection to an address that was checked.

httpcore2, without httpx on top: it follows no redirects, has no cookies, and asks no environment variable
for a proxy, so there is nothing to switch off.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import cast

import httpcore2

from coordinator.webhooks.targets import Address, NotReached, Target, Targets

MAX_ANSWER = 64 << 10
"""Bytes of an answer that are waited for. Its status is what counts; nobody reads the rest."""
_FAREWELL = 1.0  # s; for the rest of an answer whose status is known
_TRIED = 4  # addresses of a name
_CONNECT = 5.0  # s; for each of them
_NOT_REACHED = (httpcore2.NetworkError, httpcore2.TimeoutException)


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the addresses that were checked, whatever the name resolves to by now. TLS and the Host
    header keep the name."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses[:_TRIED]
        self._sockets = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        del host
        failure: httpcore2.NetworkError | httpcore2.TimeoutException | None = None
        for address in self._addresses:
            try:
                return await self._sockets.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except _NOT_REACHED as error:
                failure = error
        raise failure or httpcore2.ConnectError("there is no address to connect to")


class Client:
    """`timeout` (s) bounds an attempt as a whole: look-up, connection, request, and the answer's head. What
    a look-up waits for others of the same user is not counted."""

    def __init__(
        self, targets: Targets, *, timeout: float, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._targets, self._timeout = targets, timeout
        self._ssl = ssl_context or httpcore2.default_ssl_context()
        self._agent = f"run-coordinator/{version('run-coordinator')}"

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, user_id: str | None = None
    ) -> int:
        """The status of the answer. Raises TargetRefused, NameUnknown, NotReached, Full."""
        target = self._targets.parse(url)
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(None) as limit:
                addresses = await self._targets.addresses(
                    target, user_id=user_id, begun=lambda: limit.reschedule(now() + self._timeout)
                )
                return await self._send(target, addresses, headers, body, limit)
        except TimeoutError:
            raise NotReached(f"no answer within {self._timeout:g} s") from None
        except (*_NOT_REACHED, httpcore2.ProtocolError, OSError) as error:
            raise NotReached(f"{type(error).__name__}: {error}") from error

    async def _send(
        self,
        target: Target,
        addresses: Sequence[Address],
        headers: Mapping[str, str],
        body: bytes,
        limit: asyncio.Timeout,
    ) -> int:
        url = httpcore2.URL(
            scheme=target.scheme.encode(),
            host=target.host.encode(),
            port=target.port,
            target=target.path.encode(),
        )
        sent = {
            "host": target.authority,
            "user-agent": self._agent,
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **headers,
        }
        async with (
            httpcore2.AsyncConnectionPool(
                ssl_context=self._ssl, network_backend=PinnedBackend(addresses), max_connections=1
            ) as pool,
            pool.stream(
                "POST",
                url,
                headers=list(sent.items()),
                content=body,
                extensions={"timeout": {"connect": _CONNECT}},
            ) as answer,
        ):
            limit.reschedule(None)  # the status is there, and stands
            await _hear_out(answer)
            return answer.status


async def _hear_out(answer: httpcore2.Response) -> None:
    """A receiver whose answer is cut off may take it for a failure of its own; so a little patience."""
    size = 0
    with suppress(TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
        async with asyncio.timeout(_FAREWELL):
            async for part in answer.aiter_stream():
                size += len(part)
                if size > MAX_ANSWER:
                    return
