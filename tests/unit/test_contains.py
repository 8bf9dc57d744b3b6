"""JSON containment as PostgreSQL's jsonb has it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.sql.sqlite.contains import contains, register

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("ab", max_size=2)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=1), inner)
)


def thinned(value: Any, draw: st.DataObject) -> Any:
    """A part of it: some keys, some elements in another order, each thinned itself."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {key: thinned(inner, draw) for key, inner in fields.items() if draw.draw(st.booleans())}
    if isinstance(value, list):
        elements = cast("list[Any]", value)
        kept = [thinned(inner, draw) for inner in elements if draw.draw(st.booleans())]
        return draw.draw(st.permutations(kept))
    return value


@given(values, st.data())
def test_a_part_is_contained(value: Any, data: st.DataObject) -> None:
    assert contains(value, value)
    assert contains(value, thinned(value, data))


@given(values, values)
def test_equality_is_containment_both_ways(one: Any, other: Any) -> None:
    if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert contains(one, other)
        assert contains(other, one)


@pytest.mark.parametrize(
    ("whole", "part"),
    [
        ({"a": 1}, {"a": True}),
        ({"a": 0}, {"a": False}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"b": None}),
        ({"a": {"b": 1}}, {"b": 1}),
        ({"a": [1]}, {"a": 1}),
        ({"a": "ab"}, {"a": "a"}),
        ({"a": []}, {"a": {}}),
        ([[1, 2]], [[1, 2, 3]]),
    ],
)
def test_what_is_not_contained(whole: Any, part: Any) -> None:
    assert not contains(whole, part)


def test_in_sql_what_is_no_json_contains_nothing() -> None:
    with closing(sqlite3.connect(":memory:")) as cx:
        register(cx)
        deep = "[" * 100_000
        cases = [("{}", "{}", 1), (None, "{}", 0), ("{", "{}", 0), ('{"a":1}', "{", 0), (deep, "[]", 0)]
        for whole, part, expected in cases:
            assert cx.execute("SELECT json_contains(?, ?)", (whole, part)).fetchone() == (expected,)
