"""Hooks that log events, through the standard library or structlog, and a filter that adds the run to log
records."""

from __future__ import annotations

import logging
import time
from dataclasses import fields
from typing import Any

from coordinator.context import current_run
from coordinator.telemetry.events import Event, RunEmitted, RunLost, RunSettled, RunStarted
from coordinator.telemetry.sentences import level_of, sentence_of

_NOT_LOGGED = (RunEmitted,)  # the output of a run is for its watchers


class LoggingHook:
    """Logs each event as a sentence. The log record has the event's name as `event` and its fields as
    attributes, for formatters that write structured lines. `runs`: also logs the start and the end of each
    run at INFO, with its duration as `seconds`."""

    def __init__(self, logger: logging.Logger | None = None, *, runs: bool = False) -> None:
        self._logger = logger or logging.getLogger("coordinator")
        self._runs = runs
        self._started_at: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, _NOT_LOGGED):
            return
        level, seconds = level_of(event), None
        if self._runs and isinstance(event, (RunStarted, RunSettled, RunLost)):
            level, seconds = max(level, logging.INFO), self._seconds(event)
        if self._logger.isEnabledFor(level):
            attributes = {"event": type(event).__name__, **_fields(event)}
            text = sentence_of(event)
            if seconds is not None:
                attributes["seconds"] = round(seconds, 3)
                text = f"{text}, after {seconds:.3g} s"
            self._logger.log(level, "%s", text, extra=attributes)

    def _seconds(self, event: RunStarted | RunSettled | RunLost) -> float | None:
        """Seconds since the run started; None for its start, and for a run that never started."""
        if isinstance(event, RunStarted):
            self._started_at[event.run_id] = time.monotonic()
            return None
        started_at = self._started_at.pop(event.run_id, None)
        return None if started_at is None else time.monotonic() - started_at


class StructlogHook:
    """Logs each event through a structlog logger, with the event's fields as keys. Requires structlog."""

    def __init__(self, logger: Any = None) -> None:  # Any: of logging or structlog
        if logger is None:
            import structlog  # noqa: PLC0415 - optional dependency

            logger = structlog.get_logger("coordinator")
        self._logger = logger

    def __call__(self, event: Event) -> None:
        if isinstance(event, _NOT_LOGGED):
            return
        self._logger.log(level_of(event), type(event).__name__, **_fields(event))


class OfRun(logging.Filter):
    """Adds `run_id` and `thread_id` to each record that the code of a run logs. Add it to a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        if (context := current_run.get()) is not None and not hasattr(record, "run_id"):
            record.run_id, record.thread_id = context.run.run_id, context.run.thread_id
        return True


def _fields(event: Event) -> dict[str, object]:
    return {field.name: getattr(event, field.name) for field in fields(event)}
