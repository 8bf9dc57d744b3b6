"""create, create_or_reject: a run gets onto its thread, or a clear refusal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from coordinator import arguments as check
from coordinator.assistants.registry import Assistants
from coordinator.clock import Stamps
from coordinator.errors import (
    ConflictError,
    CoordinatorError,
    Draining,
    EpochDead,
    InvalidArgument,
    LeaseLost,
    StoreUnavailable,
)
from coordinator.ids import new_run_id
from coordinator.lock import SlotLock, SlotState
from coordinator.record import RunRecord, record_from_row
from coordinator.runs.cancellation import Delivery
from coordinator.runs.entry import Entry
from coordinator.runs.idempotency import body_hash
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.jobs import Jobs, through
from coordinator.runs.limits import NO_LIMITS, TimeLimits
from coordinator.runs.patience import Patience
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.runs.timeouts import Timeouts
from coordinator.runs.waiting_line import WaitingLine
from coordinator.schemas import DisconnectMode, RunRequest, RunStatus, Strategy
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunAdmitted, RunRefused
from stores.base import AdmissionStore, EchoingStore, RecordStore
from stores.crons import Firing
from stores.outbox import Outbox
from stores.retry import is_unique_violation
from stores.rows import Admission, Decision, Limits, NewRun, Ownership
from stores.sql.codec import as_stored
from stores.states import OPEN
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

UNIQUE_TRIES = EPOCH_TRIES = 3


async def _at_once() -> None:
    """Nobody has to be looked for first."""


class AdmittingStore(AdmissionStore, RecordStore, Protocol):
    """What admission needs of the store."""


def asked(
    *,
    thread_id: object,
    assistant_id: object = None,
    multitask_strategy: object = Strategy.reject,
    on_disconnect: object = DisconnectMode.cancel,
    metadata: object = None,
    kwargs: object = None,
    model_name: object = None,
    user_id: object = None,
    idempotency_key: object = None,
    parent_run_id: object = None,
    limits: TimeLimits = NO_LIMITS,
    after_seconds: object = None,
    webhook: str | None = None,
    firing: Firing | None = None,
    kind: str = "run",
) -> NewRun:
    """A new run with checked arguments. Raises InvalidArgument, UnsupportedStrategyError."""
    run = NewRun(
        run_id=new_run_id(),
        thread_id=check.check_id("thread_id", thread_id),
        created_at="",  # stamped when it is admitted
        kind=kind,
        user_id=check.check_optional_id("user_id", user_id),
        assistant_id=check.check_optional_id("assistant_id", assistant_id),
        multitask_strategy=check.check_strategy(multitask_strategy).value,
        on_disconnect=check.check_disconnect(on_disconnect).value,
        metadata=check.check_metadata(metadata),
        kwargs=as_stored(check.check_mapping("kwargs", kwargs)),
        model_name=check.check_model_name(model_name),
        idempotency_key=check.check_optional_id("idempotency_key", idempotency_key),
        parent_run_id=check.check_optional_id("parent_run_id", parent_run_id),
        timeout_ms=_millis(limits.timeout),
        idle_timeout_ms=_millis(limits.idle),
        queue_timeout_ms=_millis(limits.queue),
        delay_ms=_millis(check.check_delay("after_seconds", after_seconds)),
        webhook=webhook,
        firing=firing,
    )
    if run.idempotency_key is not None:
        run.request_hash = body_hash(run)
    return run


def _millis(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))


def _seconds(millis: int | None) -> float | None:
    return None if millis is None else millis / 1000


def _request(run: NewRun) -> RunRequest:
    try:
        return RunRequest.of(run.kwargs, run.metadata)
    except TypeError as error:
        raise InvalidArgument("kwargs", f"are no request of a run: {error}") from None


def _limits_of(run: NewRun) -> TimeLimits:
    return TimeLimits(_seconds(run.timeout_ms), _seconds(run.idle_timeout_ms), _seconds(run.queue_timeout_ms))


class Admissions:
    def __init__(
        self,
        store: AdmittingStore,
        registry: Registry,
        *,
        slots: SlotLock,
        worker: Incarnation,
        settlement: Settlement,
        line: WaitingLine,
        delivery: Delivery,
        timeouts: Timeouts,
        jobs: Jobs,
        outbox: Outbox,
        telemetry: Telemetry,
        stamps: Stamps,
        limits: Limits,
        assistants: Assistants,
        patience: float,
        swept: Callable[[], Awaitable[None]] = _at_once,
    ) -> None:
        self._store, self._registry, self._slots, self._worker = store, registry, slots, worker
        self._settlement, self._delivery, self._jobs, self._outbox = settlement, delivery, jobs, outbox
        self._line = line
        self._telemetry, self._stamps, self._limits = telemetry, stamps, limits
        self._assistants, self._swept = assistants, swept
        self._timeouts, self._patient_for = timeouts, patience
        self._verifying: dict[str, asyncio.Future[str | None]] = {}

    async def insert(self, new: NewRun) -> RunRecord:
        """A pending run without the one-run-per-thread rule."""
        self._outbox.check_room()
        patience = self._patience()
        epoch = self._worker.ready_at_once() or await patience.attempt(self._worker.ready)
        await self._swept()
        new.created_at = self._stamps.now()
        with self._registry.admitting(new.thread_id, new.run_id):
            try:
                admission, epoch = await patience.attempt(
                    lambda: self._in_live_epoch(epoch, lambda epoch: self._store.insert(new, epoch=epoch))
                )
            except asyncio.CancelledError:
                await self._undo(self._take_back(new), new)
                raise
            except StoreUnavailable:
                self._resolve(new)
                raise
            return self.register(new, admission, Ownership(new.run_id, new.thread_id, epoch, admission.fence))

    async def admit(self, new: NewRun) -> RunRecord:
        """Atomic against every other admission on the thread, on any worker.

        Returns when the new run and the decisions over replaced runs are written; it does not wait
        for the old tasks. Raises InvalidArgument (the assistant does not take it), ConflictError, QueueFull,
        ThreadNotFound, Draining, OutboxFull, StoreError.
        """
        self._validate(new)
        self._outbox.check_room()
        await self._registry.settling.over(new.thread_id)
        patience = self._patience()
        epoch = self._worker.ready_at_once() or await patience.attempt(self._worker.ready)
        await self._swept()
        new.created_at = self._stamps.now() if new.delay_ms is None else self._stamps.later(new.delay_ms)
        with self._registry.admitting(new.thread_id, new.run_id):
            try:
                return await self._admitted(new, epoch, patience)
            except asyncio.CancelledError:
                await self._undo(self._interrupt(new), new)
                raise
            except StoreUnavailable:
                self._resolve(new)
                raise
            except ConflictError as conflict:
                self._slots.release(new.thread_id, new.run_id, fence=0)
                self._telemetry.emit(RunRefused(new.thread_id, conflict.active_run_id))
                raise

    def _validate(self, new: NewRun) -> None:
        """A registered assistant says whether it takes this; its run is portable, and known by its name."""
        new.assistant_id = self._assistants.name_of(new.assistant_id)
        assistant = self._assistants.get(new.assistant_id)
        if assistant is not None and new.kind == "run":
            assistant.validate(_request(new))
            new.portable = True
            name = new.assistant_id or assistant.name
            new.thread_metadata = {"graph_id": name, "assistant_id": self._assistants.id_of(name)}

    def _patience(self) -> Patience:
        return Patience(self._patient_for, self._worker.drain_event.is_set)

    async def _admitted(self, new: NewRun, epoch: int, patience: Patience) -> RunRecord:
        if new.multitask_strategy == Strategy.reject and new.idempotency_key is None:
            await self._refuse_if_busy(new, patience)
        admission, epoch = await patience.attempt(partial(self._admit, new, epoch))
        if admission.run_id != new.run_id:
            return await self._existing(admission.run_id)
        own = Ownership(new.run_id, new.thread_id, epoch, admission.fence) if admission.holds else None
        record = self.register(new, admission, own)
        if own is None and (entry := self._registry.entry(new.run_id)) is not None:
            self._still_live(entry, epoch)
        for decision in admission.replaced:
            await self._delivery.deliver(decision)
        if patience.failed:  # an attempt without an answer may have replaced them
            for other in self._open_beside(new):
                await self._delivery.look(other)
        if admission.replaced:
            await self._echoed([decision.run_id for decision in admission.replaced])
        if new.delay_ms is not None:
            self._slots.release(new.thread_id, new.run_id, fence=0)  # what it reserved is for somebody else
        elif not admission.holds:
            self._jobs.spawn(self._line.claim(new.thread_id), f"claiming thread {new.thread_id!r}")
        return record

    def register(self, new: NewRun, admission: Admission, own: Ownership | None) -> RunRecord:
        """The run is this worker's from here on. Raises LeaseLost where the worker was fenced meanwhile."""
        record = RunRecord(
            run_id=new.run_id,
            thread_id=new.thread_id,
            assistant_id=new.assistant_id,
            status=RunStatus.pending,
            on_disconnect=DisconnectMode(new.on_disconnect),
            multitask_strategy=new.multitask_strategy,
            metadata=new.metadata,
            kwargs=new.kwargs,
            user_id=new.user_id,
            parent_run_id=None if admission.ended(new.parent_run_id) else new.parent_run_id,
            created_at=new.created_at,
            updated_at=new.created_at,
            model_name=new.model_name,
        )
        entry = self._registry.add(record, own)
        entry.temporary, entry.operation = admission.temporary, new.kind == "op"
        delay = _seconds(new.delay_ms) or 0.0
        if (limits := _limits_of(new)) != NO_LIMITS:
            entry.limits = limits
            self._timeouts.waits(entry, delay)
        if delay and own is None:
            self._line.wait_for_its_time(entry, delay)
        if own is not None:
            self._still_live(entry, own.epoch)
        if self._registry.reminded(new.run_id):
            self._jobs.spawn(self._delivery.look(new.run_id), f"looking at run {new.run_id!r}")
        if admission.holds and own is not None:
            self._slots.bind(new.thread_id, new.run_id, epoch=own.epoch, fence=own.fence)
        if not entry.operation:
            event = RunAdmitted(new.run_id, new.thread_id, new.multitask_strategy, admission.holds)
            self._telemetry.emit(event)
        return record

    def _still_live(self, entry: Entry, epoch: int) -> None:
        """The worker may have been fenced while the row was written: then nobody has dropped the run."""
        try:
            self._worker.check(epoch)
        except LeaseLost as error:
            self._settlement.lose(entry, str(error))
            raise

    async def _existing(self, run_id: str) -> RunRecord:
        """The run that an idempotency key was used for; whoever admitted it executes it."""
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

    async def _admit(self, new: NewRun, epoch: int) -> tuple[Admission, int]:
        """What the store says, and the epoch that it said it to."""
        for _ in range(UNIQUE_TRIES):
            try:
                return await self._in_live_epoch(
                    epoch, lambda epoch: self._store.admit(new, epoch=epoch, limits=self._limits)
                )
            except Exception as error:
                if not is_unique_violation(error):
                    raise
        raise ConflictError(new.thread_id, await self._store.holder(new.thread_id))

    async def _in_live_epoch(
        self, epoch: int, write: Callable[[int], Awaitable[Admission]]
    ) -> tuple[Admission, int]:
        """Where this epoch was buried meanwhile, again with the one that follows it. Raises LeaseLost
        where that does not last either."""
        for _ in range(EPOCH_TRIES):
            try:
                return await write(epoch), epoch
            except EpochDead as error:
                if self._worker.drain_event.is_set():  # it lives, and has said that it admits nothing
                    raise Draining from None
                self._worker.fenced(epoch, str(error))
            epoch = await self._worker.ready()
        raise LeaseLost(epoch)

    # -- the caller was cancelled: its write may have finished all the same

    def _resolve(self, new: NewRun) -> None:
        """The store did not say whether it wrote. A row that is there all the same would hold its thread
        for ever: its caller was told that there is no run, so nobody executes it."""
        if self._registry.entry(new.run_id) is None:
            self._registry.taking_back(new.run_id)
            self._jobs.spawn(self._take_back(new), f"taking back run {new.run_id!r}")

    async def _undo(self, undoing: Coroutine[Any, Any, object], new: NewRun) -> None:
        """Go through with it before the caller sees its CancelledError, however often it is cancelled."""
        with suppress(CoordinatorError):  # logged by the job; the caller is to see its CancelledError
            await through(self._jobs.spawn(undoing, f"taking back run {new.run_id!r}"))

    async def _interrupt(self, new: NewRun) -> None:
        """Where the row became durable, the run was admitted and is interrupted, here as in the store;
        those that it replaced stay so, and are told."""
        others = self._open_beside(new)
        decision = await self._take_back(new)
        if decision is None:
            return
        if self._registry.entry(new.run_id) is None:
            self.register(new, Admission(new.run_id, holds=False, fence=0, seq=0), None)
        await self._delivery.deliver(decision)
        for run_id in others:
            await self._delivery.look(run_id)
        await self._echoed(others)

    def _open_beside(self, new: NewRun) -> list[str]:
        return [
            record.run_id
            for record in self._registry.of_thread(new.thread_id)
            if record.run_id != new.run_id and record.status in OPEN
        ]

    async def _take_back(self, new: NewRun) -> Decision | None:
        """Admitted by an epoch that is over meanwhile, it is ended together with that."""
        epoch = self._worker.epoch
        self._registry.taking_back(new.run_id)
        try:
            decision = await self._outbox.deliver(
                new.run_id,
                epoch,
                "an admission taken back",
                lambda: self._store.withdraw(new.run_id, epoch=epoch),
            )
        finally:
            self._registry.taken_back(new.run_id)
        if decision is not None:
            self._slots.release(new.thread_id, new.run_id, fence=decision.fence)
            await self._line.claim(new.thread_id)
        return decision

    async def _echoed(self, run_ids: Iterable[str]) -> None:
        if isinstance(self._store, EchoingStore):
            await self._store.echoed(run_ids)

    # -- the fast refusal

    async def _refuse_if_busy(self, new: NewRun, patience: Patience) -> None:
        """Ask Redis first; its "busy" is verified by one indexed read before it is believed."""
        answer = await self._slots.admit(new.thread_id, new.run_id)
        if answer.state is SlotState.busy:
            await patience.attempt(partial(self._verify_busy, new))
            patience.failed = 0  # it only read

    async def _verify_busy(self, new: NewRun) -> None:
        """Nobody is told here of a run that he may not see: then the store answers, which knows whose thread
        it is."""
        if (holder := await self._holder(new.thread_id)) is None:
            return
        if new.user_id is None or await self._store.get(holder, user_id=new.user_id) is not None:
            raise ConflictError(new.thread_id, holder)

    async def _holder(self, thread_id: str) -> str | None:
        """Callers who ask in the same turn of the loop share one read, which begins after they asked."""
        shared = self._verifying.get(thread_id)
        if shared is None:
            shared = self._verifying[thread_id] = begin_soon(self._read_holder(thread_id))
        return await asyncio.shield(shared)

    async def _read_holder(self, thread_id: str) -> str | None:
        del self._verifying[thread_id]  # whoever asks from here on needs a read that begins later
        return await self._store.holder(thread_id)
