"""Admits runs: `create`, `create_or_reject`. A run is admitted to its thread, or refused with a reason."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol

from coordinator.assistants.configured import keys_of_thread, of_new_thread
from coordinator.assistants.ports import Assistant, retries_of
from coordinator.assistants.registry import Assistants
from coordinator.assistants.values import StoredValues
from coordinator.clock import Stamps
from coordinator.errors import (
    ConflictError,
    CoordinatorError,
    Draining,
    EpochDead,
    LeaseLost,
    StoreUnavailable,
)
from coordinator.ids import new_run_id
from coordinator.lock import SlotLock
from coordinator.record import RunRecord, record_from_row, record_of
from coordinator.runs.busy import BusyThreads
from coordinator.runs.cancellation import Delivery
from coordinator.runs.capacity import Capacity
from coordinator.runs.children import with_user_of_parent
from coordinator.runs.dispatch import Dispatch
from coordinator.runs.entry import Entry
from coordinator.runs.idempotency import hash_of
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.jobs import Jobs, through
from coordinator.runs.limits import NO_LIMITS
from coordinator.runs.patience import Patience
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.runs.specs import check_takes, limits_in, seconds
from coordinator.runs.thread_queue import ThreadQueue
from coordinator.runs.timeouts import Timeouts
from coordinator.runs.users import user_of
from coordinator.runs.work import Continuation
from coordinator.schemas import Strategy
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunAdmitted, RunRefused
from stores.base import AdmissionStore, ReadStore, RecordStore
from stores.optional import EchoingStore
from stores.outbox import Outbox
from stores.retry import is_unique_violation
from stores.rows import Admission, Decision, Limits, Ownership
from stores.spec import AdmissionRequest, RunSpec
from stores.states import OPEN

logger = logging.getLogger(__name__)

UNIQUE_TRIES = EPOCH_TRIES = 3


async def _no_sweep() -> None:
    """For a store without workers that could be dead."""


class AdmittingStore(AdmissionStore, RecordStore, ReadStore, Protocol):
    """Store operations that admission uses."""


class Admissions:
    def __init__(
        self,
        store: AdmittingStore,
        registry: Registry,
        *,
        slots: SlotLock,
        worker: Incarnation,
        settlement: Settlement,
        queue: ThreadQueue,
        delivery: Delivery,
        timeouts: Timeouts,
        jobs: Jobs,
        outbox: Outbox,
        telemetry: Telemetry,
        stamps: Stamps,
        limits: Limits,
        assistants: Assistants,
        values: StoredValues,
        capacity: Capacity,
        patience: float,
        dispatch: Dispatch,
        swept: Callable[[], Awaitable[None]] = _no_sweep,
    ) -> None:
        self._store, self._registry, self._slots, self._worker = store, registry, slots, worker
        self._echoing = store if isinstance(store, EchoingStore) else None
        self._settlement, self._delivery, self._jobs, self._outbox = settlement, delivery, jobs, outbox
        self._queue = queue
        self._telemetry, self._stamps, self._limits = telemetry, stamps, limits
        self._assistants, self._values, self._swept = assistants, values, swept
        self._timeouts, self._capacity, self._patient_for = timeouts, capacity, patience
        self._dispatch = dispatch
        self._busy = BusyThreads(store, slots)

    async def insert(self, spec: RunSpec) -> RunRecord:
        """Creates a pending run without the one-run-per-thread rule."""
        self._dispatch.check_executes()
        run_id = new_run_id()
        self._outbox.check_room()
        patience = self._patience()
        epoch = self._worker.ready_at_once() or await patience.attempt(self._worker.ready)
        await self._swept()
        request = AdmissionRequest(run_id, spec, self._stamps.now(), request_hash=hash_of(spec))
        with self._registry.admitting(spec.thread_id, run_id):
            try:
                admission, epoch = await patience.attempt(
                    lambda: self._in_live_epoch(epoch, lambda epoch: self._store.insert(request, epoch=epoch))
                )
            except asyncio.CancelledError:
                await self._undo(self._take_back(request), request)
                raise
            except StoreUnavailable:
                self._resolve(request)
                raise
            own = Ownership(run_id, spec.thread_id, epoch, admission.fence)
            return self.register(request, admission, own)

    async def admit(self, spec: RunSpec, *, start: bool = False, validated: bool = False) -> RunRecord:
        """Admits a run, atomically against every other admission on the thread, on any worker. `start` and
        `validated`: see `RunManager.admit`.

        Returns when the new run and the decisions over replaced runs are committed; does not wait for the
        replaced tasks. Raises InvalidArgument (the assistant refuses the request), ConflictError, QueueFull,
        ThreadNotFound, Draining, OutboxFull, StoreError.
        """
        run_id, request_hash = new_run_id(), hash_of(spec)
        spec, assistant = self._resolved(await with_user_of_parent(spec, self._registry, self._store))
        if assistant is not None and not validated:
            check_takes(assistant, spec)
        self._outbox.check_room()
        await self._registry.settling.over(spec.thread_id)
        patience = self._patience()
        epoch = self._worker.ready_at_once() or await patience.attempt(self._worker.ready)
        await self._swept()
        request = self._request(run_id, spec, request_hash, assistant, start=start)
        with self._registry.admitting(spec.thread_id, run_id):
            try:
                return await self._admitted(request, epoch, patience)
            except asyncio.CancelledError:
                await self._undo(self._interrupt(request), request)
                raise
            except StoreUnavailable:
                self._resolve(request)
                raise
            except ConflictError as conflict:
                self._telemetry.emit(RunRefused(spec.thread_id, conflict.active_run_id))
                raise

    def _request(
        self, run_id: str, spec: RunSpec, body: str | None, assistant: Assistant | None, *, start: bool
    ) -> AdmissionRequest:
        """Returns the request to the store. `body`: its hash. Raises InvalidArgument, see `Dispatch`."""
        delay = spec.delay_ms
        created_at = self._stamps.now() if delay is None else self._stamps.later(delay)
        request = AdmissionRequest(run_id, spec, created_at, request_hash=body)
        if assistant is None:
            if spec.kind == "run":
                self._dispatch.check_executes()
            return request
        may_start = not (self._capacity.limited or self._dispatch.admit_only)  # else it may have to wait
        keys = keys_of_thread(self._assistants, spec.assistant_id or assistant.name, spec.metadata)
        return request._replace(
            portable=True,
            thread_metadata=keys,
            new_thread_metadata=of_new_thread(spec.metadata, keys),
            start_ref=self._values.start_ref(assistant.states) if start and may_start else None,
            dispatched=self._dispatch.admit_only,
        )

    def _resolved(self, spec: RunSpec) -> tuple[RunSpec, Assistant | None]:
        """Returns the spec with the name of its assistant in place of its UUID, and the assistant if it is
        registered, which makes the run portable; None for an operation."""
        named = self._assistants.name_of(spec.assistant_id)
        if named != spec.assistant_id:
            spec = replace(spec, assistant_id=named)
        assistant = self._assistants.get(named)
        if assistant is None or spec.kind != "run":
            return spec, None
        if (retries := retries_of(assistant)) != spec.retries:
            spec = replace(spec, retries=retries)
        return spec, assistant

    def _patience(self) -> Patience:
        return Patience(self._patient_for, self._worker.drain_event.is_set)

    async def _admitted(self, request: AdmissionRequest, epoch: int, patience: Patience) -> RunRecord:
        spec = request.spec
        if spec.multitask_strategy == Strategy.reject and spec.idempotency_key is None:
            await self._busy.refuse(request, patience)
        admission, epoch = await patience.attempt(partial(self._admit, request, epoch))
        if admission.run_id != request.run_id:
            return await self._existing(admission.run_id)
        record = self._added(request, admission, epoch)
        for decision in admission.replaced:
            await self._delivery.deliver(decision)
        if patience.failed:  # an attempt whose response was lost may have replaced them
            for other in self._open_beside(request):
                await self._delivery.refresh_from_store(other)
        if admission.replaced:
            await self._echoed([decision.run_id for decision in admission.replaced])
        # Only for the first run that waits: the end of each run claims the thread for the next one.
        if spec.delay_ms is None and self._registry.is_first(spec.thread_id, request.run_id):
            self._jobs.spawn(self._queue.claim(spec.thread_id), f"claiming thread {spec.thread_id!r}")
        return record

    def _added(self, request: AdmissionRequest, admission: Admission, epoch: int) -> RunRecord:
        """Raises LeaseLost if the epoch has ended since, unless a later one of this worker has claimed the
        thread for the run."""
        if request.dispatched:
            return self._dispatch.admitted(request, admission)
        if self._registry.under_way(request.run_id) is not None:  # in a later epoch, perhaps lost since
            raise LeaseLost(epoch)
        spec = request.spec
        own = Ownership(request.run_id, spec.thread_id, epoch, admission.fence) if admission.holds else None
        record = self.register(request, admission, own)
        entry = self._registry.entry(request.run_id)
        if entry is not None and entry.own is None:  # else `register` has checked the epoch that owns it
            self._check_epoch(entry, epoch)
        return record

    def register(
        self, request: AdmissionRequest, admission: Admission, own: Ownership | None, taken_over: bool = False
    ) -> RunRecord:
        """Adds an admitted run to this worker. `taken_over`: another worker has admitted it, and has emitted
        RunAdmitted. Raises LeaseLost if the worker was fenced meanwhile."""
        spec = request.spec
        if admission.ended(spec.parent_run_id):
            spec = replace(spec, parent_run_id=None)
        record = record_of(request.run_id, spec, request.created_at)
        record.user = user_of(spec)
        entry = self._registry.add(record, own)
        if entry.own != own:  # a claim, perhaps of a later epoch, came before the answer to the admission
            own, admission = entry.own, admission._replace(started=None)
        entry.temporary = admission.temporary and spec.idempotency_key is None  # else it is to be found again
        entry.operation = spec.kind == "op"
        if not (entry.operation or taken_over):
            event = RunAdmitted(request.run_id, spec.thread_id, spec.multitask_strategy, admission.holds)
            self._telemetry.emit(event)
        entry.work.continuation = Continuation(spec.retries) if request.portable else None
        if admission.started is not None and (hold := entry.state.hold) is not None:
            hold.start = admission.started
        delay = seconds(spec.delay_ms) or 0.0
        if (limits := limits_in(spec)) != NO_LIMITS:
            entry.limits = limits
            self._timeouts.waits(entry, delay)
        if delay and own is None:
            self._queue.claim_when_due(entry, delay)
        if own is not None:
            self._check_epoch(entry, own.epoch)
        if self._registry.needs_refresh(request.run_id):
            self._jobs.spawn(
                self._delivery.refresh_from_store(request.run_id), f"refreshing run {request.run_id!r}"
            )
        if admission.holds and own is not None:
            self._slots.bind(spec.thread_id, request.run_id, fence=own.fence)
        return record

    def _check_epoch(self, entry: Entry, epoch: int) -> None:
        """Drops the run and raises LeaseLost if the worker was fenced while the row was written: the fencing
        dropped only the runs that were registered by then."""
        try:
            self._worker.check(epoch)
        except LeaseLost as error:
            self._settlement.lose(entry, str(error))
            raise

    async def _existing(self, run_id: str) -> RunRecord:
        """Returns the run that an idempotency key was used for. The worker that admitted it executes it."""
        known = self._registry.records.get(run_id)
        if known is not None:
            record = RunRecord(**{name: getattr(known, name) for name in known.__dataclass_fields__})
        else:
            row = await self._store.get(run_id)
            if row is None:
                raise StoreUnavailable(f"run {run_id!r} was deleted while it was read")
            record = record_from_row(row)
        record.already_admitted = True
        return record

    # -- the write

    async def _admit(self, request: AdmissionRequest, epoch: int) -> tuple[Admission, int]:
        """Returns the store's admission and the epoch that it is valid for."""
        for _ in range(UNIQUE_TRIES):
            try:
                return await self._in_live_epoch(
                    epoch, lambda epoch: self._store.admit(request, epoch=epoch, limits=self._limits)
                )
            except Exception as error:
                if not is_unique_violation(error):
                    raise
        raise ConflictError(request.spec.thread_id, await self._store.holder(request.spec.thread_id))

    async def _in_live_epoch(
        self, epoch: int, write: Callable[[int], Awaitable[Admission]]
    ) -> tuple[Admission, int]:
        """Calls `write` with `epoch`, and again with the next epoch if this one was declared dead meanwhile.
        Raises LeaseLost after EPOCH_TRIES dead epochs."""
        for _ in range(EPOCH_TRIES):
            try:
                return await write(epoch), epoch
            except EpochDead as error:
                if self._worker.drain_event.is_set():  # the worker is live, but draining
                    raise Draining from None
                self._worker.fenced(epoch, str(error))
            epoch = await self._worker.ready()
        raise LeaseLost(epoch)

    # -- the caller was cancelled, or the response was lost: the write may be committed

    def _resolve(self, request: AdmissionRequest) -> None:
        """Withdraws an admission whose response was lost. If its row was committed, it would hold its thread
        for ever: the caller got an error, so no worker executes the run."""
        if self._registry.entry(request.run_id) is None:
            self._registry.taking_back(request.run_id)
            self._jobs.spawn(self._take_back(request), f"taking back run {request.run_id!r}")

    async def _undo(self, undoing: Coroutine[object, object, object], request: AdmissionRequest) -> None:
        """Completes `undoing` before CancelledError reaches the caller, however often that is cancelled."""
        with suppress(CoordinatorError):  # logged by the job; the caller gets its CancelledError
            await through(self._jobs.spawn(undoing, f"taking back run {request.run_id!r}"))

    async def _interrupt(self, request: AdmissionRequest) -> None:
        """If the row was committed, the run was admitted: interrupts it, in memory as in the store. The runs
        that it replaced stay replaced, and their decisions are delivered."""
        others = self._open_beside(request)
        decision = await self._take_back(request)
        if decision is None:
            return
        if self._registry.entry(request.run_id) is None and not request.dispatched:
            self.register(request, Admission(request.run_id, holds=False, fence=0, seq=0), None)
        await self._delivery.deliver(decision)
        for run_id in others:
            await self._delivery.refresh_from_store(run_id)
        await self._echoed(others)

    def _open_beside(self, request: AdmissionRequest) -> list[str]:
        return [
            record.run_id
            for record in self._registry.of_thread(request.spec.thread_id)
            if record.run_id != request.run_id and record.status in OPEN
        ]

    async def _take_back(self, request: AdmissionRequest) -> Decision | None:
        """Withdraws the run, and returns the decision over it; None if no row was committed. A run that was
        admitted in an epoch that has ended since is ended together with that epoch."""
        epoch = self._worker.epoch
        self._registry.taking_back(request.run_id)
        try:
            decision = await self._outbox.deliver(
                request.run_id,
                epoch,
                "an admission that is withdrawn",
                lambda: self._store.withdraw(request.run_id, epoch=epoch),
            )
            if request.dispatched and decision is not None:
                decision = await self._dispatch.withdraw(request, decision, epoch)
        finally:
            self._registry.taken_back(request.run_id)
        if decision is not None:
            self._slots.release(request.spec.thread_id, request.run_id, fence=decision.fence)
            await self._queue.claim(request.spec.thread_id)
        return decision

    async def _echoed(self, run_ids: Iterable[str]) -> None:
        if self._echoing is not None:
            await self._echoing.echoed(run_ids)
