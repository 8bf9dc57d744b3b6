"""The check of words that the project has given up (`tools/check_words.py`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_words import Kept, Use, Words, folder_of, problems, stale_exceptions


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


def with_exceptions(words: Words, *exceptions: Kept) -> Words:
    words.exceptions = list(exceptions)
    return words


def test_excepted_text_is_no_use_but_other_texts_with_its_word_are(words: Words) -> None:
    with_exceptions(words, Kept("PeerTold", "public name"), Kept("never told", "a phrase"))
    text = 'PeerTold = PeerToldOnce = 1  # never told\n"""\nTold, and a PeerTold."""\n'
    assert list(words.uses("a/b.py", text)) == [Use("a/b.py", 1, "told"), Use("a/b.py", 3, "told")]


@pytest.mark.parametrize(("path", "expected"), [("a/b.py", 0), ("a/b/c.py", 0), ("a/bc.py", 1), ("b.md", 1)])
def test_exception_of_a_file_or_folder_holds_only_there(words: Words, path: str, expected: int) -> None:
    with_exceptions(words, Kept("told", "why", "a/b.py"), Kept("told", "why", "a/b"))
    assert len(list(words.uses(path, "told\n"))) == expected


def test_exception_without_a_use_is_a_problem(words: Words) -> None:
    with_exceptions(words, Kept("PeerTold", "public name"), Kept("told", "key of JSON", "a/b.py"))
    assert stale_exceptions(words, {"a/b.py": "PeerTold told"}) == []
    assert stale_exceptions(words, {"a/c.py": "PeerTold told"}) == [
        "exception 'told' in a/b.py has no use: remove it"
    ]
    assert stale_exceptions(words, {}) == [
        "exception 'PeerTold' has no use: remove it",
        "exception 'told' in a/b.py has no use: remove it",
    ]


def test_count_of_a_folder_may_neither_grow_nor_be_too_high(words: Words) -> None:
    one = Use("a/b.py", 1, "told")
    assert folder_of("a/b.py") == "a"
    assert problems(words, [one]) == []
    assert "2 given-up words, 1 may be" in problems(words, [one, one])[0]
    assert "fewer than 1" in problems(words, [])[0]
