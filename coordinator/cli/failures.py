"""Failures of commands: exit codes, and one line of text or one JSON object on stderr.

    0   done
    1   failed: the run does not exist, a cancel was refused, a claim of the demo does not hold
    2   usage: an invalid option, id or URL
    3   the store is unreachable or refuses; for `db check` and `demo` also Redis
  130   interrupted from the keyboard

With --json, stderr gets `{"error": {"type", "message", "hint", "exit_code", …}}`, with `run_id`,
`thread_id` and similar keys if known.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

import typer

from coordinator.cli.sentence import sentence
from coordinator.cli.text import safe

if TYPE_CHECKING:
    from stores.json_values import JsonObject

DONE, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

as_json: ContextVar[bool] = ContextVar("as_json", default=False)
"""Whether the command has --json: then stderr is for errors as JSON."""


class CommandFailed(Exception):
    """A command has failed. `hint`: what the user can do next."""

    def __init__(
        self, kind: str, message: str, hint: str | None = None, *, code: int = FAILED, **details: str
    ) -> None:
        self.kind, self.message, self.hint, self.code, self.details = kind, message, hint, code, details
        super().__init__(message)


class Failure(NamedTuple):
    kind: str
    message: str
    hint: str | None
    code: int
    details: dict[str, str]


def failure_of(error: BaseException) -> Failure | None:
    """Return None for unexpected exceptions: these are bugs and show their traceback."""
    if isinstance(error, CommandFailed):
        return Failure(error.kind, error.message, error.hint, error.code, error.details)
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
        details = {
            name: str(value)
            for name in ("run_id", "thread_id", "argument")
            if (value := getattr(error, name, None)) is not None
        }
        code = USAGE if isinstance(error, ValueError) else FAILED
        return Failure(type(error).__name__, str(error), None, code, details)
    return None


def _help_of(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    return f"Try '{getattr(context, 'command_path', 'coordinator')} --help'."


def report(error: BaseException, *, as_json: bool) -> int:
    """Report a failure on stderr. Returns the exit code. Unexpected exceptions are re-raised."""
    failure = failure_of(error)
    if failure is None:
        raise error
    from coordinator.urls import redact_urls_in

    # Errors of the parser quote the arguments.
    failure = failure._replace(
        message=redact_urls_in(failure.message), hint=failure.hint and redact_urls_in(failure.hint)
    )
    if type(error).__name__ == "NoArgsIsHelpError":  # no arguments: show the help
        print(failure.message, file=sys.stderr)
    elif as_json:
        body: JsonObject = {"type": failure.kind, "message": failure.message, "hint": failure.hint}
        print(
            json.dumps({"error": {**body, "exit_code": failure.code, **failure.details}}).replace(
                "\x7f", "\\u007f"
            ),
            file=sys.stderr,
        )
    else:
        print(f"coordinator: {sentence(failure.message, failure.hint)}", file=sys.stderr)
    return failure.code


def warn(message: str) -> None:
    """Print a warning on stderr. Does not change the exit code."""
    print(f"coordinator: warning: {safe(message)}", file=sys.stderr)


def note(message: str) -> None:
    """Print a line details progress on stderr."""
    print(f"coordinator: {safe(message)}", file=sys.stderr, flush=True)


def note_next_page(offset: int | None) -> None:
    """Print the option for the next page. None: no next page."""
    if offset is not None:
        note(f"there are more: --offset {offset}")


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(f"coordinator: {record.levelname.lower()}: {safe(record.getMessage())}", file=sys.stderr)


def log_to_stderr() -> None:
    """Print warnings of the library on stderr, escaped. Idempotent."""
    for name in ("coordinator", "stores"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(_StderrHandler(logging.WARNING))
            logger.propagate = False
