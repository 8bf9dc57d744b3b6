"""The check of words that the project has given up (`tools/check_words.py`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_words import Use, Words, folder_of, problems


@pytest.fixture
def words(tmp_path: Path) -> Words:
    file = tmp_path / "words.toml"
    file.write_text(
        '[instead]\nwhoever = "noun"\ntold = "reported"\n"in line" = "queued"\n'
        '[names]\nfound = "row"\n[left]\na = 1\n'
    )
    return Words(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Whoever waits\n", ["whoever"]),
        ('"""Is told, in\nline."""\n', ["told", "in line"]),
        ("is_told = ToldOnce()\n", ["told", "told"]),
        ("found = not_found\n", ["found"]),
        ("untold = founder = inline = 1  # nothing found\n", []),
    ],
)
def test_given_up_words_are_found_in_comments_texts_and_names(
    words: Words, text: str, expected: list[str]
) -> None:
    assert [use.word for use in words.uses("a/b.py", text)] == expected


def test_line_of_a_use_is_that_of_the_word(words: Words) -> None:
    assert list(words.uses("a/b.py", 'x = 1\n"""One.\n\nTold."""\n')) == [Use("a/b.py", 4, "told")]
    assert list(words.uses("a.md", "One.\ntold\n")) == [Use("a.md", 2, "told")]


def test_count_of_a_folder_may_neither_grow_nor_be_too_high(words: Words) -> None:
    one = Use("a/b.py", 1, "told")
    assert folder_of("a/b.py") == "a"
    assert problems(words, [one]) == []
    assert "2 given-up words, 1 may be" in problems(words, [one, one])[0]
    assert "fewer than 1" in problems(words, [])[0]
