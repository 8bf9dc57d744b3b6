"""Locks on bytes of a file, between real processes."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from stores.byte_locks import ByteLocks
from tests.support.children import Child

fcntl = pytest.importorskip("fcntl", reason="POSIX locks")

HOLD = """
from stores import byte_locks
if args[2] == "posix":
    byte_locks._has_ofd = lambda fd: False
file = open(args[0], "r+b")
byte_locks.ByteLocks(file.fileno()).acquire(int(args[1]))
send("held")
receive()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gate"
    path.touch()
    return path


@pytest.fixture
def locks(path: Path) -> Generator[ByteLocks]:
    with path.open("r+b") as file:
        yield ByteLocks(file.fileno())


@pytest.mark.parametrize("kind", ["own", "posix"])
def test_holder_within_a_range_of_bytes_is_named(locks: ByteLocks, path: Path, kind: str) -> None:
    with Child(HOLD, path, 7, kind) as other:
        assert other.receive() == "held"
        for start, end in ((7, 8), (1, 8), (7, 100), (1, 1 << 40)):
            assert locks.any_holder(start, end) == other.pid
        for start, end in ((1, 7), (6, 7), (8, 9), (8, 1 << 40)):
            assert locks.any_holder(start, end) is None


@pytest.mark.parametrize("kind", ["own", "posix"])
def test_byte_that_is_held_cannot_even_be_shared(locks: ByteLocks, path: Path, kind: str) -> None:
    with Child(HOLD, path, 7, kind) as other:
        assert other.receive() == "held"
        with pytest.raises(BlockingIOError):
            fcntl.lockf(locks.fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 7)
        fcntl.lockf(locks.fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 8)


def test_own_locks_are_not_reported(locks: ByteLocks) -> None:
    locks.acquire(7)
    assert locks.holder(7) is None
    assert locks.any_holder(1, 1 << 40) is None
