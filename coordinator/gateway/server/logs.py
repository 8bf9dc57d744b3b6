"""Log formats of server processes: one record per line on stderr, as text or JSON.

    text    2026-01-31 12:00:00.123+01:00 INFO    worker 2 (epoch 3): coordinator.serve: message
    json    {"time", "level", "logger", "message", "worker", "epoch"?, "pid", "request_id"?, "run_id"?,
             "exception"?, and for an event of the coordinator "event" and its fields}

Each line that does not begin with a blank is exactly one record, so clients cannot forge records: control
characters are escaped, values with blanks are quoted, and in text the lines of a traceback are indented.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, TextIO

from coordinator.gateway.request_id import AddRequestId
from coordinator.gateway.server.buffered_stream import BufferedStream
from stores.json_values import Json, JsonObject

LogFormat = Literal["text", "json"]

# Attributes of every record; all others come from `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


_SUPPRESSED = ("Invalid HTTP request received.", "Unsupported upgrade request.", "No supported WebSocket")
"""Prefixes of uvicorn's messages that any client can cause without limit. `Connections` logs refused requests
at a bounded rate, and an unsupported upgrade is answered as the plain request that it also is."""


class _SuppressUvicorn(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(_SUPPRESSED)


class Who:
    """The process name in log lines: "supervisor", or "worker 2" with its `epoch` once it is registered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch: int | None = None

    def __str__(self) -> str:
        return self.name if self.epoch is None else f"{self.name} (epoch {self.epoch})"


def configure(log_format: LogFormat, identity: Who, filters: Iterable[logging.Filter] = ()) -> None:
    """Configures all logging of this process, including warnings of the interpreter. The lines are written as
    `BufferedStream` describes."""
    handler = _handler_of(sys.stderr)
    handler.setFormatter(JsonLines(identity) if log_format == "json" else TextLines(identity))
    for each in (AddRequestId(), *filters):
        handler.addFilter(each)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("coordinator", "stores"):  # the command line adds handlers to these loggers
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_SuppressUvicorn())
    logging.captureWarnings(capture=True)


def flush() -> None:
    """Writes the lines that wait. Called before other output of this process, which is to follow them."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def _handler_of(stream: TextIO) -> logging.Handler:
    """Returns a handler that writes at each record if `stream` is not a file, or cannot be polled."""
    if hasattr(select, "poll"):
        with suppress(AttributeError, OSError):
            return BufferedStream(stream)
    return logging.StreamHandler(stream)


class TextLines(logging.Formatter):
    def __init__(self, identity: Who) -> None:
        super().__init__()
        self._identity = identity

    def format(self, record: logging.LogRecord) -> str:
        day_and_time, zone = _second(int(record.created))
        stamp = f"{day_and_time}.{int(record.msecs):03}{zone}"
        message = record.getMessage()
        suffix = "".join(f" {name}={_value(value)}" for name, value in _remaining(record, message))
        line = _one_line(f"{record.name}: {message}{suffix}")
        trace = _trace(self, record)
        return f"{stamp} {record.levelname:<7} {self._identity}: {line}" + (
            f"\n{_indented(trace)}" if trace else ""
        )


@lru_cache(maxsize=2)
def _second(at: int) -> tuple[str, str]:
    """Returns day and time, and the zone, of a second. Most lines are of the same one as the line before."""
    text = datetime.fromtimestamp(at).astimezone().isoformat(" ")
    return text[:19], text[19:]


_OWN_KEYS = {"time", "level", "logger", "message", "worker", "epoch", "pid", "exception"}
"""Keys of a JSON line. A field of an event with such a name gets a prefix: the line is of this worker, while
the event may be about another one."""


_json_of = json.JSONEncoder(default=str).encode


class JsonLines(logging.Formatter):
    def __init__(self, identity: Who) -> None:
        super().__init__()
        self._identity = identity

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        line: JsonObject = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "worker": self._identity.name,
            **({} if self._identity.epoch is None else {"epoch": self._identity.epoch}),
            "pid": os.getpid(),
            **{
                f"event_{name}" if name in _OWN_KEYS else name: value
                for name, value in _extra_fields(record).items()
            },
        }
        if trace := _trace(self, record):
            line["exception"] = trace
        return _json_of(line).replace("\x7f", "\\u007f")


def _extra_fields(record: logging.LogRecord) -> JsonObject:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _remaining(record: logging.LogRecord, message: str) -> list[tuple[str, Json]]:
    """Returns the extra fields that the message does not contain. The message of an event contains all of its
    fields; only `request_id` is added."""
    extra = _extra_fields(record)
    if "event" in extra:
        return [("request_id", extra["request_id"])] if "request_id" in extra else []
    ids = ("run_id", "thread_id")
    return [(name, value) for name, value in extra.items() if name not in ids or repr(value) not in message]


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


_AMBIGUOUS = re.compile(r'[\s="]')


def _value(value: object) -> str:
    """Quotes `value` if it is empty or contains blanks, `=` or quotes."""
    text = str(value)
    if text and not _AMBIGUOUS.search(text):
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
