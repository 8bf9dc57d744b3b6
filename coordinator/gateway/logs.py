"""Log lines, for people or for machines: one event a line, whatever a client has put into it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from coordinator.gateway.request_id import current


def escaped(text: str) -> str:
    """Nothing in it ends the line, moves a terminal's cursor or fails to be written."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


class TextFormatter(logging.Formatter):
    """`time level logger [request id] message`; a traceback follows on lines of its own, indented."""

    def format(self, record: logging.LogRecord) -> str:
        request = current.get()
        name = "" if request is None else f" [{request}]"
        line = f"{_time(record)} {record.levelname} {record.name}{name} {escaped(record.getMessage())}"
        about = getattr(record, "about", None)
        if about:
            line += "".join(
                f" {key}={escaped(str(about[key]))}" for key in ("client", "user", "key") if about.get(key)
            )
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line = "\n".join([line, *(f"    {escaped(part)}" for part in trace)])
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII. `request_id` is there within a request; an access line has
    `method`, `path`, `status`, `ms`, `client`, `user` and `key` (the id of an API key)."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request := current.get()) is not None:
            line["request_id"] = request
        line.update(getattr(record, "about", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def formatter(log_format: Literal["text", "json"]) -> logging.Formatter:
    return JsonFormatter() if log_format == "json" else TextFormatter()


def log_to(
    stream: TextIO = sys.stderr, *, log_format: Literal["text", "json"] = "text", level: int = logging.INFO
) -> logging.Handler:
    """Every logger of the process, on `stream`; for a process that serves. Answers the handler.

    The server's own access log is silenced: it writes query strings, and ours is there already.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("uvicorn.access").disabled = True
    return handler
