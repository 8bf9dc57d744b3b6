"""DNS look-ups in threads of their own, so that a name server that hangs blocks nothing else.

A look-up cannot be cancelled. So each executes in a daemon thread and not in the event loop's pool, which
runs need, and concurrent callers of the same name share one look-up."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Executes blocking `work` in a daemon thread, which neither the loop nor the process joins."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    # Retrieves the exception, so that asyncio does not log "exception was never retrieved" if the caller was
    # cancelled.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # without an error it is a T, which may be None
        else:
            future.set_exception(error)

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - passed on to the future
            error = raised
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


class Names:
    """Resolves names, with at most one look-up of each name in progress."""

    def __init__(self) -> None:
        self._lookups: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str, port: int) -> list[str]:
        """Returns at least one IP address, in the system's order of preference. If the caller is cancelled,
        the look-up continues and is shared by the next caller. Raises OSError."""
        if _is_address(host):
            return [host]
        key = host, port
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = in_thread(lambda: _resolve(host, port), f"look-up of {host}")
            self._lookups[key] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(key, None))
        return await asyncio.shield(lookup)


def _resolve(host: str, port: int) -> list[str]:
    results = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(result[4][0]) for result in results))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
