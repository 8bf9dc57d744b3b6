"""What stays of a finished run shows what its row shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coordinator.assistants.sizes import size_of
from coordinator.runs.kept import SMALL, Result
from coordinator.schemas import RunStatus


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**70,
        0.1,
        "",
        "\ud800",
        [],
        {},
        {"a": [1, {"b": None}, [2.5, "c"]]},
        ("a", ("b",)),
        {1: "a", None: "b"},
        {"a": ({2: "b"},)},
        [RunStatus.success, Text("a"), {Text("b"): Text("c")}],
    ],
    ids=repr,
)
def test_a_result_is_what_its_row_has(value: Any) -> None:
    row = json.loads(json.dumps(value))
    kept = Result(value)
    assert (kept.load(), repr(kept.load())) == (row, repr(row)), "also the types within"


def test_each_reader_of_a_result_has_its_own_copy() -> None:
    value: Any = {"messages": [{"text": "a"}]}
    kept = Result(value)
    value["messages"].append("by the code that returned it")
    kept.load()["messages"][0]["text"] = "by a reader"
    assert kept.load() == {"messages": [{"text": "a"}]}


def test_a_large_result_is_not_kept() -> None:
    kept = Result({"text": "x" * SMALL})
    assert (kept.dropped, kept.load()) == (True, None)
    assert size_of(["x" * 100] * 10, limit=SMALL) > 1000
