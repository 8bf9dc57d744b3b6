"""The PostgreSQL store: one database, many hosts."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

from stores.base import EPOCH_ENDED
from stores.errors import RowLocked, StoreUnavailable
from stores.fair_queue import PATIENCE, FairQueue
from stores.inspection import Inspection
from stores.postgres.address import Address
from stores.postgres.batches import Lane
from stores.postgres.connections import CONNECT_WITHIN, Connections, session_settings
from stores.postgres.driver import Connection
from stores.postgres.faults import AGAIN, Kind, fault_of
from stores.postgres.heart import PostgresHeart
from stores.postgres.host_gate import HostGate, open_host_gate
from stores.postgres.hosts import Hosts
from stores.postgres.migrating import migrate
from stores.postgres.options import Options
from stores.postgres.repeated import WritesMadeAgain
from stores.postgres.sweeping import adopt_all, end_all
from stores.rows import Admission, Decision, Limits, NewWorker, Orphan, Tick, WorkerRow
from stores.spec import RECORDED, AdmissionRequest
from stores.sql.postgres import admission, attempts, decisions, inspection, reading, schema, workers
from stores.sql.postgres.calls import OUTCOME_UNKNOWN, BatchFunction, Call
from stores.sql.postgres.statements import POSTGRES
from stores.sql.statement import AsCall, P, Query, SearchStatement, Statement, T, Transaction
from stores.states import Cause
from stores.tasks import AnyFuture, begin_soon
from stores.times import limit as limit_of

logger = logging.getLogger(__name__)

_BATCHES, _URGENT, _TICKS = 3, 2, 2
_DECIDING = 2
"""One in so many connections may be used by cancels that wait for locked rows."""
_SEARCHING = 4
"""One in so many connections is for searches."""
_READING = 4
"""One in so many connections is for reads alone: calls that wait for locked rows may have the rest."""


class PostgresStore(WritesMadeAgain):
    """Many workers on many hosts. Leases are kept by the server's clock.

    Calls that meet no conflict are sent in batches; a call that may have to wait is sent alone, on a
    connection of the pool; cancels and reads of a run's decision have connections of their own.
    `migrate=False`: an older schema is an error. `clock` (us) is for tests: then it is the store's.
    """

    _sql = POSTGRES
    durable = True
    shared = True

    def __init__(
        self,
        url: str,
        options: Options | None = None,
        *,
        migrate: bool = True,
        clock: Callable[[], int] | None = None,
    ) -> None:
        address = Address(url)
        self._hosts = Hosts(address)
        self._options = options or Options()
        self.url = address.redacted
        self._migrate = migrate
        self._clock = clock
        self._opening = asyncio.Lock()
        busy = self._options.busy_timeout
        connections = self._options.connections
        self._waiting = self._pool(
            connections, busy, "postgres_connections", for_reads=connections // _READING
        )
        self._batches = self._pool(_BATCHES, min(busy, 5.0), "for batches")
        self._urgent = self._pool(_URGENT, busy, "for cancels")
        self._ticks = self._pool(_TICKS, busy, "for ticks")
        self._pools = (self._waiting, self._batches, self._urgent, self._ticks)
        self._lanes: dict[BatchFunction, Lane] = {}
        self._deciding = asyncio.Semaphore(max(1, self._options.connections // _DECIDING))
        self._searching = FairQueue(
            max(1, self._options.connections // _SEARCHING),
            within=PATIENCE * self._options.search_timeout,
            what="searches",
        )
        self._calls = set[asyncio.Task[object]]()
        self._admitting: dict[str, asyncio.Future[Admission]] = {}
        self._unknown: dict[str, AdmissionRequest] = {}
        self._host_gate: HostGate | None = None
        self._open = False

    def _pool(self, size: int, longest: float, name: str, for_reads: int = 0) -> Connections:
        return Connections(
            self._hosts, self._options, size=size, longest=longest, name=name, for_reads=for_reads
        )

    @property
    def schema(self) -> str:
        return self._options.schema

    def _now(self) -> Any:  # Any: None = the server's clock, but SQLite's statements need an int
        """None = the server's clock."""
        return None if self._clock is None else self._clock()

    # -- life

    async def open(self) -> None:
        """Connect, check that the schema is ours, migrate. Idempotent.

        Raises StoreRefused (another program's schema, a refused role, an unsuitable server or database),
        SchemaTooNew, SchemaTooOld and StoreUnavailable.
        """
        async with self._opening:
            if self._open:
                return
            try:
                await self._check_and_migrate()
                for pool in self._pools:
                    await pool.open()
                self._host_gate = open_host_gate(self._options.host_gate)
            except BaseException:
                await self._close()
                raise
            self._open = True

    async def _check_and_migrate(self) -> None:
        async with self.connection() as cx:
            outdated = await schema.outdated(cx, self._options.schema)
            if outdated and not self._migrate:
                raise StoreUnavailable(outdated, hint="Run `coordinator db migrate` first.")
        if outdated:
            await self._migrated(self._options.busy_timeout, logger.warning, unasked=True)

    async def migrate(
        self, *, patience: float = 300.0, report: Callable[[str], None] = logger.warning
    ) -> list[str]:
        """See `stores.inspection.MigratableStore`."""
        return await self._migrated(patience, report, repair=True)

    async def _migrated(
        self, patience: float, report: Callable[[str], None], *, repair: bool = False, unasked: bool = False
    ) -> list[str]:
        name = self._options.schema
        return await migrate(
            self.connection, name, repair=repair, unasked=unasked, patience=patience, report=report
        )

    async def check_version(self) -> None:
        """See `stores.base.VersionedStore`."""
        await self._read(schema.check_version)

    @asynccontextmanager
    async def connection(self, *, reads: bool = False) -> AsyncGenerator[Connection]:
        """A connection without time-outs, for work that is no call. Raises StoreUnavailable, StoreRefused."""
        sent = False
        try:
            cx = await self._hosts.connect(
                timeout=CONNECT_WITHIN,
                statement_cache_size=self._options.statement_cache,
                server_settings=session_settings(self._options),
            )
            sent = not reads
            try:
                yield cx
            finally:
                await cx.close(timeout=CONNECT_WITHIN)
        except Exception as error:
            raise fault_of(error).as_error(error, written=None if sent else False) from error

    async def aclose(self) -> None:
        """Wait for calls that are under way, then close all connections. Idempotent, and bounded."""
        async with self._opening:
            await self._close()

    async def _close(self) -> None:
        self._open = False
        for lane in self._lanes.values():
            await lane.drained()
        if self._calls:
            await asyncio.wait(self._calls)
        try:
            await asyncio.gather(*(pool.aclose() for pool in self._pools))
        finally:
            host, self._host_gate = self._host_gate, None
            if host is not None:
                host.release()

    # -- calls

    async def _write(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._made(_as_call(transaction)(self._now(), *args, **kwargs))

    async def _write_urgent(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._made(_as_call(transaction)(self._now(), *args, **kwargs), urgent=True)

    async def _made(self, call: Call[T], *, urgent: bool = False) -> T:
        answer = self._send(call, urgent=urgent)
        answer.add_done_callback(_retrieve_exception)
        return await asyncio.shield(answer)

    def _send(self, call: Call[T], *, urgent: bool = False) -> asyncio.Future[T]:
        """The call continues if its caller is cancelled."""
        function = call.statement
        if not call.alone and isinstance(function, BatchFunction):
            lane = self._lanes.get(function)
            if lane is None:
                pool, alone = (self._urgent, self._decide) if urgent else (self._batches, self._waiting.run)
                lane = self._lanes[function] = Lane(function, pool, alone)
            return lane.put(call)
        pool = self._urgent if urgent else self._waiting
        return self._own(pool.run(call))

    def _own(self, calling: Coroutine[object, object, T]) -> asyncio.Task[T]:
        task = begin_soon(calling)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    async def _briefly(self, call: Call[T]) -> T:
        """Raises RowLocked at once where another transaction holds a lock that the call needs."""
        answer = self._own(self._waiting.run(call, again=AGAIN - {Kind.lock}))
        answer.add_done_callback(_retrieve_exception)
        return await asyncio.shield(answer)

    async def _decide(self, call: Call[T], *, since: float | None) -> T:
        """A cancel that no batch has made: first with a short wait for locks, so that it does not keep other
        cancels from these connections; then, where the wait may be long, on a connection of the pool."""
        try:
            return await self._urgent.run(decisions.briefly(call), again=AGAIN - {Kind.lock}, since=since)
        except RowLocked:
            if not await self._may_wait_to_decide():
                raise
        try:
            return await self._waiting.run(call)
        finally:
            self._deciding.release()

    async def _may_wait_to_decide(self) -> bool:
        """Cancels that wait for rows have a part of the connections, in their order: a client that locks many
        rows keeps other calls from none. False = others have waited there for `busy_timeout`."""
        try:
            async with asyncio.timeout(self._options.busy_timeout):
                return await self._deciding.acquire()
        except TimeoutError:
            return False

    async def _read(self, query: Statement[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._waiting.run(_as_call(query)(*args, **kwargs), reads=True)

    async def _search(
        self,
        query: SearchStatement[Query, P, T],
        criteria: Query,
        user_id: str | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        async with self._searching.place(user_id):
            call = _as_call(query)(criteria, user_id, *args, **kwargs)
            return await self._waiting.run(replace(call, longest=self._options.search_timeout), reads=True)

    async def standing(self, run_id: str) -> Decision | None:
        return await self._ticks.run(decisions.standing(run_id), reads=True)

    async def tick(self, epoch: int, executing: Collection[str] = ()) -> Tick:
        return await self._ticks.run(reading.tick(epoch, self._now(), executing), reads=True)

    # -- what takes more than one call

    async def admit(self, request: AdmissionRequest, *, epoch: int, limits: Limits) -> Admission:
        return await self._admitted(request, admission.admit(self._now(), request, epoch, limits))

    async def insert(self, request: AdmissionRequest, *, epoch: int) -> Admission:
        return await self._admitted(request, admission.insert(self._now(), request, epoch))

    async def _admitted(self, request: AdmissionRequest, call: Call[Admission]) -> Admission:
        answer = self._send(call)
        self._admitting[request.run_id] = answer

        def over(_: asyncio.Future[Admission]) -> None:
            if self._admitting.get(request.run_id) is answer:
                del self._admitting[request.run_id]
            if answer.cancelled():
                return
            if isinstance(answer.exception(), StoreUnavailable):
                self._unknown[request.run_id] = request
            elif answer.exception() is None:  # the repeated call was answered: the outcome is known
                self._unknown.pop(request.run_id, None)

        answer.add_done_callback(over)
        return await asyncio.shield(answer)

    async def withdraw(self, run_id: str, *, epoch: int) -> Decision | None:
        """After the admission has its answer. Where that is unknown, the run is recorded as ended first: an
        admission that arrives late from a lost connection finds that record and writes nothing."""
        if (admitting := self._admitting.get(run_id)) is not None:
            await asyncio.wait((admitting,))
        if (request := self._unknown.get(run_id)) is not None:
            recorded = {name: getattr(request.spec, name) for name in RECORDED}
            await self.put(run_id, **recorded, status="interrupted", created_at=request.created_at)
            self._unknown.pop(run_id, None)
        return await super().withdraw(run_id, epoch=epoch)

    async def register(self, worker: NewWorker) -> int:
        """The proof of life is held before the row can be seen. A repeated call with the same proof returns
        the same epoch."""
        host = self._host_gate
        byte = None if host is None else host.begin()
        proof = secrets.token_hex(8) if host is None or byte is None else host.proofs.of(byte)
        outcome = self._send(workers.register(self._now(), replace(worker, proof=proof)))

        def over(_: asyncio.Future[int]) -> None:
            if not outcome.cancelled() and outcome.exception() is None:
                self._registered[outcome.result()] = worker.worker_id
                if host is not None and byte is not None:
                    host.registered(outcome.result(), byte)
            elif host is not None and byte is not None:
                host.end(byte)  # an epoch that was issued all the same has no worker, and is fenced at once

        outcome.add_done_callback(over)
        return await asyncio.shield(outcome)  # a cancelled caller does not hide how it ended

    async def retire(self, epoch: int, *, error: str = EPOCH_ENDED) -> list[Orphan]:
        await self._write(workers.retire, epoch, self._registered.get(epoch))
        if self._host_gate is not None:
            self._host_gate.retired(epoch)
        orphaned = await self._write(workers.orphaned, only=epoch)
        return await self._end_all(orphaned, None, error)

    async def sweep(self, *, by: int, error: str, before: str | None = None) -> list[Orphan]:
        """A transaction for each run; see `stores.sql.postgres.workers`."""
        orphans = await self._waiting.run(workers.adopted_before(by))
        orphans += await self._waiting.run(attempts.given_before(by))
        known = {orphan.run_id for orphan in orphans}
        orphaned = await self._write(workers.orphaned, by=by, before=limit_of(before))
        ended = await self._end_all([one for one in orphaned if one.ends], by, error)
        ended += await adopt_all(orphaned, lambda one: self._briefly(attempts.adopt(self._now(), one, by)))
        try:
            await self._write(workers.settle_strays)
        except StoreUnavailable as fault:
            logger.warning("Cancelled runs beside the slots of dead workers are not settled yet: %s", fault)
        return orphans + [orphan for orphan in ended if orphan.run_id not in known]

    async def _end_all(self, orphaned: list[workers.Orphaned], by: int | None, error: str) -> list[Orphan]:
        async def end(one: workers.Orphaned) -> Orphan | None:
            orphan = await self._briefly(workers.end_orphan(self._now(), one, by, error))
            return await self._ended(one) if orphan is OUTCOME_UNKNOWN else orphan

        return await end_all(orphaned, end)

    async def _ended(self, one: workers.Orphaned) -> Orphan | None:
        """As its row shows; which call has ended it is unknown, and reporting it twice does no harm."""
        row = await self.row(one.run_id)
        if row is None or row.settled_at is None:
            return None
        decided = row.cancel_cause is not Cause.orphaned
        ref = one.noted_ref
        return Orphan(one.run_id, one.thread_id, row.status, one.epoch, rollback_ref=ref, decided=decided)

    # -- beside the calls

    def proven_dead(self, peer: WorkerRow) -> bool:
        return self._host_gate is not None and self._host_gate.proofs.dead(peer)

    def proven_alive(self, peer: WorkerRow) -> bool:
        return self._host_gate is not None and self._host_gate.proofs.alive(peer)

    def heart(self) -> PostgresHeart:
        """For the heartbeat's thread: see `stores.base.HeartStore`."""
        return PostgresHeart(self._hosts, self._options, now=self._now, worker_id=self._registered.get)

    async def grant(self, role: str) -> None:
        """See `stores.inspection.GrantingStore`."""
        async with self.connection() as cx, cx.transaction():
            await schema.grant(cx, self._options.schema, role)

    async def inspect(self) -> Inspection:
        """Inspect the schema; the store need not be open. See `stores.inspection`."""
        async with self.connection(reads=True) as cx:
            return await inspection.inspect(cx, self._options.schema, self._now())


def _as_call(statement: Statement[P, T]) -> AsCall[P, T]:
    """The statement as a function that returns a Call: POSTGRES has no other kind."""
    return cast("AsCall[P, T]", statement)


def _retrieve_exception(answer: AnyFuture) -> None:
    """So that asyncio does not log "exception was never retrieved" if the caller was cancelled."""
    if not answer.cancelled():
        answer.exception()
