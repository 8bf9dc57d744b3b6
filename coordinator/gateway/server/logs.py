"""One line a record on stderr, for people or as JSON. Own few lines: the standard library formats the rest.

    text    2026-01-31 12:00:00.123+01:00 INFO    worker 2 (epoch 3): coordinator.serve: message
    json    {"time", "level", "logger", "message", "worker", "epoch"?, "pid", "request_id"?, "run_id"?,
             "exception"?, and for an event of the coordinator "event" and its fields}

A line that does not begin with a blank is one record, whatever a client has put into it: control characters
are escaped, values with blanks are quoted, and the lines of a traceback, in text, are indented.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from coordinator.gateway.request_id import InLogs

LogFormat = Literal["text", "json"]

# What every record has; the rest came from `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


_TOLD_OTHERWISE = ("Invalid HTTP request received.", "Unsupported upgrade request.", "No supported WebSocket")
"""How lines of uvicorn begin that whoever can connect can have written, without end: `Connections` tells of
what was refused, and an upgrade that is not made is answered as the plain request that it also is."""


class _NotTold(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(_TOLD_OTHERWISE)


class Who:
    """What the lines of this process begin with: "supervisor", or "worker 2" and, once it is registered, its
    `epoch`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch: int | None = None

    def __str__(self) -> str:
        return self.name if self.epoch is None else f"{self.name} (epoch {self.epoch})"


def configure(log_format: LogFormat, who: Who, filters: Iterable[logging.Filter] = ()) -> None:
    """All logs of this process, warnings of the interpreter too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(who) if log_format == "json" else TextLines(who))
    for each in (InLogs(), *filters):
        handler.addFilter(each)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("coordinator", "stores"):  # the command line has handlers of its own on these
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_NotTold())
    logging.captureWarnings(capture=True)


class TextLines(logging.Formatter):
    def __init__(self, who: Who) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")
        message = record.getMessage()
        about = "".join(f" {name}={_value(value)}" for name, value in _untold(record, message))
        line = _one_line(f"{record.name}: {message}{about}")
        trace = _trace(self, record)
        return f"{stamp} {record.levelname:<7} {self._who}: {line}" + (
            f"\n{_indented(trace)}" if trace else ""
        )


class JsonLines(logging.Formatter):
    def __init__(self, who: Who) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "worker": self._who.name,
            **({} if self._who.epoch is None else {"epoch": self._who.epoch}),
            "pid": os.getpid(),
            **_extra(record),
        }
        if trace := _trace(self, record):
            line["exception"] = trace
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _untold(record: logging.LogRecord, message: str) -> list[tuple[str, Any]]:
    """What a line for people has to say besides its message: an event is a sentence with its fields in it."""
    found = _extra(record)
    if "event" in found:
        return [("request_id", found["request_id"])] if "request_id" in found else []
    ids = ("run_id", "thread_id")
    return [(name, value) for name, value in found.items() if name not in ids or repr(value) not in message]


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _value(value: object) -> str:
    """Quoted where it could be read as more than one value, or as none."""
    text = str(value)
    if text and not any(char in ' ="' or char.isspace() for char in text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def _indented(trace: str) -> str:
    return "\n".join(f"    {_one_line(line)}" for line in trace.split("\n"))


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
