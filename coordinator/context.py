"""RunContext: the interface between a run's code and the coordinator."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from coordinator.arguments import check_extra, check_json, check_model_name, check_status, check_text
from coordinator.errors import InvalidArgument, StaleFence
from coordinator.record import PROGRESS_FIELDS, RunRecord
from coordinator.schemas import Abort, Json, RunRequest, RunStatus, User
from stores.json_values import JsonObject
from stores.states import TERMINAL
from stores.tasks import AnyFuture

current_run: ContextVar[RunContext | None] = ContextVar("current_run", default=None)
"""The run or operation that executes this code: `current_run.get()` carries `fence`, `run.run_id` and
`run.thread_id`, which a storage of state checks in its transaction.

Inherited by tasks, and by `asyncio.to_thread` calls, that the code starts. A thread that was started by hand
inherits nothing: a storage must refuse writes without a run, and those to another thread than the run's."""


REPORTED = (*PROGRESS_FIELDS, "model_name")
"""The keyword arguments of `RunContext.progress`."""


class ContextServices(Protocol):
    """What a context calls on the worker that executes its run."""

    def check(self) -> None:
        """Raise LeaseLost if this worker's lease no longer permits writes for its runs."""
        ...

    def emit(self, mode: str, data: Json) -> Awaitable[None]: ...
    def emit_encoded(self, mode: str, data: bytes) -> Awaitable[None]: ...
    def show(self, values: Json, *, if_changed: bool = False) -> Awaitable[None]:
        """Emit the thread's values. With `if_changed`, skip them if equal to the last emitted ones."""
        ...

    def end_messages(self) -> Awaitable[None]:
        """Emit the end of a message that is open, if the request is one of the streaming protocol."""
        ...

    def close(self) -> None:
        """Stop emitting for the run. Called once."""
        ...

    def save(self, values: Json) -> Awaitable[None]: ...
    def touch(self) -> None: ...
    def progress(self, model_name: str | None) -> None:
        """Schedule a write of the record's counters and `model_name` (None = unchanged)."""
        ...

    def abort(self) -> Abort | None: ...


def _no_node(context: Context) -> str | None:
    del context
    return None


@dataclass(eq=False)
class RunContext:
    """Passed to the run's code. `fence` belongs in every write of state that the code makes itself.

    `abort_event` is set when the run must stop (`abort` holds the reason), `drain_event` when the worker
    drains: a run that can stop early should do so. `portable`: another worker may continue it; then it stops
    with `Outcome(drained=True)`. `opened`: what `ThreadStates.open` returned for this run; None for a run
    beside its thread (fence 0). `node_in`: set by assistants that run graphs, returns the node that the code
    with this context belongs to; called from other threads, for messages.
    """

    run: RunRecord
    fence: int
    attempt: int
    values: Json
    user: User | None
    drain_event: asyncio.Event
    services: ContextServices
    tracked: set[AnyFuture] = field(default_factory=set[AnyFuture])
    opened: Json = None
    portable: bool = False
    node_in: Callable[[Context], str | None] = _no_node

    def __post_init__(self) -> None:
        self.closed = False
        self.saved = False
        self.emitted_updates = False
        self.input: Json = self.request.input
        """The input of the request: an instance of the assistant's input model, if it has one."""

    @property
    def abort_event(self) -> asyncio.Event:
        return self.run.abort_event

    @property
    def abort(self) -> Abort | None:
        return self.services.abort()

    @cached_property
    def request(self) -> RunRequest:
        return RunRequest.of(self.run.kwargs, self.run.metadata)

    def check(self) -> None:
        """Raise LeaseLost or StaleFence if this run may no longer act. Does no I/O."""
        if self.closed:
            raise StaleFence(self.run.thread_id, self.fence)
        self.services.check()

    @property
    def over(self) -> bool:
        """The run's code has ended or was abandoned."""
        return self.closed or (self.run.task is not None and self.run.task.done())

    def close(self) -> None:
        """Reject all further calls of the run's code. Called by the worker when the run has stopped or was
        abandoned. Idempotent."""
        if not self.closed:
            self.closed = True
            self.services.close()

    async def save(self, values: Json) -> None:
        """Write the thread's values under this run's fence. Raises StaleFence, LeaseLost."""
        self.check()
        await self.services.save(values)
        self.saved = True
        self.values = values
        await self.services.show(values)

    async def show(self, values: Json) -> None:
        """Emit the values that the thread will have, unless equal to the last emitted ones. Raises as
        `emit`."""
        self.check()
        await self.services.show(values, if_changed=True)

    async def emit(self, mode: str, data: Json) -> None:
        """Append an event to the run's log (mode `"custom"`, `"updates|subgraph"` …).

        Waits for the log's acknowledgement for at most `event_budget` s. After that the event is buffered,
        within bounds, and appended when the log is reachable again; followers receive a gap for dropped
        events. In place of an event larger than `event_max_bytes` an event `omitted` is appended, which names
        its mode and size. Allowed while the run unwinds, not after it has stopped. Raises as `check`, and
        InvalidArgument for data that is not JSON, and for a mode that is empty or has control characters."""
        self.check()
        if mode == "updates":
            self.emitted_updates = True
        await self.services.emit(mode, data)

    async def emit_encoded(self, mode: str, data: bytes) -> None:
        """As `emit`, of JSON that the caller has encoded (UTF-8). It is not parsed: invalid JSON reaches the
        followers as it is. Raises InvalidArgument if it is not UTF-8."""
        self.check()
        await self.services.emit_encoded(mode, data)

    def touch(self) -> None:
        """Record a sign of life, which every event, save and report of progress is too. For assistants that
        keep their state elsewhere. Does no I/O; raises nothing."""
        if not self.closed:
            self.services.touch()

    def progress(self, **counters: Json) -> None:
        """Report token and message counters and `model_name`; omitted or None fields are unchanged. Written
        asynchronously, best effort. Raises as `check`, and InvalidArgument for an unknown name."""
        if unknown := [name for name in counters if name not in REPORTED]:
            raise InvalidArgument(unknown[0], f"is not known; the names are {', '.join(REPORTED)}")
        self.check()
        self.run.take(counters, PROGRESS_FIELDS)
        self.services.progress(check_model_name(counters.get("model_name")))

    # Any: of any result; their type is invariant.
    def track(self, future: AnyFuture | concurrent.futures.Future[Any]) -> AnyFuture:
        """Register work that may outlive the run's task (thread jobs, background writes): the run settles
        only after it is done.

        Await the returned future, not `future`: a cancel of the run then cancels only the await. Awaiting
        the future of `run_in_executor` directly would mark it as cancelled while its thread still runs.
        """
        work = future if isinstance(future, asyncio.Future) else asyncio.wrap_future(future)
        self.tracked.add(work)
        work.add_done_callback(self._untrack)
        result = asyncio.shield(work)
        result.add_done_callback(_retrieve_exception)
        return result

    def _untrack(self, future: AnyFuture) -> None:
        self.tracked.discard(future)
        _retrieve_exception(future)


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run as a block of its caller has decided it."""

    status: RunStatus
    error: str | None = None
    result: Json = None
    extra: JsonObject | None = None


class BlockContext(RunContext):
    """Yielded by `RunManager.running`: the context of a run whose code is a block of the caller's task."""

    ending: Ending | None = None

    def end(
        self,
        status: RunStatus | str,
        *,
        error: str | None = None,
        result: Json = None,
        extra: JsonObject | None = None,
    ) -> None:
        """Decide how the run ends when the block is left, also if the block raises afterwards. The last call
        counts; a cancel or time limit that was committed before takes precedence. `result`: what `wait`
        returns. `extra`: merged into the run's own fields before it settles. Raises InvalidArgument, also for
        a status that is not terminal."""
        ended = check_status(status)
        if ended not in TERMINAL:
            raise InvalidArgument("status", f"must be a terminal one, not {ended.value!r}")
        if extra is not None:
            check_extra({**self.run.extra, **check_extra(extra)})
        self.ending = Ending(ended, check_text("error", error), check_json("result", result), extra)


def _retrieve_exception(future: AnyFuture) -> None:
    """Retrieve the exception, so that asyncio does not log "exception was never retrieved". The code that
    started the work handles its failure."""
    if not future.cancelled():
        future.exception()
