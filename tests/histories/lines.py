"""The record of a history: one line of JSON for each call, answer, task step, fault and sample.

| kind   | what                                                 | args                                    |
|--------|------------------------------------------------------|-----------------------------------------|
| call   | admit, cancel, wait, get, save, emit, finish, update | of the call, see `sequential`           |
| answer | the same, with the same `call`                       | the answer; its kind is `outcome`       |
| step   | began, step, cancelled, stopped                      | began: values. stopped: outcome, values |
| fault  | killed, paused, resumed, fenced, drained, deaf, …    | details for a reader                    |
| sample | tick                                                 | runs, ticks, reads                      |
| sample | registered, fenced                                   | epoch                                   |

`outcome` is `ok`, `refused` (certainly without effect) or `unknown` (had an effect, or may still have one).
A call without an answer is unknown: its caller was killed.

`worker` names one *incarnation* of a process. `at` (ns) is CLOCK_MONOTONIC, which all processes of a
machine share. `wall` (us since 1970) is comparable with the store's times. Values are JSON.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

REFUSALS = frozenset(
    {
        "ConflictError",
        "Draining",
        "IdempotencyConflict",
        "InvalidArgument",
        "QueueFull",
        "RunNotFound",
        "StaleFence",
        "ThreadNotFound",
        "UnsupportedStrategyError",
    }
)
"""Errors that guarantee that nothing was written. Any other error leaves the outcome unknown."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `source` is its file and number, for messages; it is not written."""

    kind: str
    what: str
    worker: str
    at: int
    wall: int
    run: str | None = None
    thread: str | None = None
    epoch: int | None = None
    fence: int | None = None
    call: str | None = None
    outcome: str | None = None
    error: str | None = None
    args: dict[str, Any] = field(default_factory=dict[str, Any])
    source: str = field(default="", compare=False)

    def to_json(self) -> str:
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        del fields["source"]
        return json.dumps(fields, separators=(",", ":"), default=str)

    def __str__(self) -> str:
        ids = (("run", self.run), ("thread", self.thread), ("epoch", self.epoch), ("fence", self.fence))
        parts = [f"{name} {value}" for name, value in ids if value is not None]
        tail = [
            text for text in (self.outcome, self.error, json.dumps(self.args) if self.args else None) if text
        ]
        where = self.source or self.worker
        return f"{where} @{self.at / 1e9:.6f} {self.kind} {self.what} {' '.join([*parts, *tail])}".rstrip()


class Call:
    """One call in progress. Its answer is recorded once."""

    def __init__(self, recorder: Recorder, line: Line) -> None:
        self._recorder, self._line, self.answered = recorder, line, False

    def answer(self, *, run: str | None = None, fence: int | None = None, **value: Any) -> None:
        self._end("ok", value, run=run, fence=fence)

    def refused(self, error: str, **value: Any) -> None:
        self._end("refused", value, error=error)

    def unknown(self, error: str | None = None) -> None:
        self._end("unknown", {}, error=error)

    def _end(self, outcome: str, value: dict[str, Any], **fields: Any) -> None:
        if self.answered:
            raise ValueError(f"{self._line} was answered already")
        self.answered = True
        line = self._line
        fields["run"] = fields.get("run") or line.run
        fields["fence"] = line.fence if fields.get("fence") is None else fields["fence"]
        self._recorder.write(
            "answer",
            line.what,
            call=line.call,
            outcome=outcome,
            thread=line.thread,
            epoch=line.epoch,
            args=value,
            **fields,
        )


class Recorder:
    """Writes the history of one incarnation of a worker. May be used from any thread.

    Each line is one write to a file opened with O_APPEND. Written lines survive kill -9, but no power cut:
    there is no fsync. The last line may be torn, which `read` tolerates. `sink` takes the lines in place of
    a file (a simulation passes `list.append`). `clock` and `wall` may be virtual.
    """

    def __init__(
        self,
        worker: str,
        path: Path | str | None = None,
        *,
        sink: Callable[[Line], object] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        if (path is None) == (sink is None):
            raise ValueError("a recorder writes to a path or to a sink")
        self.worker, self._sink, self._clock, self._wall = worker, sink, clock, wall
        self._calls, self._lock = 0, threading.Lock()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = None if path is None else os.open(path, flags, 0o600)

    def write(self, kind: str, what: str, *, args: dict[str, Any] | None = None, **fields: Any) -> Line:
        line = Line(kind, what, self.worker, self._clock(), self._wall(), args=args or {}, **fields)
        if self._sink is not None:
            self._sink(line)
        elif self._file is None:
            raise ValueError(f"the history of {self.worker} is closed")
        else:
            os.write(self._file, line.to_json().encode() + b"\n")
        return line

    @contextmanager
    def call(
        self,
        what: str,
        *,
        run: str | None = None,
        thread: str | None = None,
        epoch: int | None = None,
        fence: int | None = None,
        **args: Any,
    ) -> Generator[Call]:
        """Record a call and its answer: the one given by `answer(…)` inside the block, otherwise an empty
        one. An exception of REFUSALS is recorded as a refusal, any other as an unknown outcome. The exception
        is raised again."""
        with self._lock:
            self._calls += 1
            number = f"{self.worker}:{self._calls}"
        ids: dict[str, Any] = {"run": run, "thread": thread, "epoch": epoch, "fence": fence}
        call = Call(self, self.write("call", what, call=number, args=args, **ids))
        try:
            yield call
        except BaseException as error:
            name = type(error).__name__
            if not call.answered and name in REFUSALS:
                call.refused(name, active_run=getattr(error, "active_run_id", None))
            elif not call.answered:
                call.unknown(name)
            raise
        if not call.answered:
            call.answer()

    def step(self, what: str, *, run: str, thread: str, epoch: int, fence: int, **args: Any) -> None:
        """Record a step of a run's own code: `began` before its first step, `stopped` after its last (tracked
        work included)."""
        self.write("step", what, run=run, thread=thread, epoch=epoch, fence=fence, args=args)

    def fault(self, what: str, *, worker: str | None = None, run: str | None = None, **args: Any) -> None:
        """Record a fault. Call this *before* causing it. `worker` is the affected worker; None = all."""
        self.write("fault", what, run=run, args={"worker": worker or "*", **args})

    def sample(self, what: str, **args: Any) -> None:
        self.write("sample", what, args=args)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read(*paths: Path | str) -> list[Line]:
    """Returns all lines of these files in the order of time. A torn last line is dropped. Raises ValueError
    for any other line that cannot be read."""
    lines: list[Line] = []
    for path in map(Path, paths):
        raw = path.read_bytes().split(b"\n")
        for number, text in enumerate(raw[:-1], 1):  # what follows the last newline was torn by a kill
            source = f"{path.name}:{number}"
            try:
                lines.append(Line(**json.loads(text), source=source))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{source} is no line of a history: {error}") from error
    return in_order(lines)


def in_order(lines: Iterable[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: line.at)
