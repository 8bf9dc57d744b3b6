from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.notifier import MAX_MESSAGE_BYTES, Signal
from coordinator.redis.messages import encode_settled
from coordinator.signals import SignalReader, encode, signal

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)


def valid(**changes: object) -> bytes:
    return json.dumps({"kind": "cancel", "thread_id": "t", "run_id": "r"} | changes).encode()


@pytest.mark.parametrize("kind", ["cancel", "claim", "settled"])
def test_a_signal_arrives_as_it_was_sent(kind: str) -> None:
    sent = Signal.model_validate({"kind": kind, "thread_id": "t", "run_id": "r"})
    reader = SignalReader()
    assert reader.read(encode(sent)) == sent
    assert reader.rejected == 0


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="no JSON"),
        pytest.param(valid()[:-1], id="cut off"),
        pytest.param(valid() + b"x", id="trailing"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"cancel"', id="a string"),
        pytest.param(b"{}", id="no kind"),
        pytest.param(valid(kind="explode"), id="unknown kind"),
        pytest.param(valid(kind=1), id="kind of a wrong type"),
        pytest.param(valid(run_id=7), id="id of a wrong type"),
        pytest.param(valid(run_id=["r"]), id="id is a list"),
        pytest.param(valid(run_id="r" * 256), id="id too long"),
        pytest.param(valid(run_id="r" * 2000), id="oversized"),
        pytest.param(valid() + b" " * MAX_MESSAGE_BYTES, id="oversized by blanks"),
        pytest.param(valid(run_id="\ud800"), id="lone surrogate"),
        pytest.param(valid(run_id="a\0b"), id="escaped NUL"),
        pytest.param(valid()[:-2] + b'\0"}', id="NUL"),
        pytest.param(b"\xff\xfe" + valid(), id="no UTF-8"),
        pytest.param(valid().decode().encode("utf-16"), id="UTF-16"),
        pytest.param(b"[" * 10_000, id="nested 10,000 deep"),
        pytest.param(b"[" * 1000, id="nested as deep as fits"),
        pytest.param(b'{"kind":' * 120, id="nested objects"),
        pytest.param(b'{"kind":NaN}', id="NaN"),
        pytest.param(b'{"kind":1e999}', id="infinite"),
        pytest.param(b"9" * 1000, id="a huge number"),
        pytest.param(b"\x80\x04K\x01.", id="a pickle"),
    ],
)
def test_what_is_no_signal_is_dropped_and_counted(payload: bytes) -> None:
    reader = SignalReader()
    assert reader.read(payload) is None
    assert reader.rejected == 1


@pytest.mark.parametrize("value", [1, None, "x", {"a": [1]}], ids=repr)
def test_fields_of_a_later_version_are_ignored(value: object) -> None:
    reader = SignalReader()
    assert reader.read(valid(later=value)) == signal("cancel", "t", "r")
    assert reader.rejected == 0


@given(st.binary(max_size=1200))
def test_no_bytes_ever_raise(payload: bytes) -> None:
    reader = SignalReader()
    assert (reader.read(payload) is None) == (reader.rejected == 1)


@given(ANY_TEXT, ANY_TEXT)
def test_whatever_the_ids_what_is_sent_fits_and_can_be_read(thread_id: str, run_id: str) -> None:
    reader = SignalReader()
    for payload in (encode(signal("cancel", thread_id, run_id)), encode_settled(thread_id, run_id)):
        assert len(payload) <= MAX_MESSAGE_BYTES
        message = reader.read(payload)
        assert message is not None
        assert message.thread_id in (thread_id, None)
        assert message.run_id in (run_id, None)


def test_ids_that_do_not_fit_are_left_out() -> None:
    wide = "\x01" * 255  # six bytes each in JSON
    assert encode(signal("cancel", wide, wide)) == b'{"kind":"cancel"}'
    assert encode(signal("claim", "t" * 255, "r" * 255)).count(b"t" * 255) == 1


@pytest.mark.parametrize("odd", ["x" * 256, "\ud800", "a\0b"])
def test_ids_that_no_signal_can_carry_are_left_out(odd: str) -> None:
    assert encode(signal("cancel", odd, "r")) == b'{"kind":"cancel"}'


@given(st.from_regex(r"[A-Za-z0-9_.:-]{1,128}", fullmatch=True))
def test_the_short_way_writes_what_the_model_writes(plain: str) -> None:
    assert encode_settled(plain, plain) == encode(signal("settled", plain, plain))
