"""A gateway's own record store, made to serve one process.

The coordination lives in memory, the record store is the history: a new run is `put` before it exists in
memory, and each decision is written to its record, with retries; writes that have failed are queued
(`stores.outbox`). Methods are resolved on the record store at each call, so they may be replaced.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from inspect import signature
from typing import Any, Concatenate

from stores.base import CoordinationStore, Row, RunStore
from stores.json_values import JsonObject
from stores.memory import Coordination, MemoryStore, PrivateStore
from stores.outbox import Outbox, is_cancelled
from stores.retry import PersistenceRetryPolicy, with_retries
from stores.rows import Admission, Decision, Finish, Json, Limits, NextStart, Outcome, Ownership, Started
from stores.spec import RECORDED, AdmissionRequest, RunColumns
from stores.sql.codec import dumps_opaque
from stores.sql.sqlite import admission, decisions
from stores.sql.statement import OnConnection, P, T
from stores.states import OPEN, TERMINAL, CancelAction, Cause, RunStatus

logger = logging.getLogger(__name__)

_PROMISED = frozenset(signature(RunStore.put).parameters)
_COPIED = tuple(name for name in RECORDED if name in _PROMISED and name != "user_id")
"""The fields that `RunStore.put` takes."""


class PlainStore(MemoryStore):
    """`records` has the operations of `stores.base.RecordStore`. Where it carries a `coordination` (see
    `MemoryRunStore`), managers that share it agree."""

    durable = True

    def __init__(self, records: Any, policy: PersistenceRetryPolicy) -> None:  # Any: a caller's own store
        beside = getattr(records, "coordination", None)
        self._beside = beside if isinstance(beside, Coordination) else Coordination(shared=False)
        super().__init__(shared=self._beside.shared)
        self._cx, self._alone = self._beside._cx, self._beside._alone
        self.records = records
        self.url = f"{type(records).__name__} (records only)"
        self._policy = policy
        self._outbox = Outbox()
        self._echoes: dict[str, asyncio.Task[bool]] = {}

    async def aclose(self) -> None:
        await self._outbox.aclose()

    # -- admission: the row first, then the thread

    async def admit(self, request: AdmissionRequest, *, epoch: int, limits: Limits) -> Admission:
        """Returns before the decisions over replaced runs are in the records: see `echoed`."""
        request = request._replace(start_ref=None)  # each start is repeated in the records
        admitted = await self._arrive(request, admission.admit, epoch, limits)
        for decision in admitted.replaced:
            echo = self._outbox.post(self._write_status(decision.run_id, decision.status, decision.error))
            self._echoes[decision.run_id] = echo
            echo.add_done_callback(lambda _, run_id=decision.run_id: self._echoes.pop(run_id, None))
        return admitted

    async def echoed(self, run_ids: Iterable[str]) -> None:
        if echoes := [echo for run_id in run_ids if (echo := self._echoes.get(run_id)) is not None]:
            await asyncio.wait(echoes)

    async def insert(self, request: AdmissionRequest, *, epoch: int) -> Admission:
        return await self._arrive(request, admission.insert, epoch)

    async def _arrive(
        self,
        request: AdmissionRequest,
        transaction: OnConnection[Concatenate[int, AdmissionRequest, P], Admission],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Admission:
        """Refuses before the record is put where that is possible; a record that is put and then refused is
        removed again. Raises OutboxFull while too many writes to the records are pending."""
        self._outbox.check_room()
        async with self._beside.alone(request.spec.thread_id):
            foreseen = self._transact("ROLLBACK", transaction, request, *args, **kwargs)
            if foreseen.existing is not None:
                return foreseen
            self._beside.arriving[request.run_id] = request  # until `withdraw` if the caller is cancelled
            try:
                await self._put_new(request)
                try:
                    admitted = await self._write(transaction, request, *args, **kwargs)
                except Exception:
                    await self._remove(request.run_id)
                    raise
            except Exception:
                del self._beside.arriving[request.run_id]
                raise
            del self._beside.arriving[request.run_id]
            return admitted

    async def withdraw(self, run_id: str, *, epoch: int) -> Decision | None:
        decision = await super().withdraw(run_id, epoch=epoch)
        arriving = self._beside.arriving.pop(run_id, None)
        status = RunStatus.interrupted if decision is None else decision.status
        await self._outbox.carry(self._write_status(run_id, status, None, recreate=False))
        if decision is None and arriving is not None and await self._recorded(run_id) is not None:
            decision = Decision(run_id, arriving.spec.thread_id, status, True, True, epoch, None, 0)
            return decision._replace(action=CancelAction.interrupt, cause=Cause.disconnect)
        return decision

    async def _put_new(self, request: AdmissionRequest) -> None:
        if request.spec.kind != "run":  # an operation: the records contain runs alone
            self._beside.operations.add(request.run_id)
            return
        described = _described(request.spec, request.created_at)
        payload = {"status": RunStatus.pending.value, "error": None, **described}
        await self._retried("put", request.run_id, lambda: self.records.put(request.run_id, **payload))

    async def _remove(self, run_id: str) -> None:
        try:
            await self.records.delete(run_id)
        except Exception:
            logger.warning(
                "The record of refused run %r is not removed: it becomes an error", run_id, exc_info=True
            )
            await self._write_status(run_id, RunStatus.error, "The run was refused", recreate=False)

    # -- decisions in memory are written to the records, best effort

    async def decide(
        self,
        run_id: str,
        status: RunStatus,
        *,
        action: CancelAction,
        cause: Cause,
        reason: str | None = None,
        actor: str | None = None,
        error: str | None = None,
        while_waiting: bool = False,
        home: int | None = None,
    ) -> Decision | None:
        decision = await super().decide(
            run_id,
            status,
            action=action,
            cause=cause,
            reason=reason,
            actor=actor,
            error=error,
            while_waiting=while_waiting,
            home=home,
        )
        if decision is None:
            return await self._outbox.carry(self._decide_unowned(run_id, status, action, cause, error))
        if decision.won:
            await self._follow(decision)
        return decision

    async def _decide_unowned(
        self, run_id: str, status: RunStatus, action: CancelAction, cause: Cause, error: str | None
    ) -> Decision | None:
        """A run of an earlier process. The status of its record stands; where that is open, the decision is
        written to the record."""
        if run_id in self._beside.arriving or (record := await self._recorded(run_id)) is None:
            return None
        stands, won = RunStatus(record.get("status") or RunStatus.pending), False
        if stands in OPEN:
            if not await self._write_status(run_id, status, error, recreate=False):
                return None
            stands, won = status, True
        decision = Decision(run_id, record["thread_id"], stands, won, True, None, None, 0)
        return decision._replace(action=action if won else None, cause=cause if won else None, error=error)

    async def _recorded(self, run_id: str) -> Row | None:
        """The record, None where there is none or it cannot be read."""
        try:
            record = await self.records.get(run_id)
            if record is not None:
                RunStatus(record.get("status") or RunStatus.pending)
        except Exception:
            logger.warning("Run %r cannot be read from the record store", run_id, exc_info=True)
            return None
        return record

    async def start(self, own: Ownership, rollback_ref: Json) -> Started | None:
        started = await super().start(own, rollback_ref)
        if started is not None and started.decision.won:
            await self._follow(started.decision)
        return started

    async def finish(
        self, own: Ownership, outcome: Outcome, *, hold: bool = False, following: NextStart | None = None
    ) -> Finish:
        del following  # each start is repeated in the records
        before = await self._standing(own.run_id)
        finish = await super().finish(own, outcome, hold=hold)
        if (
            finish.decision is not None
            and not finish.lost
            and before is not None
            and (
                before.status in OPEN or before.cause is Cause.parent
            )  # the end of a child is written only now
        ):
            await self._follow(finish.decision)
        return finish

    async def _follow(self, decision: Decision) -> None:
        for child in decision.children:
            await self._follow(child)
        await self._outbox.carry(self._write_status(decision.run_id, decision.status, decision.error))

    async def _write_status(
        self, run_id: str, status: RunStatus, error: str | None, *, recreate: bool = True
    ) -> bool:
        """True where the records took it. A failed write is logged and queued for a retry, not raised."""
        if run_id in self._beside.operations:
            return True
        key = f"the status of run {run_id!r}"

        async def again() -> None:
            known = await self._standing(run_id)
            if known is None:
                await self._write_final_status(run_id, status, error, recreate=recreate)
            else:
                await self._write_final_status(run_id, known.status, known.error, recreate=recreate)

        try:
            written = await self._write_final_status(run_id, status, error, recreate=recreate)
        except (Exception, asyncio.CancelledError) as failure:
            if is_cancelled(failure):
                raise
            logger.warning(
                "Could not persist %s status for run %r in the record store; the write is repeated",
                status,
                run_id,
                exc_info=True,
            )
            self._outbox.enqueue(key, again)
            return False
        self._outbox.settle(key)
        return written

    async def _write_final_status(
        self, run_id: str, status: RunStatus, error: str | None, *, recreate: bool
    ) -> bool:
        """Write the status; if another decision was made meanwhile, write that one too, so that the last
        write to the records is the decision that stands."""
        while True:
            written = await self._write_status_once(run_id, status, error, recreate=recreate)
            known = await self._standing(run_id)
            if known is None or known.status in OPEN or known.status is status:
                return written
            status, error = known.status, known.error

    async def _standing(self, run_id: str) -> Decision | None:
        return await self._read(decisions.standing, run_id)

    async def _write_status_once(
        self, run_id: str, status: RunStatus, error: str | None, *, recreate: bool
    ) -> bool:
        updated = await self._retried(
            "status", run_id, lambda: self.records.update_status(run_id, status.value, error=error)
        )
        if updated is False and recreate:
            return await self.recreate(run_id, status, error)
        return updated is not False

    async def recreate(self, run_id: str, status: RunStatus, error: str | None) -> bool:
        """The records took no update: read the record, and write it again where it is missing. False =
        unknown run, or another decision stands."""
        known = await self.row(run_id)
        if known is None:
            return False
        scope = {} if known.user_id is None else {"user_id": known.user_id}
        record = await self.records.get(run_id, **scope)
        if record is not None and (record.get("status") == status or record.get("status") in TERMINAL):
            return record["status"] == status
        fields = {"status": status.value, "error": error, **_described(known, known.created_at)}
        await self._retried("put", run_id, lambda: self.records.put(run_id, **fields))
        logger.warning("The record of run %r was missing and has been written again", run_id)
        return True

    async def _retried(self, what: str, run_id: str, operation: Callable[[], Awaitable[T]]) -> T:
        return await with_retries(self._policy, what, run_id, operation)

    # -- recovery

    async def end_abandoned(
        self, *, error: str, before: str | None, readable: Callable[[Row], bool]
    ) -> list[Row]:
        """Open records that no manager on this store owns become `error`; unreadable ones and those
        whose write failed are left to the next recovery. Raises what `list_inflight` raises."""
        rows = await self._retried("list_inflight", "*", lambda: self.records.list_inflight(before=before))
        ended: list[Row] = []
        for row in rows:
            if not readable(row) or row["run_id"] in self._beside.arriving:
                continue
            known = await self.row(row["run_id"])
            if known is not None:
                if known.settled:  # ended in memory, and not yet in the record
                    await self._write_status(known.run_id, known.status, known.error)
                continue
            if await self._end_record(row["run_id"], error):
                ended.append({**row, "status": RunStatus.error.value, "error": error})
        return ended

    async def _end_record(self, run_id: str, error: str) -> bool:
        try:
            updated = await self._retried(
                "status",
                run_id,
                lambda: self.records.update_status(run_id, RunStatus.error.value, error=error),
            )
        except Exception:
            logger.warning("Run %r could not be ended in the record store", run_id, exc_info=True)
            return False
        return updated is not False

    def forget(self, run_id: str) -> None:
        super().forget(run_id)
        self._beside.operations.discard(run_id)

    # -- records: the gateway's store answers

    async def put(self, run_id: str, *, thread_id: str, **fields: Json) -> None:
        await self.records.put(run_id, thread_id=thread_id, **fields)

    async def get(self, run_id: str, *, user_id: str | None = None) -> Row | None:
        return await self.records.get(run_id, user_id=user_id)

    async def list_by_thread(
        self, thread_id: str, *, user_id: str | None = None, limit: int = 100
    ) -> list[Row]:
        return await self.records.list_by_thread(thread_id, user_id=user_id, limit=limit)

    async def update_status(self, run_id: str, status: str, *, error: str | None = None) -> bool:
        if await self.row(run_id) is not None and not await super().update_status(
            run_id, status, error=error
        ):
            return False
        return await self._outbox.carry(self._write_status(run_id, RunStatus(status), error))

    async def update_model_name(self, run_id: str, model_name: str | None) -> Json:
        return await self._retried(
            "model", run_id, lambda: self.records.update_model_name(run_id, model_name)
        )

    async def update_run_completion(self, run_id: str, *, status: str | None = None, **fields: Json) -> Json:
        if status is None and (known := await self.row(run_id)) is not None:
            status = known.status.value  # existing stores require one
        given = fields if status is None else {"status": status, **fields}
        return await self._retried(
            "completion", run_id, lambda: self.records.update_run_completion(run_id, **given)
        )

    async def update_run_progress(self, run_id: str, **fields: Json) -> Json:
        return await self.records.update_run_progress(run_id, **fields)

    async def list_inflight(self, *, before: str | None = None) -> list[Row]:
        return await self.records.list_inflight(before=before)

    async def list_pending(self, *, before: str | None = None) -> list[Row]:
        return await self.records.list_pending(before=before)

    async def delete(self, run_id: str) -> None:
        await self.records.delete(run_id)
        self.forget(run_id)

    async def aggregate_tokens_by_thread(self, thread_id: str, include_active: bool = False) -> JsonObject:
        wanted = {"include_active": True} if include_active else {}
        return await self.records.aggregate_tokens_by_thread(thread_id, **wanted)


def _described(run: RunColumns, created_at: str) -> JsonObject:
    """The fields of a run that `put` receives. `user_id` only where it is set: not every store takes it."""
    fields = {name: getattr(run, name) for name in _COPIED}
    fields.update(kwargs=_storable(run.kwargs), created_at=created_at)
    if run.user_id is not None:
        fields["user_id"] = run.user_id
    return fields


def _storable(kwargs: JsonObject) -> JsonObject:
    """kwargs are opaque: values that JSON cannot hold are written as their `str()`."""
    try:
        json.dumps(kwargs, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.loads(dumps_opaque(kwargs))
    return kwargs


def coordinated(store: object, policy: PersistenceRetryPolicy) -> CoordinationStore:
    """`store` itself if it coordinates, else a PlainStore around it; a PrivateStore for None."""
    if store is None:
        return PrivateStore()
    return store if isinstance(store, CoordinationStore) else PlainStore(store, policy)
