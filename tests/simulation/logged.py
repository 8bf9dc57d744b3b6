"""Errors that the product logs are violations."""

from __future__ import annotations

import logging

_CLOSED = "could not be written before the store was closed"
"""Logged by the manager about writes that were late, or for which the store was unavailable until the end."""
_FENCED = "pending writes are dropped, because this worker was fenced"
"""Logged if the store was unavailable for longer than the lease."""


_LATE = "timed out and was cancelled; the shutdown continues"
"""Logged about a step of the shutdown during which a call of the store took too long; peers do the rest."""


_BROKEN = "The rollback of run"
"""Logged if the restore of a rollback fails."""


class _Errors(logging.Handler):
    def __init__(self, errors: list[str], *, quiet: bool) -> None:
        super().__init__(logging.ERROR)
        self._errors, self._quiet = errors, quiet

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.endswith((_CLOSED, _LATE)):
            return
        if not self._quiet and (_FENCED in text or text.startswith(_BROKEN)):
            return
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self._errors.append(f"logged: {text}")


class errors_logged:  # noqa: N801 - a context manager
    """Collects the errors that the product logs as violations; warnings are not created."""

    def __init__(self, errors: list[str], *, quiet: bool) -> None:
        self._handler = _Errors(errors, quiet=quiet)

    def __enter__(self) -> None:
        for name in ("coordinator", "stores"):
            logger = logging.getLogger(name)
            logger.addHandler(self._handler)
            logger.setLevel(logging.ERROR)
            logger.propagate = False

    def __exit__(self, *exc: object) -> None:
        for name in ("coordinator", "stores"):
            logger = logging.getLogger(name)
            logger.removeHandler(self._handler)
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
