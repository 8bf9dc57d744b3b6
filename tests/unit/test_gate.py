"""The write gate, between real processes."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from stores import gate as gates
from stores.gate import FileGate
from tests.support.children import Child
from tests.support.inside_stores import descriptor_of, open_gates

fcntl = pytest.importorskip("fcntl", reason="POSIX locks")
WITHIN = 10

HOLD = """
from pathlib import Path
from stores.gate import gate_of
gate = gate_of(Path(args[0]))
with gate.writing():
    send("held")
    receive()
send("released")
receive()
"""
VOUCH = """
from pathlib import Path
from stores.gate import gate_of
gate_of(Path(args[0])).live(7)
send("alive")
receive()
"""
LOOK = """
from pathlib import Path
from stores.gate import gate_of
gate = gate_of(Path(args[0]))
while receive():
    send(gate.is_live(7), gate.writer_pid())
"""


COPIES = """
import hashlib, shutil, zipfile
def copied(path):
    open(path, "rb").close()
    shutil.copy(path, path + ".copy")
    hashlib.file_digest(open(path, "rb"), "sha256")
    with zipfile.ZipFile(path + ".zip", "w") as archive:
        archive.write(path)
"""
VOUCH_AND_COPY = f"""
{COPIES}
from pathlib import Path
from stores import byte_locks
if args[1:] == ["posix"]:
    byte_locks._has_ofd = lambda fd: False
from stores.gate import gate_of
gate = gate_of(Path(args[0]))
gate.live(7)
send("alive")
receive()
copied(args[0] + "-gate")
send("copied")
receive()
gate.renew()
send("renewed")
receive()
"""
HOLD_AND_COPY = f"""
{COPIES}
from pathlib import Path
from stores.gate import gate_of
gate = gate_of(Path(args[0]))
with gate.writing():
    copied(args[0] + "-gate")
    send("copied")
    receive()
"""
VOUCH_AND_FORK = """
import os
from pathlib import Path
from stores.gate import gate_of, release
gate = gate_of(Path(args[0]))
gate.live(7)
if not os.fork():
    release(gate)
    own = gate_of(Path(args[0]))
    own.live(8)
    send(own.is_live(7), own.is_live(8))
    if args[1:] == ["leave"]:
        os._exit(0)
    receive()
    os._exit(0)
os.wait()
send("left alone")
receive()
"""
EARLIER_VERSION = """
import fcntl, os
fd = os.open(args[0] + "-gate", os.O_RDWR)
fcntl.lockf(fd, fcntl.LOCK_EX, 1, 7)
send("alive")
receive()
open(args[0] + "-gate").close()
send("lost")
receive()
"""
EARLIER_VERSION_LOOKS = """
import fcntl, os, struct
fd = os.open(args[0] + "-gate", os.O_RDWR)
question = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 7, 1, 0)
answer = struct.unpack("hhqqi", fcntl.fcntl(fd, fcntl.F_GETLK, question))
send("held" if answer[0] != fcntl.F_UNLCK else "free")
receive()
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="there are no OFD locks")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def gate(database: Path) -> Generator[FileGate]:
    gate = gates.gate_of(database)
    assert gate is not None
    yield gate
    gates.release(gate)
    assert not open_gates()


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
        assert other.receive() == "held"
        thread, entered = entering(gate)
        assert gate.writer_pid() == other.pid
        assert not entered.is_set()
        other.send()
        assert other.receive() == "released"
        assert entered.wait(WITHIN)
        thread.join()
        assert gate.writer_pid() is None


def test_kill_9_of_the_holder_frees_the_gate(gate: FileGate, database: Path) -> None:
    with Child(HOLD, database) as other:
        assert other.receive() == "held"
        thread, entered = entering(gate)
        other.kill()
        assert entered.wait(WITHIN)
        thread.join()


def test_a_paused_holder_is_named_by_its_pid(gate: FileGate, database: Path) -> None:
    with Child(HOLD, database) as other:
        assert other.receive() == "held"
        other.pause()
        thread, entered = entering(gate)
        assert gate.writer_pid() == other.pid
        assert not entered.is_set()
        other.resume()
        other.send()
        assert entered.wait(WITHIN)
        thread.join()


def test_worker_byte_is_held_until_its_process_ends(gate: FileGate, database: Path) -> None:
    with Child(VOUCH, database) as other:
        assert other.receive() == "alive"
        assert gate.is_live(7)
        assert not gate.is_live(8)
        other.pause()
        assert gate.is_live(7), "paused is not dead"
        other.kill()
        assert not gate.is_live(7)


def test_own_worker_is_live_until_dead_is_called(gate: FileGate, database: Path) -> None:
    """The kernel does not report to a process its own locks."""
    gate.live(7)
    with Child(LOOK, database) as other:
        other.send()
        assert other.receive() == "True None"
        assert gate.is_live(7)
        gate.dead(7)
        other.send()
        assert other.receive() == "False None"
        assert not gate.is_live(7)


def test_byte_held_by_another_process_cannot_be_locked(gate: FileGate, database: Path) -> None:
    with Child(VOUCH, database) as other:
        assert other.receive() == "alive"
        with pytest.raises(BlockingIOError, match=f"process {other.pid} still holds worker epoch 7"):
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
        other.send()
        assert other.receive() == "True None", "giving back one use dropped nothing"


def test_threads_of_one_process_exclude_each_other(gate: FileGate) -> None:
    with gate.writing():
        thread, entered = entering(gate)
        assert not entered.wait(0.05)
    assert entered.wait(WITHIN)
    thread.join()


def test_the_descriptor_is_not_inherited(gate: FileGate) -> None:
    assert not os.get_inheritable(descriptor_of(gate))


def test_token_is_durable_before_the_gate_is_used(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    pwrite, fsync = os.pwrite, os.fsync

    def name_of(fd: int) -> str:
        return Path(f"/proc/self/fd/{fd}").readlink().name

    def written(fd: int, data: bytes, offset: int) -> int:
        done.append(("written", name_of(fd)))
        return pwrite(fd, data, offset)

    def synced(fd: int) -> None:
        done.append(("synced", name_of(fd)))
        fsync(fd)

    monkeypatch.setattr(os, "pwrite", written)
    monkeypatch.setattr(os, "fsync", synced)
    made = ["written", "synced"]
    for _ in ("made", "found"):
        gate = gates.gate_of(database)
        assert gate is not None
        gates.release(gate)
        assert done == [*((what, "runs.db-gate") for what in made), ("synced", database.parent.name)]


@pytest.mark.parametrize("lost", [b"", bytes(32)])
def test_token_lost_in_a_power_failure_is_written_again(database: Path, lost: bytes) -> None:
    Path(f"{database}-gate").write_bytes(lost)
    gate = gates.gate_of(database)
    assert gate is not None
    assert len(gate.token) == 32
    assert "\0" not in gate.token
    gates.release(gate)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_user_that_may_write_the_database_may_use_the_gate(database: Path, mode: int) -> None:
    database.touch()
    database.chmod(mode)
    for _ in ("made", "found"):
        gate = gates.gate_of(database)
        assert gate is not None
        made = Path(gate.path)
        assert stat.S_IMODE(made.stat().st_mode) == mode
        gates.release(gate)
        made.chmod(0o644)  # as versions before made it


# -- what a process does with the file beside


@on_linux
def test_copying_the_file_in_its_own_process_keeps_the_proof_of_life(gate: FileGate, database: Path) -> None:
    with Child(VOUCH_AND_COPY, database) as other:
        assert other.receive() == "alive"
        other.send()
        assert other.receive() == "copied"
        assert gate.is_live(7)
        assert not gate.proves_death(7, other.pid)
        other.kill()
        assert gate.proves_death(7, other.pid)


@on_linux
def test_copying_the_file_in_the_process_of_a_writer_lets_no_other_in(gate: FileGate, database: Path) -> None:
    with Child(HOLD_AND_COPY, database) as other:
        assert other.receive() == "copied"
        assert gate.writer_pid() == other.pid
        thread, entered = entering(gate)
        assert not entered.wait(0.05)
        other.send()
        assert entered.wait(WITHIN)
        thread.join()


def test_where_the_lock_can_be_lost_a_live_process_is_not_proven_dead(gate: FileGate, database: Path) -> None:
    with Child(VOUCH_AND_COPY, database, "posix") as other:
        assert other.receive() == "alive"
        assert gate.is_live(7)
        other.send()
        assert other.receive() == "copied"
        assert not gate.is_live(7), "its lock is lost"
        assert not gate.proves_death(7, other.pid), "its process is there"
        other.send()
        assert other.receive() == "renewed"
        assert gate.is_live(7), "the next heartbeat takes it again"
        other.kill()
        assert gate.proves_death(7, other.pid)


def test_a_live_worker_of_an_earlier_version_is_seen_and_not_proven_dead(
    gate: FileGate, database: Path
) -> None:
    with Child(EARLIER_VERSION, database) as other:
        assert other.receive() == "alive"
        assert gate.is_live(7)
        with pytest.raises(BlockingIOError, match=f"process {other.pid}"):
            gate.live(7)
        other.send()
        assert other.receive() == "lost"
        assert not gate.proves_death(7, other.pid)
        other.kill()
        assert gate.proves_death(7, other.pid)


@on_linux
def test_a_worker_of_an_earlier_version_sees_this_one(gate: FileGate, database: Path) -> None:
    gate.live(7)
    with Child(EARLIER_VERSION_LOOKS, database) as other:
        assert other.receive() == "held"
    gate.dead(7)
    with Child(EARLIER_VERSION_LOOKS, database) as other:
        assert other.receive() == "free"


def test_a_forked_child_does_not_prove_that_its_parent_lives(gate: FileGate, database: Path) -> None:
    with Child(VOUCH_AND_FORK, database, "stay") as parent:
        assert parent.receive() == "True True", (
            "a child that makes a gate of its own sees its parent's worker"
        )
        assert gate.is_live(7)
        assert gate.is_live(8)
        parent.kill()
        assert not gate.is_live(7)
        assert gate.is_live(8), "the child lives on"


def test_a_forked_child_that_ends_takes_nothing_from_its_parent(gate: FileGate, database: Path) -> None:
    with Child(VOUCH_AND_FORK, database, "leave") as parent:
        assert parent.receive() == "True True"
        assert parent.receive() == "left alone"
        assert gate.is_live(7)
        assert not gate.is_live(8)
