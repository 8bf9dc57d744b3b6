"""The size of a large value is found without serializing most of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coordinator.assistants.sizes import exceeds, size_of

VALUES: dict[str, Any] = {
    "text": "a" * 1000,
    "text that JSON escapes": "\U0001f600" * 1000,
    "long key": {"a" * 1000: None},
    "numbers": [0] * 400,
    "nothing": [[]] * 400,
    "constants": [True, False, None, 1.5e300] * 100,
    "digits": 10**1000,
    "nested": {str(number): {"b": [number]} for number in range(100)},
    "long text behind many values": [0] * 20_000 + ["a" * 100_000],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_size_above_the_limit_is_exact_to_the_byte(value: Any) -> None:
    size = len(json.dumps(value, separators=(",", ":")))
    assert exceeds(value, size) is None
    assert exceeds(value, size - 1) == size


def test_what_is_no_json_exceeds_nothing() -> None:
    assert exceeds({"a": [object()] * 1000}, 10) is None


def test_the_size_in_memory_is_counted_up_to_a_limit() -> None:
    assert size_of(None, {}, "", []) == 0
    assert 1000 < size_of({"a": "x" * 1000}) < 1300
    assert 1000 < size_of(["x" * 100] * 1000, limit=1000) < 1300
    assert size_of([None] * 1_000_000) > 50_000_000, "of what has many values, not all are looked at"
