"""Text logs: each line that begins in the first column is one record, whatever clients send."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import httpx
import pytest

from coordinator.gateway.server.logs import JsonLines, TextLines, Who
from tests.support.served import served

EVIL = "\x1b[31mRED\x1b]0;title\x07\x1b[2J\r\nFAKE user=admin\x9b31m\u202eabc\u2028def\x85ghi\x0bjkl"


def record(
    message: str = "request", failure: BaseException | None = None, **extra: object
) -> logging.LogRecord:
    info = None if failure is None else (type(failure), failure, failure.__traceback__)
    made = logging.LogRecord("coordinator.x", logging.INFO, __file__, 1, message, (), info)
    vars(made).update(extra)
    return made


def raised(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


@pytest.mark.parametrize("form", [TextLines, JsonLines])
def test_traceback_cannot_forge_a_line_or_drive_a_terminal(form: type[TextLines] | type[JsonLines]) -> None:
    text = form(Who("worker 1")).format(record(f"of {EVIL}", raised(EVIL)))
    assert all(line.isprintable() for line in text.split("\n"))
    assert "ValueError" in text
    first, *trace = text.split("\n")
    assert "worker 1" in first
    assert all(line.startswith("    ") for line in trace)


def test_stack_of_a_record_is_indented() -> None:
    made = record()
    made.stack_info = "Stack (most recent call last):\n  File x"
    assert TextLines(Who("worker 1")).format(made).split("\n")[1:] == [
        "    Stack (most recent call last):",
        "      File x",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/ok", "/ok"),
        ("/a user=admin status=200", '"/a user=admin status=200"'),
        ("a=b", '"a=b"'),
        ('name "x" \\', '"name \\"x\\" \\\\"'),
        ("\u00a0", '"\\xa0"'),
        ("", '""'),
        (None, "None"),
        (12.5, "12.5"),
    ],
)
def test_value_that_could_be_read_as_several_is_quoted(value: object, shown: str) -> None:
    line = TextLines(Who("worker 1")).format(record(path=value, user="ann"))
    assert line.endswith(f"request path={shown} user=ann")


def test_the_interpreters_own_format_is_kept_in_json() -> None:
    text = JsonLines(Who("worker 1")).format(record(failure=raised("a\nb")))
    assert sys.exc_info() == (None, None, None)
    assert "\\na\\nb" in text or "a\\nb" in text


def test_event_about_another_worker_keeps_the_keys_of_the_line_that_logs_it() -> None:
    line = json.loads(
        JsonLines(Who("worker 2")).format(record(event="PeerBuried", worker="worker 1", epoch=1, by=2))
    )
    assert (line["worker"], line["event_worker"], line["event_epoch"]) == ("worker 2", "worker 1", 1)
    assert line["by"] == 2


@pytest.mark.slow
@pytest.mark.multiprocess
async def test_client_forges_neither_a_field_nor_its_address(tmp_path: Path) -> None:
    async with (
        served("serve", "--store", "memory://", folder=tmp_path) as server,
        httpx.AsyncClient(base_url=await server.up()) as client,
    ):
        await client.get("/a%20user=admin%20status=200", headers={"x-forwarded-for": "6.6.6.6 user=admin"})
        await server.wait_for_line(r'path="/a user=admin status=200" status=404 .* client=127\.0\.0\.1 ')
    assert "6.6.6.6" not in server.output
