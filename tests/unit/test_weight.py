"""The number of values in a JSON text, counted in its bytes."""

from __future__ import annotations

import json
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from coordinator.gateway.wire.weight import at_most, exceeds

TEXTS = st.text('a",[{\\', max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)


def without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {str(at): without_texts(inner) for at, (_, inner) in enumerate(items)}
    if isinstance(value, list):
        return [without_texts(inner) for inner in cast("list[Any]", value)]
    return 0


@given(JSON)
def test_texts_do_not_count(value: Any) -> None:
    count = at_most(json.dumps(without_texts(value)).encode())
    body = json.dumps(value).encode()
    assert at_most(body) >= count
    assert not exceeds(body, count)
    assert count == 1 or exceeds(body, count - 1)


@given(st.binary(max_size=50))
def test_what_is_no_json_is_counted_too(body: bytes) -> None:
    assert not exceeds(body, at_most(body))
