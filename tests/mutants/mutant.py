"""A change of one place in one file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mutant:
    """`start`, `end`: offsets in the file's text; `before` stands there, `after` replaces it. `kind` groups
    mutants in the report. `function` is the dotted name around it, or the SQL function's."""

    path: str
    kind: str
    function: str
    line: int
    start: int
    end: int
    before: str
    after: str
    line_text: str
    """The line on which the change begins, because `before` may stand in a function more than once."""

    @property
    def id(self) -> str:
        """Stable while the changed code and its line keep their text; line numbers may move."""
        parts = (self.path, self.function, self.kind, self.line_text, self.before, self.after)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]

    @classmethod
    def at(cls, path: str, text: str, kind: str, function: str, start: int, end: int, after: str) -> Mutant:  # noqa: PLR0917
        """Builds the mutant of a file with this text."""
        line, begin = text.count("\n", 0, start) + 1, text.rfind("\n", 0, start) + 1
        line_text = text[begin:].partition("\n")[0].strip()
        return cls(path, kind, function, line, start, end, text[start:end], after, line_text)

    def applied(self, text: str) -> str:
        assert text[self.start : self.end] == self.before, f"{self.path} has changed"
        return text[: self.start] + self.after + text[self.end :]

    def diff(self, root: Path) -> str:
        """The lines that change, without a header."""
        text = (root / self.path).read_text()
        lines = unified_diff(text.splitlines(), self.applied(text).splitlines(), n=0, lineterm="")
        return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))
