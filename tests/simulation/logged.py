"""What the product logs as an error is a violation."""

from __future__ import annotations

import logging

_CLOSED = "could not be written before the store was closed"
"""What the manager says of writes that came too late, or for which the store was away until the end."""
_FENCED = "owed to the store are dropped, because this worker was fenced"
"""And where the store was away for longer than the lease."""


_LATE = "not done in time, and left undone"
"""And of a step of its end for which a call of the store took too long: peers do what it left."""


_BROKEN = "Rolling back run"
"""And where what undoes a rollback fails by itself."""


class _Errors(logging.Handler):
    def __init__(self, found: list[str], *, quiet: bool) -> None:
        super().__init__(logging.ERROR)
        self._found, self._quiet = found, quiet

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.endswith((_CLOSED, _LATE)):
            return
        if not self._quiet and (_FENCED in text or text.startswith(_BROKEN)):
            return
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self._found.append(f"logged: {text}")


class errors_logged:  # noqa: N801 - a context manager
    """What the product logs as an error is a violation; warnings are not even made."""

    def __init__(self, found: list[str], *, quiet: bool) -> None:
        self._handler = _Errors(found, quiet=quiet)

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
