"""Events as log lines, through the standard library or structlog."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

from coordinator.telemetry.events import (
    ConnectivityChanged,
    Event,
    PeerBuried,
    RunEmitted,
    RunForced,
    RunLost,
    RunRecovered,
    WebhookFailed,
    WorkerFenced,
)

_LEVELS: dict[type[Event], int] = {
    RunForced: logging.ERROR,
    WorkerFenced: logging.ERROR,
    RunLost: logging.WARNING,
    RunRecovered: logging.WARNING,
    PeerBuried: logging.WARNING,
    WebhookFailed: logging.WARNING,
    ConnectivityChanged: logging.WARNING,
}
_SILENT = (RunEmitted,)  # the stream of a run belongs to its watchers, not into a log


class LoggingHook:
    """One line an event; values are written with repr, so that an id cannot forge a line."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("coordinator")

    def __call__(self, event: Event) -> None:
        if isinstance(event, _SILENT):
            return
        level = _LEVELS.get(type(event), logging.DEBUG)
        if self._logger.isEnabledFor(level):
            details = " ".join(f"{field.name}={getattr(event, field.name)!r}" for field in fields(event))
            self._logger.log(level, "%s %s", type(event).__name__, details)


class StructlogHook:
    """The same through a structlog logger, with the fields as keys. Needs structlog installed."""

    def __init__(self, logger: Any = None) -> None:
        if logger is None:
            import structlog  # noqa: PLC0415 - optional; only who asks for it needs it

            logger = structlog.get_logger("coordinator")
        self._logger = logger

    def __call__(self, event: Event) -> None:
        if isinstance(event, _SILENT):
            return
        details = {field.name: getattr(event, field.name) for field in fields(event)}
        self._logger.log(_LEVELS.get(type(event), logging.DEBUG), type(event).__name__, **details)
