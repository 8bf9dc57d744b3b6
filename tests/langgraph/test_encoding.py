"""What becomes of the values of graphs in JSON."""

from __future__ import annotations

import json
import sys
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from langchain_core.messages import HumanMessage
from langgraph.types import Interrupt, Send
from pydantic import BaseModel

from coordinator.langgraph.encoding import as_json, encoded


class Model(BaseModel):
    number: int = 1


@dataclass
class Point:
    x: int
    inner: Any


class Colour(Enum):
    red = "r"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError


class Failure(Exception):
    """A failure with data of its own."""

    def __init__(self, text: str) -> None:
        super().__init__(text, {1, 2})
        self.text = text

    def __str__(self) -> str:
        return self.text


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError

    def __repr__(self) -> str:
        raise RuntimeError


class Pair(NamedTuple):
    left: int
    right: set[int]


CASES: list[tuple[Any, Any]] = [
    (Model(), {"number": 1}),
    (Point(1, Model()), {"x": 1, "inner": {"number": 1}}),
    (Pair(1, {2}), {"left": 1, "right": [2]}),
    ((1, (2, 3)), [1, [2, 3]]),
    (deque([1]), [1]),
    (Interrupt({"q": 1}, id="i"), {"value": {"q": 1}, "id": "i"}),
    (
        Interrupt(1, id="i", response_schema={"type": "string"}),
        {"value": 1, "id": "i", "response_schema": {"type": "string"}},
    ),
    (ValueError("no"), {"error": "ValueError", "message": "no"}),
    (OSError(), {"error": "OSError", "message": ""}),
    (
        ExceptionGroup("two", [ValueError("a")]),
        {"error": "ExceptionGroup", "message": "two (1 sub-exception)"},
    ),
    (Failure("no"), {"error": "Failure", "message": "no"}),
    (Mute(), {"error": "Mute", "message": "<Mute>"}),
    (Send("work", {"x": {1}}), {"node": "work", "args": {"x": [1]}}),
    (ip_address("1.2.3.4"), "1.2.3.4"),
    (ip_network("1.2.3.0/24"), "1.2.3.0/24"),
    (ip_interface("1.2.3.4/24"), "1.2.3.4/24"),
    (ip_address("::1"), "::1"),
    (ip_network("fd00::/8"), "fd00::/8"),
    (ip_interface("::1/64"), "::1/64"),
    (ZoneInfo("Europe/Berlin"), "Europe/Berlin"),
    (b"ab", "YWI="),
    (Decimal("1.5"), 1.5),
    (Path("/a"), "/a"),
    (Colour.red, "r"),
    (UUID(int=0), str(UUID(int=0))),
    (datetime(2020, 1, 1, tzinfo=UTC), "2020-01-01T00:00:00+00:00"),
    (float("nan"), None),
    ({1: "a"}, {"1": "a"}),
    (Broken(), "<Broken>"),
    (Model, repr(Model)),
    # What the quick encoder refuses.
    ([2**70, Model(), float("inf"), {(1, 2): {3}}], [2**70, {"number": 1}, None, {"(1, 2)": [3]}]),
    (
        {"text": "\ud800", "when": datetime(2020, 1, 1, tzinfo=UTC)},
        {"text": "\ud800", "when": "2020-01-01T00:00:00+00:00"},
    ),
    (10**5000, "<int>"),
    (
        [2**70, ip_address("::1"), Send("n", 1), ZoneInfo("UTC"), ValueError("no")],
        [2**70, "::1", {"node": "n", "args": 1}, "UTC", {"error": "ValueError", "message": "no"}],
    ),
]


@pytest.mark.parametrize(
    ("value", "expected"), CASES, ids=[type(one).__name__ + str(n) for n, (one, _) in enumerate(CASES)]
)
def test_value_is_encoded(value: Any, expected: Any) -> None:
    assert json.loads(encoded(value)) == expected
    assert as_json(value) == expected


def test_messages_are_objects_with_their_type() -> None:
    message = as_json([HumanMessage("hi", id="m")])[0]
    assert (message["type"], message["content"], message["id"]) == ("human", "hi", "m")


def test_endless_nesting_is_cut() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert json.loads(encoded(endless))
    deep: Any = None
    for _ in range(sys.getrecursionlimit()):
        deep = [deep]
    assert json.loads(encoded(deep))
