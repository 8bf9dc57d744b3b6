"""The documents of `--json`: one per command. Keys are stable; new ones may be added.

Times are ISO 8601 in UTC, null = not yet. Durations are in seconds, sizes in bytes.

runs list      {"runs": [run, …], "before": run id}              newest first, without kwargs and result;
                                                                 before = next page, null = last page;
                                                                 owner_dead of a run in flight = its worker
                                                                 is dead; also in runs show, explain and
                                                                 threads show
runs show      {"run": run + kwargs, result, interrupts, traceback, ended_by, waits_for_answer}
                                                                 traceback = the log that contains it;
                                                                 ended_by = itself, cancel, force (its task
                                                                 did not stop), dead worker (other workers
                                                                 freed its thread); null = not yet;
                                                                 waits_for_answer of a paused run = no later
                                                                 run has continued it; also in explain
runs cancel    {"cancel": {run_id, thread_id, already, settled, redis} + receipt}
runs cancel    {"cancel_many": {dry_run, matched, cancelled, ended, run_ids}}   with filters
threads list   {"threads": [thread, …], "offset": number}        without values, holder, waiting and runs;
                                                                 offset = next page, null = last page
threads show   {"thread": {thread_id, status, holder, waiting, values, …, runs: [run, …]}}
workers list   {"workers": [worker, …]}
explain        {"run", "holder", "receipt", "traceback", "timeline": [{at, what, from_status, …}, …]}
reconcile      {"ended": [run, …], "buried": [epoch, …],         buried = workers declared dead
               "undecided": [worker, …], "unwatched": [worker, …]}
db check       {"check": {ok, problems, version, newest, projections, …}}
projections list    {"projections": [projection, …]}             oldest_at = of its pending changes
projections remove  {"removed": {name, pending}}                 pending = changes that were removed
webhooks list  {"webhooks": [webhook, …]}                        newest first; URLs without path
webhooks retry {"retried": [run id, …]}
webhooks stop  {"stopped": [run id, …]}
crons list     {"crons": [cron, …]}                              newest first
crons disable  {"disabled": [cron id, …]}
crons delete   {"deleted": cron id}                              with --user {"deleted": [cron id, …]}
keys create    {"key": key + text}                               text = the key itself, shown only here
keys list      {"keys": [key, …]}
keys revoke    {"revoked": key}
db migrate     {"migrate": {store, created, version, applied: [{number, name, at}, …]}}
demo           {"ok", "seconds", "setup_seconds", "redis": {"own", "version"}, "store", "workers", "claims":
                 [{"number", "name", "claim", "ok", "skipped", "problems", "seconds", "text", "measured"}, …]}
                                                                 ok of a claim: null = skipped, with the
                                                                 reason in skipped
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.cli.text import iso
from coordinator.schemas import Receipt
from coordinator.webhooks.document import without_path
from coordinator.workers.identity import slot_of
from stores.crons import CronRow
from stores.json_values import JsonObject
from stores.projections import ProjectionRow
from stores.rows import RunRow, ThreadRow, Transition, WorkerRow
from stores.webhooks import WebhookRow

if TYPE_CHECKING:
    from coordinator.cli.owners import Owners
    from coordinator.gateway.key_file import Key

Document = JsonObject


def run_document(row: RunRow, position: int | None = None, *, owners: Owners | None = None) -> Document:
    """Returns a run without kwargs and result, see `run_in_full`. `position`: in the thread's queue, from
    1. Without `owners` the field `owner_dead` is absent."""
    return {
        "run_id": row.run_id,
        "thread_id": row.thread_id,
        "assistant_id": row.assistant_id,
        "user_id": row.user_id,
        "status": row.status.value,
        "phase": row.phase.value,
        "holds_thread": row.holds_thread,
        "position": position,
        "owner_epoch": row.owner_epoch,
        **({} if owners is None else {"owner_dead": owners.dead(row)}),
        "home_epoch": row.home_epoch,
        "fence": row.fence,
        "multitask_strategy": row.multitask_strategy,
        "portable": row.portable,
        "paused": row.paused,
        "cancel_action": row.cancel_action and row.cancel_action.value,
        "cancel_cause": row.cancel_cause and row.cancel_cause.value,
        "cancel_reason": row.cancel_reason,
        "cancel_actor": row.cancel_actor,
        "rollback_state": row.rollback_state,
        "error": row.error,
        "metadata": row.metadata,
        "model_name": row.model_name,
        "created_at": row.created_at,
        "not_before": iso(row.not_before),
        "started_at": iso(row.started_at),
        "ended_at": iso(row.ended_at),
        "settled_at": iso(row.settled_at),
        "updated_at": iso(row.updated_at),
    }


def run_in_full(row: RunRow, position: int | None, *, owners: Owners | None = None) -> Document:
    return {
        **run_document(row, position, owners=owners),
        "kwargs": row.kwargs,
        "result": row.result,
        "interrupts": row.interrupts,
        "idempotency_key": row.idempotency_key,
        "attempt": row.attempt,
        "retries": row.retries,
        "on_disconnect": row.on_disconnect,
        "counters": {name: count or None for name, count in row.counters.items()},  # null: nothing counted
        "extra": row.extra,
    }


def receipt_document(receipt: Receipt) -> Document:
    return {
        "status": receipt.status.value,
        "phase": receipt.phase.value,
        "action": receipt.action and receipt.action.value,
        "cause": receipt.cause and receipt.cause.value,
        "reason": receipt.reason,
        "actor": receipt.actor,
        "requested_at": iso(receipt.requested),
        "delivered_at": iso(receipt.delivered),
        "stopped_at": iso(receipt.stopped),
        "settled_at": iso(receipt.settled),
    }


def thread_document(thread: ThreadRow) -> Document:
    """A thread without its values, see `thread_in_full`. `ttl` (s) after its last use, null = never
    expires."""
    return {
        "thread_id": thread.thread_id,
        "user_id": thread.user_id,
        "assistant_id": thread.assistant_id,
        "status": thread.status,
        "error": thread.error,
        "fence": thread.fence,
        "interrupts": thread.interrupts,
        "metadata": thread.metadata,
        "temporary": thread.temporary,
        "ttl": None if thread.ttl_ms is None else thread.ttl_ms / 1000,
        "created_at": iso(thread.created_at),
        "updated_at": iso(thread.updated_at),
        "state_updated_at": iso(thread.state_updated_at),
    }


def thread_in_full(
    thread: ThreadRow, *, holder: RunRow | None, waiting: list[str], runs: list[RunRow], owners: Owners
) -> Document:
    positions = {run_id: position for position, run_id in enumerate(waiting, start=1)}
    return {
        **thread_document(thread),
        "holder": None if holder is None else run_document(holder, owners=owners),
        "waiting": waiting,
        "values": thread.values,
        "runs": [run_document(row, positions.get(row.run_id), owners=owners) for row in runs],
    }


def worker_document(worker: WorkerRow, *, exited: bool) -> Document:
    """`exited`: the operating system proves that its process has ended; false = not proven."""
    return {
        "epoch": worker.epoch,
        "worker_id": worker.worker_id,
        "slot": slot_of(worker.worker_id),
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "state": worker.state.value,
        "admits_only": worker.admits_only,
        "expired": worker.expired,
        "gone": exited,
        "holding": worker.holding,
        "stopping": worker.stopping,
        "heartbeats": worker.hb_seq,
        "lease_ttl": worker.ttl_ms / 1000,
        "lease_until": iso(worker.lease_until),
        "fenced_by": worker.fenced_by,
        "started_at": iso(worker.started_at),
    }


def transition_document(step: Transition) -> Document:
    return {
        "at": iso(step.at),
        "what": step.what,
        "from_status": step.from_status and step.from_status.value,
        "to_status": step.to_status.value,
        "holds_thread": step.holds_thread,
        "cause": step.cause and step.cause.value,
        "actor": step.actor,
        "detail": step.detail,
        "epoch": step.epoch,
        "fence": step.fence,
    }


def webhook_document(webhook: WebhookRow) -> Document:
    return {
        "run_id": webhook.run_id,
        "thread_id": webhook.thread_id,
        "user_id": webhook.user_id,
        "url": without_path(webhook.url),
        "state": webhook.state.value,
        "attempts": webhook.attempts,
        "status_code": webhook.status_code,
        "error": webhook.error,
        "claimed_by": webhook.claimed_by,
        "created_at": iso(webhook.created_at),
        "due_at": iso(webhook.due_at),
        "next_at": iso(webhook.next_at),
        "ended_at": iso(webhook.ended_at),
    }


def cron_document(cron: CronRow) -> Document:
    """A cron without the request of its runs."""
    return {
        "cron_id": cron.cron_id,
        "user_id": cron.user_id,
        "assistant_id": cron.assistant_id,
        "thread_id": cron.thread_id,
        "schedule": cron.schedule,
        "timezone": cron.timezone,
        "enabled": cron.enabled,
        "on_run_completed": cron.on_run_completed,
        "metadata": cron.metadata,
        "next_at": iso(cron.next_at),
        "end_at": iso(cron.end_at),
        "last_at": iso(cron.last_at),
        "last_run_id": cron.last_run_id,
        "last_error": cron.last_error,
        "created_at": iso(cron.created_at),
        "updated_at": iso(cron.updated_at),
    }


def projection_document(row: ProjectionRow) -> Document:
    return {
        "name": row.name,
        "pending": row.pending,
        "oldest_at": iso(row.oldest_at),
        "failing": row.failing,
        "error": row.error,
        "filling": row.filling,
        "claimed_by": row.claimed_by,
        "created_at": iso(row.created_at),
    }


def key_document(key: Key) -> Document:
    """A key without its hash."""
    return {
        "id": key.id,
        "role": key.role,
        "user_id": key.user_id,
        "name": key.name,
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at and key.expires_at.isoformat(),
    }
