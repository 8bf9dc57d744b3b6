"""Refuse words that the project has given up (tools/words.toml), except as many as are left in each folder.

python tools/check_words.py            fails where a folder has more of them, or fewer than its count
python tools/check_words.py --update   writes the counts anew, where they have fallen
python tools/check_words.py FOLDER     lists them: file, line, word, and what to write instead
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORDS = ROOT / "tools" / "words.toml"
# Records of their time, copies of other projects' documents, and the words themselves.
PASSED_OVER = (
    "docs/adr/",
    "CHANGELOG.md",
    "coordinator/gateway/docs/",
    "tools/words.toml",
    "tools/check_words.py",
    "tests/unit/test_words.py",
)
DEPTH = 2
"""How many folders of a path make the key of a count."""


class Use(NamedTuple):
    path: str
    line: int
    word: str


class Kept(NamedTuple):
    """A text that stays, with the words in it. `file`: only in this file, or in the files of this folder."""

    text: str
    reason: str
    file: str = ""

    def holds(self, path: str) -> bool:
        return path == self.file or path.startswith(f"{self.file}/") or not self.file

    def pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?<!\w){re.escape(self.text)}(?!\w)")


class Words:
    """`instead`: refused in prose and in the parts of names; `names`: refused as whole names. `exceptions`:
    texts in which neither is refused."""

    def __init__(self, file: Path = WORDS) -> None:
        content = tomllib.loads(file.read_text())
        self.instead: dict[str, str] = content["instead"]
        self.names: dict[str, str] = content["names"]
        self.left: dict[str, int] = content["left"]
        self.exceptions = [Kept(**one) for one in content.get("exceptions", [])]
        self._prose = re.compile(
            rf"(?<![a-z])(?:{'|'.join(sorted(self.instead, key=len, reverse=True))})(?![a-z])".replace(
                " ", r"\s+"
            ),
            re.IGNORECASE,
        )

    def in_prose(self, text: str) -> Iterator[tuple[int, str]]:
        """Offset and word. `_` and digits end a word, so parts of names that a text quotes count."""
        for match in self._prose.finditer(text):
            yield match.start(), " ".join(match.group().lower().split())

    def uses(self, path: str, text: str) -> Iterator[Use]:
        for kept in self.exceptions:
            if kept.holds(path):
                text = kept.pattern().sub("x" * len(kept.text), text)
        if path.endswith(".py"):
            yield from self._in_python(path, text)
        else:
            for offset, word in self.in_prose(text):
                yield Use(path, text.count("\n", 0, offset) + 1, word)

    def _in_python(self, path: str, text: str) -> Iterator[Use]:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            line = token.start[0]
            if token.type == tokenize.NAME and token.string in self.names:
                yield Use(path, line, token.string)
            elif token.type in (tokenize.NAME, tokenize.COMMENT, tokenize.STRING):
                for offset, word in self.in_prose(_spaced(token.string, name=token.type == tokenize.NAME)):
                    yield Use(path, line + token.string.count("\n", 0, offset), word)

    def advice(self, word: str) -> str:
        return self.instead.get(word) or self.names[word]


def _spaced(text: str, *, name: bool) -> str:
    """`CamelCase` as its words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text) if name else text


def folder_of(path: str) -> str:
    return "/".join(path.split("/")[:-1][:DEPTH]) or "."


def tracked_texts() -> dict[str, str]:
    """Path and content of each file that is checked."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    texts = dict[str, str]()
    for path in listed.stdout.split("\0"):
        file = ROOT / path
        if (
            path.endswith((".py", ".sql", ".md", ".lua"))
            and not path.startswith(PASSED_OVER)
            and file.exists()
        ):
            texts[path] = file.read_text()
    return texts


def stale_exceptions(words: Words, texts: dict[str, str]) -> list[str]:
    return [
        f"exception {kept.text!r} {f'in {kept.file} ' if kept.file else ''}has no use: remove it"
        for kept in words.exceptions
        if not any(kept.holds(path) and kept.pattern().search(text) for path, text in texts.items())
    ]


def problems(words: Words, uses: list[Use]) -> list[str]:
    counts = Counter(folder_of(use.path) for use in uses)
    lines = list[str]()
    for folder in sorted(counts.keys() | words.left.keys()):
        count, left = counts[folder], words.left.get(folder, 0)
        if count > left:
            lines.append(
                f"{folder}: {count} given-up words, {left} may be: python tools/check_words.py {folder}"
            )
        elif count < left:
            lines.append(f"{folder}: {count} given-up words are fewer than {left}: run it with --update")
    return lines


def update(words: Words, uses: list[Use]) -> None:
    """Lower the counts; a folder that has none leaves the list."""
    counts = Counter(folder_of(use.path) for use in uses)
    head = WORDS.read_text().split("[left]\n")[0]
    kept = {folder: min(count, words.left.get(folder, 0)) for folder, count in sorted(counts.items())}
    WORDS.write_text(head + "[left]\n" + "".join(f'"{folder}" = {n}\n' for folder, n in kept.items() if n))


def main(arguments: list[str]) -> int:
    words = Words()
    texts = tracked_texts()
    uses = [use for path, text in texts.items() for use in words.uses(path, text)]
    match arguments:
        case []:
            lines = problems(words, uses) + stale_exceptions(words, texts)
        case ["--update"]:
            update(words, uses)
            return main([])
        case [folder] if not folder.startswith("-"):
            for use in uses:
                if use.path == folder or use.path.startswith(folder.rstrip("/") + "/"):
                    print(f"{use.path}:{use.line}: {use.word} ({words.advice(use.word)})")
            return 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    print("\n".join(lines) or f"{sum(words.left.values())} given-up words are left")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
