"""`manager.runs`: rows of runs, bulk cancels, and deletion."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol, get_args

from coordinator import arguments as check
from coordinator.errors import InvalidArgument, RunNotFound
from coordinator.event_log import EventLog
from coordinator.runs.cancellation import Cancellations
from coordinator.runs.extras import Extras
from coordinator.runs.positions import positions
from coordinator.runs.registry import Registry
from coordinator.runs.unclaimed import waits_for
from coordinator.schemas import CancelAnswer, Cause, Phase, Receipt
from stores.base import AdmissionStore, ReadStore
from stores.catalogue import CatalogueStore, Heavy
from stores.event_loop import HomeLoop
from stores.finding import FindingStore, ListPosition, RunQuery
from stores.json_values import JsonObject
from stores.pages import Page
from stores.projections import PendingChange, ProjectionStore
from stores.rows import RunRow, Transition

InFlight = Literal["pending", "running", "all"]

MAX_IDS = 100_000
"""Default limit of `cancellable_ids`."""
PAGE = 500
"""The number of concurrent cancels of `cancel`."""


class RunStore(CatalogueStore, FindingStore, ReadStore, AdmissionStore, Protocol):
    """Store operations of `Runs`."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The row of a run and its history: decisions with actor, time and reason."""

    run: RunRow
    phase: Phase
    position: int | None
    """Position in the queue of its thread, in which no run of another thread counts; if it holds its thread,
    among the runs that wait for a place of its worker. None = it does not wait."""
    holder: str | None
    """The run that holds the thread, if it is another one."""
    transitions: tuple[Transition, ...]
    waits_for: str | None = None
    """What the run waits for if it is queued and its thread is free: a worker with a place, any worker that
    executes its assistant, or the run before it."""
    pending_changes: tuple[PendingChange, ...] = ()
    """Changes of the run that projections do not have yet."""


class Cancelled(NamedTuple):
    """`cancelled` are interrupted, by this call or another; `ended` had ended otherwise, or are unknown."""

    cancelled: int = 0
    ended: int = 0


class Runs:
    """Rows come from the store, so every worker returns the same.

    `user_id` restricts a call to that user's runs: another user's run is unknown.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        home: HomeLoop,
        registry: Registry,
        event_log: EventLog,
        cancellations: Cancellations,
        extras: Extras,
    ) -> None:
        self._extras = extras
        self._store, self._home, self._registry = store, home, registry
        self._event_log, self._cancellations = event_log, cancellations

    # -- one run

    async def get(self, run_id: str, *, thread_id: str | None = None, user_id: str | None = None) -> RunRow:
        """The run's row; with `thread_id`, only if it is on that thread. Raises RunNotFound, also for a run
        that was rolled back."""
        self._home.check()
        row = await self._store.run(
            check.check_id("run_id", run_id),
            thread_id=check.check_optional_id("thread_id", thread_id),
            user_id=check.check_optional_id("user_id", user_id),
        )
        if row is None:
            raise RunNotFound(run_id)
        return row

    async def explain(self, run_id: str, *, user_id: str | None = None) -> Explanation:
        """The run's row, queue position and history. Raises RunNotFound."""
        self._home.check()
        row = await self._row(run_id, user_id)
        holder = await self._store.holder(row.thread_id)
        return Explanation(
            run=row,
            phase=row.phase,
            position=await self.position(row),
            holder=holder if holder != run_id else None,
            transitions=tuple(await self._store.transitions(run_id)),
            waits_for=await waits_for(self._store, row),
            pending_changes=await self._pending_changes(run_id),
        )

    async def _pending_changes(self, run_id: str) -> tuple[PendingChange, ...]:
        store = self._store
        return tuple(await store.pending_changes(run_id)) if isinstance(store, ProjectionStore) else ()

    async def position(self, run: RunRow) -> int | None:
        """The position, from 1, in the queue of the run's thread, in which no run of another thread counts;
        if it holds its thread and waits for a place of its worker, among the older runs that wait there.
        None = it does not wait. One read."""
        self._home.check()
        return (await positions(self._store, [run])).get(run.run_id)

    async def cancel_one(
        self,
        run_id: str,
        *,
        action: str = "interrupt",
        reason: str | None = None,
        actor: str | None = None,
        cause: Cause | str = Cause.user,
        user_id: str | None = None,
        wait: float | None = None,
    ) -> CancelAnswer:
        """As `RunManager.cancel`, but the answer names the decision that counts and the worker of the run. It
        is true where `RunManager.cancel` returns True."""
        self._home.check()
        return await self._cancellations.cancel(
            check.check_id("run_id", run_id),
            action=check.check_action(action),
            cause=check.check_cause(cause),
            reason=check.check_text("reason", reason),
            actor=check.check_text("actor", actor),
            user_id=check.check_optional_id("user_id", user_id),
            wait=None if wait is None else check.check_seconds("wait", wait),
        )

    async def receipt(self, run_id: str, *, user_id: str | None = None) -> Receipt:
        """The four times of a cancel. Raises RunNotFound."""
        self._home.check()
        row = await self._row(run_id, user_id)
        entry = self._registry.entry(run_id)
        return Receipt(
            run_id=run_id,
            status=row.status,
            phase=row.phase,
            action=row.cancel_action,
            cause=row.cancel_cause,
            reason=row.cancel_reason,
            actor=row.cancel_actor,
            requested=row.cancel_requested_at,
            delivered=row.cancel_delivered_at or (entry.work.delivered_at if entry is not None else None),
            stopped=row.stopped_at or (entry.work.stopped_at if entry is not None else None),
            settled=row.settled_at,
        )

    async def _row(self, run_id: str, user_id: str | None) -> RunRow:
        """Raises InvalidArgument, RunNotFound."""
        row = await self._store.row(
            check.check_id("run_id", run_id), user_id=check.check_optional_id("user_id", user_id)
        )
        if row is None:
            raise RunNotFound(run_id)
        return row

    async def thread_of_key(self, idempotency_key: str, *, user_id: str | None = None) -> str | None:
        """The thread of the run that this user has admitted with the key; the same request on that thread
        returns that run. None = the key is unused."""
        self._home.check()
        return await self._store.thread_of_key(
            check.check_id("idempotency_key", idempotency_key),
            user_id=check.check_optional_id("user_id", user_id),
        )

    async def update_extra(self, run_id: str, extra: JsonObject, *, user_id: str | None = None) -> JsonObject:
        """Merge `extra` key by key into the fields of the caller's own that are kept with the run, whatever
        its status, and return them. From any worker; the record in the memory of the run's worker shows what
        that worker has written. Raises RunNotFound; InvalidArgument if they would exceed 16 KiB."""
        self._home.check()
        merged = await self._extras.update(
            check.check_id("run_id", run_id),
            check.check_extra(extra),
            check.check_optional_id("user_id", user_id),
        )
        if merged is None:
            raise InvalidArgument("extra", f"would have more than {check.MAX_EXTRA} bytes of JSON")
        return merged

    async def delete(self, run_id: str, *, thread_id: str | None = None, user_id: str | None = None) -> None:
        """Remove a settled run with its audit and events. Raises RunNotFound; ConflictError while the run is
        in flight."""
        self._home.check()
        deleted = await self._store.delete_run(
            check.check_id("run_id", run_id),
            thread_id=check.check_optional_id("thread_id", thread_id),
            user_id=check.check_optional_id("user_id", user_id),
        )
        self._registry.removed(run_id)
        self._event_log.remove(deleted.thread_id, run_id)

    # -- many runs

    async def search(
        self,
        query: RunQuery | None = None,
        *,
        behind: ListPosition | None = None,
        limit: int = 100,
        user_id: str | None = None,
    ) -> list[RunRow]:
        """Rows that match, newest first. `behind`: the last row of the previous page."""
        self._home.check()
        return await self._store.find_runs(
            _checked(query),
            user_id=check.check_optional_id("user_id", user_id),
            behind=behind,
            limit=check.check_limit("limit", limit),
        )

    async def recent(
        self,
        *,
        thread_id: str | None = None,
        statuses: Sequence[str] = (),
        in_flight: bool = False,
        limit: int = 100,
    ) -> list[RunRow]:
        """Rows of all users, newest first, including operations and runs that were rolled back."""
        self._home.check()
        return await self._store.runs(
            thread_id=check.check_optional_id("thread_id", thread_id),
            statuses=check.check_statuses(statuses),
            in_flight=check.check_flag("in_flight", in_flight),
            limit=check.check_limit("limit", limit),
        )

    async def of_thread(
        self,
        thread_id: str,
        *,
        statuses: Sequence[str] = (),
        limit: int = 10,
        offset: int = 0,
        user_id: str | None = None,
        without: Collection[Heavy] = (),
        max_bytes: int | None = None,
    ) -> Page[RunRow]:
        """The thread's runs, newest first, without those that were rolled back. `statuses` are values of
        `RunRow.shown_status`; none = all. Fields in `without` are not read and stay empty. The page is `cut`
        if its JSON would exceed `max_bytes`. Raises ThreadNotFound."""
        self._home.check()
        return await self._store.thread_runs(
            check.check_id("thread_id", thread_id),
            statuses=check.check_statuses(statuses),
            limit=check.check_limit("limit", limit),
            offset=check.check_limit("offset", offset),
            user_id=check.check_optional_id("user_id", user_id),
            without=frozenset(without),
            max_bytes=max_bytes,
        )

    async def started(
        self, thread_id: str, *, after: int = 0, limit: int = 10, user_id: str | None = None
    ) -> list[RunRow]:
        """Runs that have taken the thread with a fence greater than `after`, in the order in which they did,
        also those that were rolled back. A run has the fence of its newest attempt. An unknown thread has
        none."""
        self._home.check()
        return await self._store.started_runs(
            check.check_id("thread_id", thread_id),
            after=check.check_limit("after", after),
            limit=check.check_limit("limit", limit),
            user_id=check.check_optional_id("user_id", user_id),
        )

    async def in_flight(
        self,
        status: InFlight = "all",
        *,
        thread_id: str | None = None,
        after: str | None = None,
        limit: int = 1000,
        user_id: str | None = None,
    ) -> list[RunRow]:
        """Runs that have not settled, with that shown status, by run id. `after`: the last id of the previous
        page. A run that is cancelled between two pages stays in the list until its task has stopped."""
        self._home.check()
        shown = check.check_choice("status", status, get_args(InFlight))
        return await self._store.inflight_runs(
            statuses=() if shown == "all" else (shown,),
            thread_id=check.check_optional_id("thread_id", thread_id),
            user_id=check.check_optional_id("user_id", user_id),
            after=check.check_optional_id("after", after) or "",
            limit=check.check_limit("limit", limit),
        )

    async def cancellable_ids(
        self, query: RunQuery | None = None, *, limit: int = MAX_IDS, user_id: str | None = None
    ) -> list[str]:
        """Ids of the runs that match and that a cancel would still change, in ascending order."""
        self._home.check()
        return await self._store.open_run_ids(
            _checked(query),
            user_id=check.check_optional_id("user_id", user_id),
            limit=check.check_limit("limit", limit),
        )

    async def cancel(
        self,
        run_ids: Sequence[str],
        *,
        action: str = "interrupt",
        reason: str | None = None,
        actor: str | None = None,
        cause: Cause | str = Cause.user,
        user_id: str | None = None,
        progress: Callable[[Cancelled], None] | None = None,
    ) -> Cancelled:
        """Cancel each run as `RunManager.cancel` does, with a decision, an audit and a signal of its own, a
        page at a time. `progress` is called after each page. After an error the runs that are already
        cancelled stay cancelled, the rest of the page is completed, and the next pages are not begun. Raises
        InvalidArgument, and as `RunManager.cancel`."""
        self._home.check()
        if isinstance(run_ids, str):
            raise InvalidArgument("run_ids", "must be a list of run ids, not a str")
        cancel = partial(
            self._cancellations.cancel,
            action=check.check_action(action),
            cause=check.check_cause(cause),
            reason=check.check_text("reason", reason),
            actor=check.check_text("actor", actor),
            user_id=check.check_optional_id("user_id", user_id),
            wait=None,
        )
        done = Cancelled()
        for start in range(0, len(run_ids), PAGE):
            page = [check.check_id("run_ids", run_id) for run_id in run_ids[start : start + PAGE]]
            answers = await asyncio.gather(*map(cancel, page), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
            cancelled = sum(map(bool, answers))
            done = Cancelled(done.cancelled + cancelled, done.ended + len(page) - cancelled)
            if progress is not None:
                progress(done)
        return done


def _checked(query: RunQuery | None) -> RunQuery:
    given = query or RunQuery()
    check.check_optional_id("thread_id", given.thread_id)
    check.check_optional_id("assistant_id", given.assistant_id)
    check.check_statuses(given.statuses)
    check.check_metadata(given.metadata)
    return given
