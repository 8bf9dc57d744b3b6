from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.redis.keys import Keys, tag, to_bytes, to_text

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize("plain", ["a", "thread-1", "A.b:c_d-9", "x" * 128])
def test_a_plain_id_is_its_own_tag(plain: str) -> None:
    assert tag(plain) == plain


@pytest.mark.parametrize(
    "odd",
    ["", "x" * 129, "a b", "a\n", "{x}", "a}b", "é", "\0", "\ud800", "a*", "[a]", "h-" + "0" * 32],
)
def test_any_other_id_is_hashed(odd: str) -> None:
    assert tag(odd).startswith("h-")
    assert len(tag(odd)) == 34
    assert tag(odd) != odd


def test_no_id_has_the_hashed_tag_of_another() -> None:
    hashed = tag("another user's thread")
    assert tag(hashed) != hashed


@given(ANY_TEXT, ANY_TEXT)
def test_different_ids_have_different_tags(one: str, other: str) -> None:
    assert (tag(one) == tag(other)) == (one == other)


@given(ANY_TEXT)
def test_ids_survive_the_way_to_redis_and_back(client_id: str) -> None:
    assert to_text(to_bytes(client_id)) == client_id


def test_bytes_that_are_no_id_are_none() -> None:
    assert to_text(b"\xff\xfe") is None


@given(ANY_TEXT)
def test_all_keys_of_a_thread_are_in_one_hash_tag(thread_id: str) -> None:
    keys = Keys("rc")
    names = [*keys.thread(thread_id), keys.log(thread_id, thread_id)]
    tags = {name[name.index(b"{") + 1 : name.index(b"}")] for name in names}
    assert tags == {f"t:{tag(thread_id)}".encode()}
    assert all(name.count(b"{") == name.count(b"}") == 1 for name in names)


def test_the_names_are_those_of_the_design() -> None:
    keys = Keys("rc")
    assert keys.thread("t1") == (b"rc:{t:t1}:holder", b"rc:{t:t1}:ev")
    assert keys.log("t1", "r1") == b"rc:{t:t1}:log:r1"
    assert keys.worker(7) == (b"rc:{w:7}:lease", b"rc:{w:7}:ctl")
    assert (keys.broadcast, keys.workers) == (b"rc:{g}:ctl", b"rc:{g}:workers")


@pytest.mark.parametrize("bad", ["", "a{b", "a}b", "a b", "x" * 65, "é"])
def test_a_namespace_that_would_break_the_names_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Keys(bad)
