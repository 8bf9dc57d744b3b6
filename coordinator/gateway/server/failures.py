"""The error of a server that cannot start: one line with a hint, and the exit status."""

from __future__ import annotations

FAILED, USAGE, UNREACHABLE = 1, 2, 3
"""Exit statuses, as of the command line: gave up; invalid option; store unreachable."""


class CannotServe(Exception):
    """The server or one worker cannot start. `hint` names the remedy; `code` is the exit status. A worker
    sends it to its supervisor as `document`."""

    def __init__(self, message: str, hint: str | None = None, *, code: int = USAGE) -> None:
        self.message, self.hint, self.code = message, hint, code
        super().__init__(message)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}. {self.hint}"

    def document(self) -> dict[str, str | int | None]:
        return {"message": self.message, "hint": self.hint, "code": self.code}
