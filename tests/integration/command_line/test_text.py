"""What clients sent is harmless on a terminal."""

from __future__ import annotations

import json

from coordinator.cli.text import document, pretty, safe, short, size, span
from tests.support.command_line import (
    DONE,
    EVIL,
    Busy,
)


def test_escaping() -> None:
    assert safe("plain ümläut") == "plain ümläut"
    assert safe(EVIL).isprintable()
    assert safe("\x1b[31m") == "\\x1b[31m"
    assert "\x7f" not in document({"a": "\x7f\x1b"})
    assert json.loads(document({"a": "\x7f\x1b"})) == {"a": "\x7f\x1b"}
    assert all(line.isprintable() for line in pretty({"a": "\x9b\x7f"}))
    assert "more lines" in pretty(list(range(100)), 10)[-1]


def test_long_lines_of_json_are_cut_with_a_note() -> None:
    [_, line, _, note] = pretty({"input": "x" * 5000})
    assert len(line) < 600
    assert note == "… 1 line cut; --json shows all"
    assert len(pretty({"input": "x" * 300})) == 3
    *_, note = pretty(["x" * 5000] * 60)
    assert note == "… 22 more lines, 39 lines cut; --json shows all"
    assert short("x" * 50, 10) == "x" * 9 + "…"


def test_durations_and_sizes() -> None:
    spans = [span(value) for value in (0.0015, 0.25, 0.9999, 4.2, 59.99, 65, 3600, 90_000, -2)]
    assert spans == ["1.5 ms", "250 ms", "1 s", "4.2 s", "60.0 s", "1 min 5 s", "1 h", "1 d 1 h", "-2.0 s"]
    assert [size(value) for value in (None, 12, 2048, 5 << 20)] == ["-", "12 B", "2.0 KiB", "5.0 MiB"]


async def test_text_of_clients_is_escaped_on_the_terminal(busy: Busy) -> None:
    await busy.cli("runs", "cancel", busy.waiting[0].run_id, "--reason", EVIL, "--actor", EVIL)
    for command in (
        ("runs", "list"),
        ("runs", "show", busy.done.run_id),
        ("runs", "show", busy.waiting[0].run_id),
        ("explain", busy.waiting[0].run_id),
        ("threads", "show", busy.thread),
    ):
        for options in ((), ("--json",)):
            answer = await busy.cli(*command, *options)
            assert answer.code == DONE, answer.err
            assert not set(answer.out) & {"\x1b", "\x9b", "\r", "\u202e", "\x7f"}
    shown = await busy.cli("runs", "show", busy.done.run_id)
    assert "[bold]b[/bold] :smile:" in shown.out
    assert "\\u202eover" in shown.out
