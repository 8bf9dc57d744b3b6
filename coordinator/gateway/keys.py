"""Keys: who makes a request, by the API key that it carries."""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fastapi import Request

from coordinator.gateway import key_file
from coordinator.gateway.caller import Caller, Role
from coordinator.gateway.key_file import Key, KeyFileError, KeyFileUnreadable
from coordinator.gateway.trusted_files import Fingerprint, fingerprint

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5
"""Interval (s) between two looks at the file. A key is refused within a second after it was revoked."""
GOOD_FOR = 60.0
"""How long (s) the keys of a file stay good after it was last readable."""

_NO_HASH = "0" * 64


class Keys:
    """An `Authenticate` for the keys of a file, which is read again when it has changed.

    A file that cannot be parsed changes nothing and is logged: a slip of an editor must not lock everybody
    out. If the file cannot be read, or another user may have written it, a revocation would go unnoticed:
    after GOOD_FOR no key is good, and `trouble` says why. Raises KeyFileError when it is made.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._seen: Fingerprint | None = fingerprint(path)
        self._keys = key_file.read(path)
        self._looked = self._readable = clock()
        self._complaint: str | None = None
        self._unreadable: KeyFileUnreadable | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def trouble(self) -> str | None:
        """Why no key is good, for health checks; None = keys are."""
        self._look()
        return f"no API key is good: {self._unreadable}" if self._closed else None

    async def __call__(self, request: Request) -> Caller | None:
        text = presented(request)
        return None if text is None else self.caller_of(text)

    def caller_of(self, text: str) -> Caller | None:
        self._look()
        key = None if self._closed else self._keys.get(key_file.id_in(text) or "")
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
        seen = fingerprint(self._path)
        if self._unreadable is None and seen is not None and seen == self._seen:
            self._readable = now
            return
        try:
            self._keys = key_file.read(self._path)
        except KeyFileUnreadable as error:
            self._unreadable = error
            self._miss(now, error)
            return
        except KeyFileError as error:
            self._complain("The API keys stay as they are: %s", error)
            if self._closed:
                return
        else:
            # Taken before the read: what is written during it is seen the next time.
            self._seen, self._complaint, self._closed = seen, None, False
            logger.info("%d API keys read from %r", len(self._keys), str(self._path))
        self._readable, self._unreadable = now, None

    def _miss(self, now: float, error: KeyFileUnreadable) -> None:
        """The file is not readable now."""
        left = self._readable + GOOD_FOR - now
        if left > 0:
            self._complain(
                f"The API keys were read before and stay good for {left:.0f} s; then no key is good and the"
                " worker is not ready: %s",
                error,
            )
        elif not self._closed:
            self._closed = True
            logger.error(
                "No API key is good and the worker is not ready, because a key may have been revoked since:"
                " %s. Make the file readable for this process (uid %d); nothing has to be restarted",
                error,
                os.geteuid(),
            )

    def _complain(self, message: str, error: KeyFileError) -> None:
        """Once for each reason."""
        if self._complaint != str(error):
            self._complaint = str(error)
            logger.error(message, error)


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
