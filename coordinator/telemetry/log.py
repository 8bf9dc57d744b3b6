"""Events as log lines, through the standard library or structlog; and which run a line belongs to."""

from __future__ import annotations

import logging
import time
from dataclasses import fields
from typing import Any

from coordinator.context import current_run
from coordinator.telemetry.events import Event, RunEmitted, RunLost, RunSettled, RunStarted
from coordinator.telemetry.sentences import level_of, sentence_of

_SILENT = (RunEmitted,)  # the stream of a run belongs to its watchers, not into a log


class LoggingHook:
    """One sentence an event. The record has the event's name as `event` and its fields as attributes, for
    formatters that write structured lines. `runs`: the start and the end of each run at INFO, and how many
    `seconds` lay between them."""

    def __init__(self, logger: logging.Logger | None = None, *, runs: bool = False) -> None:
        self._logger = logger or logging.getLogger("coordinator")
        self._runs = runs
        self._began: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, _SILENT):
            return
        level, seconds = level_of(event), None
        if self._runs and isinstance(event, (RunStarted, RunSettled, RunLost)):
            level, seconds = max(level, logging.INFO), self._seconds(event)
        if self._logger.isEnabledFor(level):
            about = {"event": type(event).__name__, **_fields(event)}
            text = sentence_of(event)
            if seconds is not None:
                about["seconds"] = round(seconds, 3)
                text = f"{text}, after {seconds:.3g} s"
            self._logger.log(level, "%s", text, extra=about)

    def _seconds(self, event: RunStarted | RunSettled | RunLost) -> float | None:
        """Since its start; None for the start itself, and for a run that has not started."""
        if isinstance(event, RunStarted):
            self._began[event.run_id] = time.monotonic()
            return None
        began = self._began.pop(event.run_id, None)
        return None if began is None else time.monotonic() - began


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
        self._logger.log(level_of(event), type(event).__name__, **_fields(event))


class OfRun(logging.Filter):
    """For a handler: gives each record that is logged by the code of a run its `run_id` and `thread_id`."""

    def filter(self, record: logging.LogRecord) -> bool:
        if (context := current_run.get()) is not None and not hasattr(record, "run_id"):
            record.run_id, record.thread_id = context.run.run_id, context.run.thread_id
        return True


def _fields(event: Event) -> dict[str, Any]:
    return {field.name: getattr(event, field.name) for field in fields(event)}
