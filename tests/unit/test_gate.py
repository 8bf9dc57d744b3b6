"""The write gate, between real processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from stores import gate as gates
from stores.gate import FileGate
from tests.support.children import Child

fcntl = pytest.importorskip("fcntl", reason="POSIX locks")
WITHIN = 10

HOLD = """
from pathlib import Path
from stores.gate import gate_of
gate = gate_of(Path(args[0]))
with gate.writing():
    say("held")
    hear()
say("released")
hear()
"""
VOUCH = """
from pathlib import Path
from stores.gate import gate_of
gate_of(Path(args[0])).live(7)
say("alive")
hear()
"""
LOOK = """
from pathlib import Path
from stores.gate import gate_of
gate = gate_of(Path(args[0]))
while hear():
    say(gate.is_live(7), gate.writer_pid())
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def gate(database: Path) -> Generator[FileGate]:
    gate = gates.gate_of(database)
    assert gate is not None
    yield gate
    gates.release(gate)
    assert gates._open == {}


def entering(gate: FileGate) -> tuple[threading.Thread, threading.Event]:
    entered = threading.Event()

    def enter() -> None:
        with gate.writing():
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    return thread, entered


def test_writers_of_two_processes_exclude_each_other(gate: FileGate, database: Path) -> None:
    with Child(HOLD, database) as other:
        assert other.heard() == "held"
        thread, entered = entering(gate)
        assert gate.writer_pid() == other.pid
        assert not entered.is_set()
        other.tell()
        assert other.heard() == "released"
        assert entered.wait(WITHIN)
        thread.join()
        assert gate.writer_pid() is None


def test_kill_9_of_the_holder_frees_the_gate(gate: FileGate, database: Path) -> None:
    with Child(HOLD, database) as other:
        assert other.heard() == "held"
        thread, entered = entering(gate)
        other.kill()
        assert entered.wait(WITHIN)
        thread.join()


def test_a_paused_holder_is_named_by_its_pid(gate: FileGate, database: Path) -> None:
    with Child(HOLD, database) as other:
        assert other.heard() == "held"
        other.pause()
        thread, entered = entering(gate)
        assert gate.writer_pid() == other.pid
        assert not entered.is_set()
        other.resume()
        other.tell()
        assert entered.wait(WITHIN)
        thread.join()


def test_a_worker_is_vouched_for_until_its_process_ends(gate: FileGate, database: Path) -> None:
    with Child(VOUCH, database) as other:
        assert other.heard() == "alive"
        assert gate.is_live(7)
        assert not gate.is_live(8)
        other.pause()
        assert gate.is_live(7), "paused is not dead"
        other.kill()
        assert not gate.is_live(7)


def test_an_own_worker_is_alive_until_it_says_otherwise(gate: FileGate, database: Path) -> None:
    """The kernel does not tell a process about its own locks."""
    gate.live(7)
    with Child(LOOK, database) as other:
        other.tell()
        assert other.heard() == "True None"
        assert gate.is_live(7)
        gate.dead(7)
        other.tell()
        assert other.heard() == "False None"
        assert not gate.is_live(7)


def test_a_worker_of_another_process_cannot_be_vouched_for(gate: FileGate, database: Path) -> None:
    with Child(VOUCH, database) as other:
        assert other.heard() == "alive"
        with pytest.raises(OSError, match="temporarily unavailable"):
            gate.live(7)
        assert gate.is_live(7)
        other.kill()
        gate.live(7)


def test_one_process_has_one_gate_per_file_whatever_the_path(gate: FileGate, database: Path) -> None:
    """Closing any descriptor of the file would drop the locks of all of them."""
    database.touch()
    link = database.with_name("link.db")
    link.symlink_to(database)
    gate.live(7)
    for path in (database, link, database.parent / "." / database.name):
        same = gates.gate_of(path)
        assert same is not None
        assert same is gate
        gates.release(same)
    with Child(LOOK, database) as other:
        other.tell()
        assert other.heard() == "True None", "giving back one use dropped nothing"


def test_threads_of_one_process_exclude_each_other(gate: FileGate) -> None:
    with gate.writing():
        thread, entered = entering(gate)
        assert not entered.wait(0.05)
    assert entered.wait(WITHIN)
    thread.join()


def test_the_descriptor_is_not_inherited(gate: FileGate) -> None:
    assert not os.get_inheritable(gate._fd)
