"""Keys: who makes a request, by the API key that it carries."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fastapi import Request

from coordinator.gateway import key_file
from coordinator.gateway.caller import Caller, Role
from coordinator.gateway.key_file import Key, KeyFileError

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds. A key that was revoked is good for so long at most."""

_NO_HASH = "0" * 64


class Keys:
    """An `Authenticate` for the keys of a file, which is read again when it has changed.

    A file that has become unreadable changes nothing and is logged: a slip of an editor must not lock
    everybody out. Raises KeyFileError when it is made.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._stamp = _stamp(path)
        self._keys = key_file.read(path)
        self._looked = clock()
        self._complaint: str | None = None

    def __len__(self) -> int:
        return len(self._keys)

    async def __call__(self, request: Request) -> Caller | None:
        text = presented(request)
        return None if text is None else self.caller_of(text)

    def caller_of(self, text: str) -> Caller | None:
        self._look()
        key = self._keys.get(key_file.id_in(text) or "")
        # Compared also where no such key is, and in constant time: neither tells how near a guess came.
        right = hmac.compare_digest(key_file.hash_of(text), _NO_HASH if key is None else key.hash)
        if key is None or not right or key.expired(datetime.now(UTC)):
            return None
        return _caller(key)

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        stamp = _stamp(self._path)
        if stamp == self._stamp and stamp is not None:
            return
        try:
            self._keys = key_file.read(self._path)
        except KeyFileError as error:
            if self._complaint != str(error):
                self._complaint = str(error)
                logger.error("The API keys stay as they are: %s", error)  # noqa: TRY400 - says all there is
            return
        # Taken before the read: what is written during it is seen the next time.
        self._stamp, self._complaint = stamp, None
        logger.info("%d API keys read from %r", len(self._keys), str(self._path))


def presented(request: Request) -> str | None:
    """The one key that a request carries: in `x-api-key`, or as `Authorization: Bearer`.

    None also where there are several that differ: which of them counts would be anybody's guess.
    """
    found = set(request.headers.getlist("x-api-key"))
    for value in request.headers.getlist("authorization"):
        scheme, _, credentials = value.partition(" ")
        if scheme.lower() == "bearer":  # another scheme is a proxy's own business
            found.add(credentials.strip())
    return found.pop() if len(found) == 1 else None


def _caller(key: Key) -> Caller:
    return Caller(key.user_id, Role[key.role], key.id)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_mtime_ns, seen.st_size
