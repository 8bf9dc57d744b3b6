"""Keys: authenticates requests by their API key."""

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

POLL_INTERVAL = 0.5
"""Interval (s) at which the file is polled. A revoked key is refused within a second."""
GRACE = 60.0
"""How long (s) keys stay valid after the file was last readable."""

_NO_HASH = "0" * 64


class Keys:
    """An `Authenticate` for the keys of a file, which is re-read when it has changed.

    A file that cannot be parsed is logged and otherwise ignored, so that an editing mistake does not lock out
    all callers. If the file cannot be read, or another user may have written it, a revocation would be
    missed: after `GRACE` all keys are refused, and `trouble` contains the reason. The constructor raises
    KeyFileError."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._fingerprint: Fingerprint | None = fingerprint(path)
        self._keys = key_file.read(path)
        self._polled_at = self._readable_at = clock()
        self._logged_error: str | None = None
        self._unreadable: KeyFileUnreadable | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def trouble(self) -> str | None:
        """Why all keys are refused, for health checks; None if they are not."""
        self._poll()
        return f"all API keys are refused: {self._unreadable}" if self._closed else None

    async def __call__(self, request: Request) -> Caller | None:
        text = presented(request)
        return None if text is None else self.caller_of(text)

    def caller_of(self, text: str) -> Caller | None:
        """Returns the caller of the key `text`, or None if the key is unknown, expired or revoked."""
        self._poll()
        key = None if self._closed else self._keys.get(key_file.id_in(text) or "")
        # In constant time, and also for an unknown id: timing reveals nothing about a guess.
        matches = hmac.compare_digest(key_file.hash_of(text), _NO_HASH if key is None else key.hash)
        if key is None or not matches or key.expired(datetime.now(UTC)):
            return None
        return _caller(key)

    def _poll(self) -> None:
        now = self._clock()
        if now - self._polled_at < POLL_INTERVAL:
            return
        self._polled_at = now
        current = fingerprint(self._path)
        if self._unreadable is None and current is not None and current == self._fingerprint:
            self._readable_at = now
            return
        try:
            self._keys = key_file.read(self._path)
        except KeyFileUnreadable as error:
            self._unreadable = error
            self._handle_unreadable(now, error)
            return
        except KeyFileError as error:
            self._log_once("the API keys are unchanged, because their file is invalid: %s", error)
            if self._closed:
                return
        else:
            # The fingerprint precedes the read: a write during the read is detected by the next poll.
            self._fingerprint, self._logged_error, self._closed = current, None, False
            logger.info("%d API keys read from %r", len(self._keys), str(self._path))
        self._readable_at, self._unreadable = now, None

    def _handle_unreadable(self, now: float, error: KeyFileUnreadable) -> None:
        """Warns during the grace; after it, refuses all keys."""
        remaining = self._readable_at + GRACE - now
        if remaining > 0:
            self._log_once(
                f"the key file is unreadable: its keys stay valid for {remaining:.0f} s, then all keys are"
                " refused and the worker is not ready: %s",
                error,
            )
        elif not self._closed:
            self._closed = True
            logger.error(
                "all API keys are refused and the worker is not ready, because a key may have been revoked:"
                " %s. Make the file readable for this process (uid %d); a restart is not necessary",
                error,
                os.geteuid(),
            )

    def _log_once(self, message: str, error: KeyFileError) -> None:
        """Logs each error once until the next success or another error."""
        if self._logged_error != str(error):
            self._logged_error = str(error)
            logger.error(message, error)


def presented(request: Request) -> str | None:
    """Returns the key of a request, from `x-api-key` or `Authorization: Bearer`.

    Returns None if there is none, and if there are several different ones, which would be ambiguous.
    """
    candidates: set[str] = set()
    for name, value in request.scope["headers"]:
        if name == b"x-api-key":
            candidates.add(value.decode("latin-1"))
        elif name == b"authorization":
            scheme, _, credentials = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":  # other schemes may belong to a proxy
                candidates.add(credentials.strip())
    return candidates.pop() if len(candidates) == 1 else None


def _caller(key: Key) -> Caller:
    return Caller(key.user_id, Role[key.role], key.id)
