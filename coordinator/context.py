"""RunContext: the interface between a run's code and the coordinator."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from coordinator.arguments import check_model_name
from coordinator.errors import InvalidArgument, StaleFence
from coordinator.record import PROGRESS_FIELDS, RunRecord
from coordinator.schemas import Abort, Json, RunRequest, User
from stores.tasks import AnyFuture

current_run: ContextVar[RunContext | None] = ContextVar("current_run", default=None)
"""The run that executes this code; inherited by tasks and `asyncio.to_thread` calls that it starts."""


REPORTED = (*PROGRESS_FIELDS, "model_name")
"""The keyword arguments of `RunContext.progress`."""


class ContextServices(Protocol):
    """What a context calls on the worker that executes its run."""

    def check(self) -> None:
        """Raise LeaseLost if this worker's lease no longer permits writes for its runs."""
        ...

    def emit(self, mode: str, data: Json) -> Awaitable[None]: ...
    def show(self, values: Json, *, if_changed: bool = False) -> Awaitable[None]:
        """Emit the thread's values, of any size. With `if_changed`, skip them if equal to the last emitted
        ones."""
        ...

    def close(self) -> None:
        """Stop emitting for the run. Called once."""
        ...

    def save(self, values: Json) -> Awaitable[None]: ...
    def progress(self, model_name: str | None) -> None:
        """Schedule a write of the record's counters and `model_name` (None = unchanged)."""
        ...

    def abort(self) -> Abort | None: ...


@dataclass(eq=False)
class RunContext:
    """Passed to the run's code. `fence` belongs in every write of state that the code makes itself.

    `abort_event` is set when the run must stop (`abort` holds the reason), `drain_event` when the worker
    drains: a run that can stop early should do so.
    """

    run: RunRecord
    fence: int
    attempt: int
    values: Json
    drain_event: asyncio.Event
    services: ContextServices
    tracked: set[AnyFuture] = field(default_factory=set[AnyFuture])

    def __post_init__(self) -> None:
        self.closed = False
        self.saved = False
        self.input: Json = self.request.input
        """The input of the request: an instance of the assistant's input model, if it has one."""

    @property
    def abort_event(self) -> asyncio.Event:
        return self.run.abort_event

    @property
    def abort(self) -> Abort | None:
        return self.services.abort()

    @property
    def user(self) -> User | None:
        return None if self.run.user_id is None else User(self.run.user_id)

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
        """Emit the values that the thread will have, unless equal to the last emitted ones. Raises as `emit`,
        except for values that are too large: these are missing in the log."""
        self.check()
        await self.services.show(values, if_changed=True)

    async def emit(self, mode: str, data: Json) -> None:
        """Append an event to the run's log (mode `"custom"`, `"updates|subgraph"` …).

        Waits for the log's acknowledgement for at most `event_budget` s. After that the event is buffered,
        within bounds, and appended when the log is reachable again; followers receive a gap for dropped
        events. Allowed while the run unwinds, not after it has stopped. Raises as `check`, and
        InvalidArgument for data that is not JSON or larger than `event_max_bytes`."""
        self.check()
        await self.services.emit(mode, data)

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


def _retrieve_exception(future: AnyFuture) -> None:
    """Retrieve the exception, so that asyncio does not log "exception was never retrieved". The code that
    started the work handles its failure."""
    if not future.cancelled():
        future.exception()
