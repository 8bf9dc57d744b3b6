"""The HTTP client of webhooks: one request to one receiver, over a connection to a checked address.

It uses httpcore2 without httpx, which follows no redirects, keeps no cookies and reads no proxy from the
environment, so none of these has to be disabled.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import cast

import httpcore2

from coordinator.webhooks.targets import IPAddress, NotReached, Target, Targets

MAX_ANSWER = 64 << 10
"""Bytes of a response body that are read and discarded. Only the status is used."""
_BODY_TIMEOUT = 1.0  # s; for the body of a response whose status is known
_MAX_ADDRESSES = 4  # connection attempts for a name
_CONNECT_TIMEOUT = 5.0  # s; for each address
_NOT_REACHED = (httpcore2.NetworkError, httpcore2.TimeoutException)


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the given (checked) addresses, without resolving the host name again. TLS and the Host
    header still use the name."""

    def __init__(self, addresses: Sequence[IPAddress]) -> None:
        self._addresses = addresses[:_MAX_ADDRESSES]
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
        raise failure or httpcore2.ConnectError("no address to connect to")


class Client:
    """`timeout` (s) bounds an attempt as a whole: look-up, connection, request, and the head of the response.
    The time that a look-up waits in the queue for a thread is not counted."""

    def __init__(
        self, targets: Targets, *, timeout: float, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._targets, self._timeout = targets, timeout
        self._ssl = ssl_context or httpcore2.default_ssl_context()
        self._agent = f"run-coordinator/{version('run-coordinator')}"

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, user_id: str | None = None
    ) -> int:
        """Sends one request, and returns the status of the response. Raises TargetRefused, NameUnknown,
        NotReached, Full."""
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
        addresses: Sequence[IPAddress],
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
        all_headers = {
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
                headers=list(all_headers.items()),
                content=body,
                extensions={"timeout": {"connect": _CONNECT_TIMEOUT}},
            ) as response,
        ):
            limit.reschedule(None)  # the status decides the attempt; the body has a limit of its own
            await _discard_body(response)
            return response.status


async def _discard_body(response: httpcore2.Response) -> None:
    """Reads the body for a short time, because a receiver may treat an aborted response as a failure."""
    size = 0
    with suppress(TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
        async with asyncio.timeout(_BODY_TIMEOUT):
            async for chunk in response.aiter_stream():
                size += len(chunk)
                if size > MAX_ANSWER:
                    return
