"""Look-ups of host names, in threads of their own: a name server that hangs holds up nothing else.

Nothing can end a look-up that has begun. So each runs in a daemon thread and not in the event loop's pool,
which runs may need, and callers who ask for the same name meanwhile share it."""

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
    """Run blocking `work` in a daemon thread, which neither the loop nor the process waits for at its end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    # Retrieved, so that asyncio does not log it if nobody waits any more.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the future gets it
            error = raised
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


class Names:
    """At most one look-up of a name is under way, whoever asks for it and however often."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str, port: int) -> list[str]:
        """IP addresses in the order of the system's preference, at least one. May be cancelled: the look-up
        goes on and is shared by the next caller. Raises OSError."""
        if _is_address(host):
            return [host]
        key = host, port
        future = self._under_way.get(key)
        if future is None:
            future = in_thread(lambda: _look_up(host, port), f"look-up of {host}")
            self._under_way[key] = future
            future.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(future)


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
