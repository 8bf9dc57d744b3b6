"""RunContext: what a run's code is given, and all that it may use of the coordinator."""

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

current_run: ContextVar[RunContext | None] = ContextVar("current_run", default=None)
"""Whose code this is: of the run's task, and of what it starts (tasks, `asyncio.to_thread`)."""


REPORTED = (*PROGRESS_FIELDS, "model_name")
"""What `RunContext.progress` takes."""


class ContextServices(Protocol):
    """What a context needs of the worker that runs it."""

    def check(self) -> None:
        """Raise LeaseLost once this worker may no longer act for its runs."""
        ...

    def emit(self, mode: str, data: Json) -> Awaitable[None]: ...
    def show(self, values: Json, *, if_changed: bool = False) -> Awaitable[None]:
        """Emit the thread's values, whatever their size; `if_changed`: unless the last ones were the same."""
        ...

    def close(self) -> None:
        """The run emits no more. Called once."""
        ...

    def save(self, values: Json) -> Awaitable[None]: ...
    def progress(self, model_name: str | None) -> None:
        """Write the counters of the record soon, and this name of its model (None = it stays as it is)."""
        ...

    def abort(self) -> Abort | None: ...


@dataclass(eq=False)
class RunContext:
    """Handed to the run's code. `fence` goes into every write of state that the code makes itself.

    `abort_event` is set when the run is to stop (`abort` says why), `drain_event` when the worker
    wants to leave and a run that can stop early should.
    """

    run: RunRecord
    fence: int
    attempt: int
    values: Json
    drain_event: asyncio.Event
    services: ContextServices
    tracked: set[asyncio.Future[Any]] = field(default_factory=set[asyncio.Future[Any]])

    def __post_init__(self) -> None:
        self.closed = False
        self.saved = False
        self.input: Any = self.request.input
        """What it was asked: an instance of the assistant's input model, where that has one."""

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
        """Raise LeaseLost or StaleFence where this run must not act any more. Cheap, no I/O."""
        if self.closed:
            raise StaleFence(self.run.thread_id, self.fence)
        self.services.check()

    @property
    def over(self) -> bool:
        """Its code has ended, or is given up."""
        return self.closed or (self.run.task is not None and self.run.task.done())

    def close(self) -> None:
        """For its worker: the run has stopped or is given up, nothing of it is accepted. Idempotent."""
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
        """Tell the run's watchers what the thread's values are going to be, unless they were told the same
        before. Raises as `emit`, but not where they are too large: then they are missing in the log."""
        self.check()
        await self.services.show(values, if_changed=True)

    async def emit(self, mode: str, data: Json) -> None:
        """Tell the run's watchers something (`"custom"`, `"updates|subgraph"`).

        Waits until the log has it, at most for `event_budget`: then the event is kept, within bounds, and
        appended when the log answers again; of what is dropped, followers are told a gap. Also accepted
        while the run unwinds; not after it has stopped. Raises as `check`, and InvalidArgument for what is
        no JSON or larger than `event_max_bytes`."""
        self.check()
        await self.services.emit(mode, data)

    def progress(self, **counters: Any) -> None:
        """A snapshot of token and message counters, and `model_name`. What is omitted or None stays as it is.
        Written soon, best effort. Raises InvalidArgument for a name that is none of these, and as `check`."""
        if unknown := [name for name in counters if name not in REPORTED]:
            raise InvalidArgument(unknown[0], f"is not known; the names are {', '.join(REPORTED)}")
        self.check()
        self.run.take(counters, PROGRESS_FIELDS)
        self.services.progress(check_model_name(counters.get("model_name")))

    def track(self, future: asyncio.Future[Any] | concurrent.futures.Future[Any]) -> asyncio.Future[Any]:
        """Work that outlives the run's task (thread jobs, background writes): the thread is not free
        before it is over.

        Await what this returns, not what it was given: a cancel of the run then ends the waiting and
        leaves the work alone. `run_in_executor` has no way to stop a thread, but a cancelled await of
        its future looks as if the job were over.
        """
        work = future if isinstance(future, asyncio.Future) else asyncio.wrap_future(future)
        self.tracked.add(work)
        work.add_done_callback(self._over)
        waiting = asyncio.shield(work)
        waiting.add_done_callback(_seen)
        return waiting

    def _over(self, future: asyncio.Future[Any]) -> None:
        self.tracked.discard(future)
        _seen(future)


def _seen(future: asyncio.Future[Any]) -> None:
    """Whoever owns the work handles its failure; nobody needs to be told that nobody looked."""
    if not future.cancelled():
        future.exception()
