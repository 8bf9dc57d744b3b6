"""Why there is nothing to serve: one line that says what to do, and the exit code."""

from __future__ import annotations

FAILED, USAGE, UNREACHABLE = 1, 2, 3
"""As of the command line: gave up; a bad option; the store cannot be reached."""


class CannotServe(Exception):
    """`hint` says what to do next. Crosses from a worker to its supervisor as `document`."""

    def __init__(self, message: str, hint: str | None = None, *, code: int = USAGE) -> None:
        self.message, self.hint, self.code = message, hint, code
        super().__init__(message)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}. {self.hint}"

    def document(self) -> dict[str, str | int | None]:
        return {"message": self.message, "hint": self.hint, "code": self.code}
