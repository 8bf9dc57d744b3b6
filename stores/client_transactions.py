"""The operations of clients over SQL: threads and runs, records, webhooks, crons, assistants."""

from __future__ import annotations

from collections.abc import Sequence

from stores.assistants import AssistantQuery, AssistantRow
from stores.base import Row
from stores.catalogue import Heavy, RemovedThread, ThreadQuery
from stores.crons import CronQuery, CronRow, DueCrons, Firing
from stores.engine import Engine
from stores.json_values import Json, JsonObject
from stores.pages import Page
from stores.projections import FailedChange, PendingChange, ProjectionRow, RunChange
from stores.rows import Ownership, RunRow, ThreadRow
from stores.sql import projections, reads
from stores.states import OPEN, RunStatus
from stores.thread_states import RemovedState
from stores.times import limit as limit_of
from stores.webhooks import ClaimedWebhook, Shares, WebhookReport, WebhookRow


class ClientTransactions(Engine):
    """Every operation is one transaction or one read of the engine."""

    # -- webhooks

    async def next_webhook(self) -> float | None:
        return await self._read(self._sql.webhooks.next_due, self._now())

    async def claim_webhooks(
        self, *, epoch: int, lease: float, limit: int, shares: Shares | None = None
    ) -> list[ClaimedWebhook]:
        return await self._write(self._sql.webhooks.claim, epoch, round(lease * 1e6), limit, shares=shares)

    async def report_webhook(self, run_id: str, *, attempt: int, report: WebhookReport) -> bool:
        return await self._write(self._sql.webhooks.report, run_id, attempt, report)

    async def revive_webhooks(
        self, run_ids: Sequence[str] | None = None, *, user_id: str | None = None
    ) -> list[str]:
        return await self._write(self._sql.webhooks.revive, run_ids, user_id)

    async def stop_webhooks(
        self, run_ids: Sequence[str] | None = None, *, user_id: str | None = None
    ) -> list[str]:
        return await self._write(self._sql.webhooks.stop, run_ids, user_id)

    async def count_webhooks(self, *, states: Sequence[str] = (), user_id: str | None = None) -> int:
        return await self._select(reads.count_webhooks(states, user_id))

    async def webhooks(
        self,
        *,
        states: Sequence[str] = (),
        run_id: str | None = None,
        user_id: str | None = None,
        limit: int = 100,
    ) -> list[WebhookRow]:
        return await self._select(reads.webhooks(states=states, run_id=run_id, user_id=user_id, limit=limit))

    # -- projections

    async def add_projection(self, name: str) -> None:
        await self._write(self._sql.projections.add, name)

    async def remove_projection(self, name: str) -> bool:
        return await self._write(self._sql.projections.remove, name)

    async def next_change(self, name: str) -> float | None:
        return await self._read(self._sql.projections.next_due, name, self._now())

    async def claim_changes(
        self, name: str, *, epoch: int, lease: float, limit: int
    ) -> list[RunChange] | None:
        return await self._write(self._sql.projections.claim, name, epoch, round(lease * 1e6), limit=limit)

    async def report_changes(
        self, name: str, *, epoch: int, delivered: Sequence[int], failed: Sequence[FailedChange] = ()
    ) -> None:
        await self._write(self._sql.projections.report, name, epoch, delivered, failed=failed)

    async def projections(self) -> list[ProjectionRow]:
        rows, queues = await self._select(projections.projections()), await self._select(projections.queues())
        return [row._replace(**queues.get(row.name, {})) for row in rows]

    async def pending_changes(self, run_id: str) -> list[PendingChange]:
        return await self._select(projections.pending_changes(run_id))

    # -- the catalogue

    async def threads(self, query: ThreadQuery, *, user_id: str | None) -> Page[ThreadRow]:
        return await self._search(self._sql.threads.threads, query, user_id)

    async def count_threads(self, query: ThreadQuery, *, user_id: str | None) -> int:
        return await self._search(self._sql.threads.count_threads, query, user_id)

    async def run(self, run_id: str, *, thread_id: str | None, user_id: str | None) -> RunRow | None:
        return await self._select(reads.run(run_id, thread_id, user_id))

    async def thread_of_key(self, key: str, *, user_id: str | None) -> str | None:
        return await self._select(reads.thread_of_key(key, user_id))

    async def thread_runs(
        self,
        thread_id: str,
        *,
        statuses: tuple[str, ...],
        limit: int,
        offset: int,
        user_id: str | None,
        without: frozenset[Heavy] = frozenset(),
        max_bytes: int | None = None,
    ) -> Page[RunRow]:
        return await self._read(
            self._sql.history.thread_runs,
            thread_id,
            statuses=statuses,
            limit=limit,
            offset=offset,
            user_id=user_id,
            without=without,
            max_bytes=max_bytes,
        )

    async def inflight_runs(
        self,
        *,
        statuses: tuple[str, ...],
        thread_id: str | None,
        user_id: str | None,
        after: str,
        limit: int,
    ) -> list[RunRow]:
        return await self._select(
            reads.inflight_runs(
                statuses=statuses,
                thread_id=thread_id,
                user_id=user_id,
                after=after,
                limit=limit,
            )
        )

    async def started_runs(
        self, thread_id: str, *, after: int, limit: int, user_id: str | None
    ) -> list[RunRow]:
        return await self._select(reads.started_runs(thread_id, after, limit, user_id))

    async def delete_run(self, run_id: str, *, thread_id: str | None, user_id: str | None) -> RunRow:
        return await self._write(self._sql.history.delete_run, run_id, thread_id, user_id)

    async def has_expired_threads(self) -> bool:
        return await self._read(self._sql.threads.has_expired_threads, self._now())

    async def expire_threads(self, *, limit: int) -> list[RemovedThread]:
        return await self._write(self._sql.threads.expire_threads, limit)

    # -- state of threads outside of this store

    async def note_states(self, own: Ownership, kinds: Sequence[str]) -> None:
        await self._write(self._sql.thread_states.note_states, own, kinds)

    async def claim_removed_states(self, kinds: Sequence[str], *, limit: int) -> list[RemovedState]:
        return await self._write(self._sql.thread_states.claim, kinds, limit)

    async def forget_removed_states(self, states: Sequence[RemovedState]) -> None:
        await self._write(self._sql.thread_states.forget, states)

    async def removed_state(self, thread_id: str, kind: str) -> RemovedState | None:
        return await self._read(self._sql.thread_states.removed, thread_id, kind)

    # -- record operations

    async def put(self, run_id: str, *, thread_id: str, **fields: Json) -> None:
        await self._write(self._sql.records.put, run_id, {"thread_id": thread_id, **fields})

    async def get(self, run_id: str, *, user_id: str | None = None) -> Row | None:
        return await self._select(reads.get(run_id, user_id))

    async def list_by_thread(
        self, thread_id: str, *, user_id: str | None = None, limit: int = 100
    ) -> list[Row]:
        return await self._select(reads.list_by_thread(thread_id, user_id, limit))

    async def update_status(self, run_id: str, status: str, *, error: str | None = None) -> bool:
        return await self._write(self._sql.records.update_status, run_id, RunStatus(status).value, error)

    async def update_model_name(self, run_id: str, model_name: str | None) -> bool:
        return await self._write(self._sql.records.update_model_name, run_id, model_name)

    async def update_run_completion(self, run_id: str, *, status: str | None = None, **fields: Json) -> bool:
        return await self._write(
            self._sql.records.update_completion,
            run_id,
            None if status is None else RunStatus(status).value,
            fields,
        )

    async def update_run_progress(self, run_id: str, **fields: Json) -> bool:
        return await self._write(self._sql.records.update_progress, run_id, fields)

    async def list_inflight(self, *, before: str | None = None) -> list[Row]:
        return await self._select(reads.list_open(tuple(sorted(OPEN)), limit_of(before), inclusive=False))

    async def list_pending(self, *, before: str | None = None) -> list[Row]:
        return await self._select(reads.list_open((RunStatus.pending,), limit_of(before), inclusive=True))

    async def delete(self, run_id: str) -> None:
        await self._write(self._sql.records.delete, run_id)

    async def aggregate_tokens_by_thread(self, thread_id: str, include_active: bool = False) -> JsonObject:
        return await self._select(reads.aggregate_tokens(thread_id, include_active=include_active))

    # -- crons

    async def create_cron(
        self, cron: CronRow, *, thread_must_exist: bool, limit: int | None = None
    ) -> CronRow:
        return await self._write(
            self._sql.crons.create, cron, thread_must_exist=thread_must_exist, limit=limit
        )

    async def cron(self, cron_id: str, *, user_id: str | None) -> CronRow | None:
        return await self._select(reads.cron(cron_id, user_id))

    async def replace_cron(self, cron: CronRow, *, user_id: str | None) -> CronRow | None:
        return await self._write(self._sql.crons.replace, cron, user_id)

    async def delete_cron(self, cron_id: str, *, user_id: str | None) -> bool:
        return await self._write(self._sql.crons.delete, cron_id, user_id)

    async def crons(self, query: CronQuery, *, user_id: str | None) -> Page[CronRow]:
        return await self._search(self._sql.crons.listed, query, user_id)

    async def count_crons(self, query: CronQuery, *, user_id: str | None) -> int:
        return await self._search(self._sql.crons.count, query, user_id)

    async def next_cron(self, assistants: Sequence[str]) -> float | None:
        return await self._read(self._sql.crons.next_due, assistants, self._now())

    async def due_crons(self, assistants: Sequence[str], *, limit: int) -> DueCrons:
        return await self._read(self._sql.crons.due, assistants, limit, self._now())

    async def skip_cron(self, firing: Firing, *, error: str | None) -> bool:
        return await self._write(self._sql.crons.skip, firing, error)

    # -- assistants

    async def create_assistant(self, assistant: AssistantRow) -> AssistantRow | None:
        return await self._write(self._sql.assistants.create, assistant)

    async def assistant(self, assistant_id: str, *, user_id: str | None) -> AssistantRow | None:
        return await self._select(reads.assistant(assistant_id, user_id))

    async def change_assistant(self, assistant: AssistantRow, *, user_id: str | None) -> AssistantRow | None:
        return await self._write(self._sql.assistants.change, assistant, user_id)

    async def set_assistant_version(
        self, assistant_id: str, version: int, *, user_id: str | None
    ) -> AssistantRow | None:
        return await self._write(self._sql.assistants.set_version, assistant_id, version, user_id)

    async def delete_assistant(self, assistant_id: str, *, user_id: str | None) -> bool:
        return await self._write(self._sql.assistants.delete, assistant_id, user_id)

    async def assistants(self, query: AssistantQuery, *, user_id: str | None) -> Page[AssistantRow]:
        return await self._search(self._sql.assistants.listed, query, user_id)

    async def count_assistants(self, query: AssistantQuery, *, user_id: str | None) -> int:
        return await self._search(self._sql.assistants.count, query, user_id)

    async def assistant_versions(
        self, assistant_id: str, query: AssistantQuery, *, user_id: str | None
    ) -> Page[AssistantRow]:
        return await self._read(self._sql.assistants.versions, assistant_id, query, user_id)
