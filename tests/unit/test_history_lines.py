"""How histories are written and read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.errors import ConflictError, StoreUnavailable
from tests.histories import Line, Recorder, read


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with Recorder("w1.0", tmp_path / "w1.jsonl") as record:
        with record.call("admit", thread="t", strategy="reject") as call:
            call.answer(run="r")
        record.step("began", run="r", thread="t", epoch=1, fence=2, values={"n": 1})
        record.fault("killed", worker="w2.0")
    call_line, answer, step, fault = read(tmp_path / "w1.jsonl")
    assert (call_line.kind, call_line.args) == ("call", {"strategy": "reject"})
    assert (answer.call, answer.outcome, answer.run, answer.thread) == (call_line.call, "ok", "r", "t")
    assert (step.epoch, step.fence, step.args) == (1, 2, {"values": {"n": 1}})
    assert fault.args == {"worker": "w2.0"}
    assert call_line.at <= answer.at <= step.at
    assert step.source == "w1.jsonl:3"


def test_an_error_is_a_refusal_only_where_it_promises_that_nothing_happened() -> None:
    lines: list[Line] = []
    record = Recorder("w", sink=lines.append)
    with pytest.raises(ConflictError), record.call("admit", thread="t"):
        raise ConflictError("t", "holder")
    with pytest.raises(StoreUnavailable), record.call("cancel", run="r"):
        raise StoreUnavailable("away")
    with pytest.raises(KeyboardInterrupt), record.call("cancel", run="r"):
        raise KeyboardInterrupt
    refused, unavailable, interrupted = (line for line in lines if line.kind == "answer")
    assert (refused.outcome, refused.error, refused.args) == (
        "refused",
        "ConflictError",
        {"active_run": "holder"},
    )
    assert (unavailable.outcome, interrupted.outcome) == ("unknown", "unknown")


def test_a_call_is_answered_once() -> None:
    with Recorder("w", sink=lambda line: None).call("get", run="r") as call:
        call.answer(status="success")
        with pytest.raises(ValueError, match="answered already"):
            call.answer(status="error")


def test_a_recorder_has_one_place_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a path or"):
        Recorder("w")
    record = Recorder("w", tmp_path / "w.jsonl")
    record.close()
    record.close()
    with pytest.raises(ValueError, match="closed"):
        record.sample("tick", runs=1)


def test_a_torn_last_line_is_dropped_and_a_torn_one_in_between_is_not(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    whole = Line("fault", "healed", "w", 1, 2).to_json()
    path.write_text(f"{whole}\n{whole[:20]}")
    assert [line.what for line in read(path)] == ["healed"]
    path.write_text(f"{whole[:20]}\n{whole}\n")
    with pytest.raises(ValueError, match=r"w\.jsonl:1 is no line"):
        read(path)


def test_files_are_merged_by_time(tmp_path: Path) -> None:
    for name, ats in (("a", (1, 4)), ("b", (2, 3))):
        text = "".join(Line("fault", "x", name, at, at).to_json() + "\n" for at in ats)
        (tmp_path / name).write_text(text)
    assert [line.at for line in read(tmp_path / "a", tmp_path / "b")] == [1, 2, 3, 4]


WRITER = """
import sys
from tests.histories import Recorder
record = Recorder("w", sys.argv[1])
n = 0
while True:
    record.sample("tick", n=n)
    n += 1
    print(n, flush=True)
"""


@pytest.mark.multiprocess
def test_what_was_written_before_a_kill_is_there(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        seen = 0
        while seen < 200:
            seen = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
    lines = read(path)
    assert len(lines) >= seen
    assert [line.args["n"] for line in lines] == list(range(len(lines)))


def test_a_line_has_no_empty_fields() -> None:
    assert json.loads(Line("fault", "healed", "w", 1, 2, source="x:1").to_json()) == {
        "kind": "fault",
        "what": "healed",
        "worker": "w",
        "at": 1,
        "wall": 2,
        "args": {},
    }
