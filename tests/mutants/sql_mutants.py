"""Mutants of SQL: of the files of PostgreSQL's functions, and of the statements in Python files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.mutants.mutant import Mutant

_STATEMENT = re.compile(r"\b(SELECT|UPDATE|INSERT INTO|DELETE FROM|WHERE|RETURNING|ORDER BY)\b")
_FUNCTION = re.compile(r"^CREATE OR REPLACE FUNCTION (\S+?)\(", re.MULTILINE)
_SWAPS: tuple[tuple[str, str, str], ...] = (
    ("compare", r"(?<=\s)<=(?=\s)", "<"),
    ("compare", r"(?<=\s)<(?=\s)", "<="),
    ("compare", r"(?<=\s)>=(?=\s)", ">"),
    ("compare", r"(?<=\s)>(?=\s)", ">="),
    ("compare", r"(?<=\s)=(?=\s(?!ANY|ALL))", "<>"),
    ("compare", r"(?<=\s)<>(?=\s)", "="),
    ("condition", r"\bAND\b(?!\s+\d)", "OR"),
    ("condition", r"\bOR\b(?!\s+(?:REPLACE|IGNORE|ROLLBACK))", "AND"),
    ("negate", r"\bIS NOT NULL\b", "IS NULL"),
    ("negate", r"\bIS NULL\b", "IS NOT NULL"),
    ("negate", r"\bNOT EXISTS\b", "EXISTS"),
    ("order", r"\bDESC\b", "ASC"),
    ("order", r"\bORDER BY (?=[a-z_.]+(?:\s|;|\)|$))", "ORDER BY 1 - "),
    ("constant", r"(?<=[\s(])true(?=[\s,;)])", "false"),
    ("constant", r"(?<=[\s(])false(?=[\s,;)])", "true"),
    ("arithmetic", r"(?<=\s)\+(?=\s)", "-"),
    ("lock", r"\bFOR (?:NO KEY )?UPDATE\b(?: SKIP LOCKED)?", ""),
)


def changes_of_sql(text: str) -> Iterator[tuple[str, int, int, str]]:
    """Kind, offsets in `text`, and what replaces that. Nothing where `text` is no statement."""
    if not _STATEMENT.search(text):
        return
    for kind, pattern, after in _SWAPS:
        for match in re.finditer(pattern, text):
            assigns = match.group() == "=" and _assigns(text, match.start())
            if not assigns and not _in_comment(text, match.start()):
                yield f"sql-{kind}", match.start(), match.end(), after


def sql_mutants(path: str, text: str) -> list[Mutant]:
    """Of a file of functions; also each statement of a body that can be left out."""
    mutants = list[Mutant]()
    functions = [(match.start(), match.group(1)) for match in _FUNCTION.finditer(text)]
    for kind, start, end, after in [*changes_of_sql(text), *_removals(text)]:
        function = next((name for begin, name in reversed(functions) if begin < start), "")
        if function:
            mutants.append(Mutant.at(path, text, kind, function, start, end, after))
    return mutants


def _removals(text: str) -> Iterator[tuple[str, int, int, str]]:
    """Statements of PL/pgSQL on a line of their own: calls and assignments."""
    for match in re.finditer(r"(?m)^[ \t]+((?:PERFORM [^;]+|\w+ := [^;]+);)$", text):
        if not _in_comment(text, match.start(1)):
            yield "sql-remove", match.start(1), match.end(1), "NULL;"


def _in_comment(text: str, at: int) -> bool:
    return "--" in text[text.rfind("\n", 0, at) + 1 : at]


def _assigns(text: str, at: int) -> bool:
    """Without it the statement would not be one."""
    before = re.findall(r"\b(SET|WHERE|ON|AND|WHEN|IF|SELECT)\b", text[:at])
    return bool(before) and before[-1] == "SET"
