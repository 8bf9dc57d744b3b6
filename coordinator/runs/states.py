"""The states of a run on its worker, as data: the fields of each state, and the allowed transitions.

waiting --claim--> holding --decide--> stopping --stopped--> closing --settle--> settled
                               lose: any of these --> lost --stopped--> released

`stores/states.py` has the states of the row. These are the states in the memory of one process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from coordinator.assistants.ports import Assistant, ThreadStates
from coordinator.context import RunContext
from coordinator.runs.kept import Result
from coordinator.runs.latch import Latch
from coordinator.schemas import Abort, Json
from stores.rows import Outcome, Ownership, Started


class Hold:
    """A run as the holder of its thread, or beside it (fence 0). `since`: monotonic clock (s)."""

    __slots__ = (
        "assistant",
        "attempt",
        "context",
        "opened",
        "own",
        "pause",
        "retrying",
        "rollback_ref",
        "since",
        "start",
        "started",
        "states",
    )

    def __init__(self, own: Ownership, since: float) -> None:
        self.own, self.since = own, since
        self.start: Started | None = None
        """The store's answer, if the run started in the transaction in which it took its thread."""
        self.started = False
        self.context: RunContext | None = None
        self.assistant: Assistant | None = None
        """Of a run whose code was called."""
        self.states: ThreadStates | None = None
        self.attempt = 1
        self.pause = 0.0
        """Seconds to wait before the code is called."""
        self.opened: Json = None
        """What the state of the thread returned when it was opened for this attempt."""
        self.rollback_ref: Json = None
        """Of the first attempt that has started."""
        self.retrying = False
        """Another attempt of the rollback is requested and not confirmed: the fence may be newer."""

    def close(self) -> None:
        """Refuses further writes of the run's fence in this process. Idempotent."""
        if self.context is not None:
            self.context.close()
        if self.states is not None:
            self.states.close(self.own.thread_id, self.own.fence)

    def release(self) -> None:
        """Drops what only an unsettled run needs: records stay for a while, and contexts are large."""
        self.assistant = self.context = self.states = self.start = None
        self.rollback_ref = self.opened = None


class End:
    """The end of a run before it is written to its row. `unwritten`: a decision that is not in the store."""

    __slots__ = ("outcome", "unwritten")

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.unwritten: Abort | None = None


@dataclass(slots=True, eq=False)
class Waiting:
    """Admitted, without its thread. `turn` is set when the run leaves this state. `start_ref`: the rollback
    reference, if its task waits for its turn and opens the state of its thread without I/O."""

    end: End = field(default_factory=End)
    turn: Latch = field(default_factory=Latch)
    start_ref: Json = None
    hold: ClassVar[None] = None
    abort: ClassVar[None] = None
    elsewhere: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Holding:
    """Holds its thread, undecided: its code may run."""

    end: End
    hold: Hold
    abort: ClassVar[None] = None
    elsewhere: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Stopping:
    """Decided, and its task was cancelled. `hold` is None if it was decided before a claim."""

    end: End
    hold: Hold | None
    abort: Abort
    elsewhere: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Closing:
    """Stopped, or given up: writes of its code are refused, its end is being written. A decision that comes
    now is kept in `abort`."""

    end: End
    hold: Hold
    abort: Abort | None
    elsewhere: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Lost:
    """Executed or ended by another worker: its task must stop, and nothing more is written."""

    hold: Hold | None
    abort: Abort | None
    end: ClassVar[None] = None
    elsewhere: ClassVar[bool] = True


@dataclass(slots=True, eq=False)
class Settled:
    """Has freed its thread, and its end is in its row."""

    hold: Hold | None
    abort: Abort | None
    result: Result
    end: ClassVar[None] = None
    elsewhere: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Released:
    """Lost, and stopped on this worker: only the store has its end."""

    hold: Hold | None
    abort: Abort | None
    end: ClassVar[None] = None
    elsewhere: ClassVar[bool] = True


State: TypeAlias = Waiting | Holding | Stopping | Closing | Lost | Settled | Released

TRANSITIONS: dict[type[State], frozenset[type[State]]] = {
    Waiting: frozenset({Holding, Stopping, Closing, Settled, Lost}),
    Holding: frozenset({Stopping, Closing, Lost}),
    Stopping: frozenset({Closing, Settled, Lost}),
    Closing: frozenset({Settled, Lost}),
    Lost: frozenset({Released}),
    Settled: frozenset(),
    Released: frozenset(),
}
"""A run that holds its thread settles from `Closing` only. From `Stopping` it settles if it never held it."""
