"""Refuse a use of `Any` in the product without a reason, and more lines with it than there are.

The reason begins with `Any: `: on the line, in a comment on the line before, or in the docstring of an alias.

python tools/check_any.py
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("coordinator", "stores")
LEFT = 85
"""Lines that use it. The number may only fall."""
REASON = "Any: "
_QUOTED = re.compile(r"""^"Any"$|\[Any\b|, Any\]""")
"""In an annotation that is a text."""


def lines_with_any(source: str) -> Iterator[int]:
    """From 1. Imports and texts do not count."""
    seen = 0
    logical: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            logical.clear()
        elif token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT):
            logical.append(token)
        imports = bool(logical) and logical[0].string in ("from", "import")
        uses = token.string == "Any" or (token.type == tokenize.STRING and _QUOTED.search(token.string))
        if uses and not imports and token.start[0] != seen:
            seen = token.start[0]
            yield seen


def without_reason(source: str) -> Iterator[int]:
    lines = ["", *source.splitlines(), ""]
    for number in lines_with_any(source):
        before = lines[number - 1].strip()
        behind = lines[number + 1].strip()
        reasons = (
            lines[number].partition("#")[2],
            before if before.startswith("#") else "",
            behind if behind.startswith('"""') else "",
        )
        if not any(REASON in reason for reason in reasons):
            yield number


def main() -> int:
    count, problems = 0, list[str]()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_text()
            count += sum(1 for _ in lines_with_any(source))
            name = path.relative_to(ROOT).as_posix()
            problems += [f"{name}:{number}: Any without a reason" for number in without_reason(source)]
    if count > LEFT:
        problems.append(
            f"{count} lines use Any, {LEFT} may: name the type, or use an alias that has a reason"
        )
    elif count < LEFT:
        problems.append(f"{count} lines use Any, fewer than {LEFT}: lower LEFT in tools/check_any.py")
    print("\n".join(problems) or f"{count} lines use Any, each with a reason")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
