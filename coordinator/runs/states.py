"""The states of a run on its worker, as data: which fields each has, and which may follow which.

waiting --claim--> holding --decide--> stopping --stopped--> closing --settle--> settled
                               lose: any of these --> lost --stopped--> gone

`stores/states.py` has the states of the row. This is what one process knows and does besides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from coordinator.assistants.ports import ThreadStates
from coordinator.context import RunContext
from coordinator.runs.kept import Result
from coordinator.runs.latch import Latch
from coordinator.schemas import Abort, Json
from stores.rows import Outcome, Ownership


class Hold:
    """The run as the holder of its thread, or with fence 0 beside it. `since`: on the monotonic clock (s)."""

    __slots__ = ("context", "own", "retrying", "rollback_ref", "since", "started", "states")

    def __init__(self, own: Ownership, since: float) -> None:
        self.own, self.since = own, since
        self.started = False
        self.context: RunContext | None = None
        self.states: ThreadStates | None = None
        self.rollback_ref: Json = None
        self.retrying = False
        """Another attempt of its rollback is asked for, and not answered: it may have a newer fence."""

    def close(self) -> None:
        """From here on no write of the run's fence is accepted from this process. Idempotent."""
        if self.context is not None:
            self.context.close()
        if self.states is not None:
            self.states.close(self.own.thread_id, self.own.fence)

    def release(self) -> None:
        """Drop what only a run that is not over needs: records stay for a while, and contexts are large."""
        self.context = self.states = None
        self.rollback_ref = None


class End:
    """How the run is to end, before its row says it. `unwritten`: a decision that the store has not taken."""

    __slots__ = ("outcome", "unwritten")

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.unwritten: Abort | None = None


@dataclass(slots=True, eq=False)
class Waiting:
    """Admitted, without its thread. `turn` is set when it leaves this state."""

    end: End = field(default_factory=End)
    turn: Latch = field(default_factory=Latch)
    hold: ClassVar[None] = None
    abort: ClassVar[None] = None
    elsewhere: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Holding:
    """It has its thread, and nothing is decided over it: its code may begin, and go on."""

    end: End
    hold: Hold
    abort: ClassVar[None] = None
    elsewhere: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Stopping:
    """Decided, and its task was told why. `hold` is None where that came before its turn."""

    end: End
    hold: Hold | None
    abort: Abort
    elsewhere: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Closing:
    """It has stopped, or is given up: nothing of its code is accepted, its end is being written. A decision
    that comes now is kept in `abort`."""

    end: End
    hold: Hold
    abort: Abort | None
    elsewhere: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Lost:
    """Another worker executes or ends the run: its task is to stop, and nothing more is written."""

    hold: Hold | None
    abort: Abort | None
    end: ClassVar[None] = None
    elsewhere: ClassVar[bool] = True


@dataclass(slots=True, eq=False)
class Settled:
    """Its thread is free of it, and its row says how it ended."""

    hold: Hold | None
    abort: Abort | None
    result: Result
    end: ClassVar[None] = None
    elsewhere: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Gone:
    """It was lost and has stopped here: only the store knows how it ends."""

    hold: Hold | None
    abort: Abort | None
    end: ClassVar[None] = None
    elsewhere: ClassVar[bool] = True


State: TypeAlias = Waiting | Holding | Stopping | Closing | Lost | Settled | Gone

TRANSITIONS: dict[type[State], frozenset[type[State]]] = {
    Waiting: frozenset({Holding, Stopping, Closing, Settled, Lost}),
    Holding: frozenset({Stopping, Closing, Lost}),
    Stopping: frozenset({Closing, Settled, Lost}),
    Closing: frozenset({Settled, Lost}),
    Lost: frozenset({Gone}),
    Settled: frozenset(),
    Gone: frozenset(),
}
"""A run that holds its thread settles from `Closing` alone; `Stopping` settles where it never had it."""
