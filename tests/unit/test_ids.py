"""Run ids: valid, growing, never twice."""

from __future__ import annotations

import os
import threading
import uuid

import pytest

from coordinator.ids import new_run_id


def test_a_run_id_is_a_uuid_of_version_7() -> None:
    parsed = uuid.UUID(new_run_id())
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)


def test_ids_grow_with_time_and_never_repeat() -> None:
    ids = [new_run_id() for _ in range(5_000)]
    assert len(set(ids)) == len(ids)
    assert [text[:13] for text in ids] == sorted(text[:13] for text in ids)


def test_threads_never_share_an_id() -> None:
    ids_by_thread: list[list[str]] = [[] for _ in range(4)]

    def make(mine: list[str]) -> None:
        mine.extend(new_run_id() for _ in range(2_000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in ids_by_thread]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({text[19:] for mine in ids_by_thread for text in mine}) == 8_000  # the random part alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_does_not_repeat_its_parents_randomness() -> None:
    new_run_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, "".join(new_run_id()[19:] for _ in range(100)).encode())
        os._exit(0)
    mine = {new_run_id()[19:] for _ in range(100)}
    os.waitpid(child, 0)
    theirs = os.read(read, 100_000).decode()
    os.close(read)
    os.close(write)
    assert mine.isdisjoint(theirs[start : start + 17] for start in range(0, len(theirs), 17))
