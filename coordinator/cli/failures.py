"""What goes wrong, as an exit code and one line for people or one JSON object for machines.

    0   done
    1   failed: no such run, a cancel that was refused, a claim of the demo that does not hold
    2   usage: a bad option, id or URL
    3   the store (or, where Redis is what was asked about, Redis) is unreachable or refuses
  130   interrupted from the keyboard

With --json, stderr gets `{"error": {"type", "message", "hint", "exit_code", …}}`; what the error is
about (`run_id`, `thread_id`) is there where it is known.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, NamedTuple

import typer

from coordinator.cli.sentence import sentence
from coordinator.cli.text import safe

DONE, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130


class CommandFailed(Exception):
    """A command could not do what it was asked. `hint` says what to do next."""

    def __init__(
        self, kind: str, message: str, hint: str | None = None, *, code: int = FAILED, **about: str
    ) -> None:
        self.kind, self.message, self.hint, self.code, self.about = kind, message, hint, code, about
        super().__init__(message)


class Failure(NamedTuple):
    kind: str
    message: str
    hint: str | None
    code: int
    about: dict[str, str]


def failure_of(error: BaseException) -> Failure | None:
    """None for what no command raises on purpose: that is a bug, and shows its traceback."""
    if isinstance(error, CommandFailed):
        return Failure(error.kind, error.message, error.hint, error.code, error.about)
    if isinstance(error, (typer.Abort, KeyboardInterrupt)):
        return Failure("Interrupted", "interrupted", None, INTERRUPTED, {})
    if (formatted := getattr(error, "format_message", None)) is not None:  # the parser's own errors
        return Failure("UsageError", formatted(), _help_of(error), USAGE, {})
    return _of_the_library(error)


def _of_the_library(error: BaseException) -> Failure | None:
    from stores.errors import CoordinatorError, StoreError

    if isinstance(error, StoreError):
        hint = getattr(error, "hint", None)
        message = str(error).removesuffix(f" {hint}")
        return Failure(type(error).__name__, message, hint, UNREACHABLE, {})
    if isinstance(error, CoordinatorError):
        about = {
            name: str(value)
            for name in ("run_id", "thread_id", "argument")
            if (value := getattr(error, name, None)) is not None
        }
        code = USAGE if isinstance(error, ValueError) else FAILED
        return Failure(type(error).__name__, str(error), None, code, about)
    return None


def _help_of(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    return f"Try '{getattr(context, 'command_path', 'coordinator')} --help'."


def report(error: BaseException, *, as_json: bool) -> int:
    """Say it on stderr; answer the exit code. What is not a failure on purpose is raised again."""
    failure = failure_of(error)
    if failure is None:
        raise error
    from coordinator.urls import redact_urls_in

    # The parser repeats what was typed.
    failure = failure._replace(
        message=redact_urls_in(failure.message), hint=failure.hint and redact_urls_in(failure.hint)
    )
    if type(error).__name__ == "NoArgsIsHelpError":  # the help, asked for by saying nothing
        print(failure.message, file=sys.stderr)
    elif as_json:
        body: dict[str, Any] = {"type": failure.kind, "message": failure.message, "hint": failure.hint}
        print(
            json.dumps({"error": {**body, "exit_code": failure.code, **failure.about}}).replace(
                "\x7f", "\\u007f"
            ),
            file=sys.stderr,
        )
    else:
        print(f"coordinator: {sentence(failure.message, failure.hint)}", file=sys.stderr)
    return failure.code


def warn(message: str) -> None:
    """A line on stderr about something that does not change the exit code."""
    print(f"coordinator: warning: {safe(message)}", file=sys.stderr)


def note(message: str) -> None:
    """A line on stderr about what is going on."""
    print(f"coordinator: {safe(message)}", file=sys.stderr, flush=True)


def say_more(following: int | None) -> None:
    """Where a list has another page. None: it has not."""
    if following is not None:
        note(f"there are more: --offset {following}")


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(f"coordinator: {record.levelname.lower()}: {safe(record.getMessage())}", file=sys.stderr)


def log_to_stderr() -> None:
    """Warnings of the library as escaped lines; idempotent."""
    for name in ("coordinator", "stores"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(_StderrHandler(logging.WARNING))
            logger.propagate = False
