"""Every await point of the store: the product's function, its call of the store, and the scene that leads a
seed there.

A test reads the product's source and fails if points are missing here; so does a campaign that meets one.
"""

from __future__ import annotations

from collections.abc import Mapping

Point = tuple[str, str]
"""The function that waits, and the operation that it calls."""

# Seeds are aimed in this order, not by name: so they keep their aims when a function is renamed.
_WAYS = {
    "Admissions._admit / admit": "busy",
    "Admissions._existing / get": "keys",
    "BusyThreads._read_holder / holder": "busy",
    "Admissions._take_back / withdraw": "a full outbox",
    "BusyThreads._verify / get": "busy",
    "Admissions.insert / insert": "beside the slot",
    "Cancellations._decide / decide": "cancels",
    "Cancellations._until_over / row": "cancels",
    "Cancellations._visible / get": "the curious",
    "Cancellations.disconnected / row": "the curious",
    "Threads.count / count_threads": "threads that expire",
    "Threads.create / create_thread": "threads that expire",
    "Runs.delete / delete_run": "removed without a notification",
    "Runs.in_flight / inflight_runs": "threads that expire",
    "Runs.started / started_runs": "threads that expire",
    "Threads.update / patch_thread": "threads that expire",
    "Runs.get / run": "threads that expire",
    "Runs.thread_of_key / thread_of_key": "threads that expire",
    "Runs.of_thread / thread_runs": "threads that expire",
    "Threads.search / threads": "threads that expire",
    "Checkpoints._row / checkpoints": "threads that expire",
    "Checkpoints.at / thread": "threads that expire",
    "Checkpoints.head / checkpoints": "threads that expire",
    "Checkpoints.head / thread": "threads that expire",
    "Checkpoints.history / checkpoints": "threads that expire",
    "Checkpoints.history / thread": "threads that expire",
    "Delivery.read_decision / standing": "undoing",
    "Drain._decide / decide": "leaving what is deaf",
    "Drain._record / drain": "leaving",
    "Drain._record / workers": "two homes leave",
    "Drain.request / request_drain": "a drain is requested",
    "Examination._store_error / workers": "the curious",
    "Expiry.sweep / expire_threads": "threads that expire",
    "Expiry.sweep / has_expired_threads": "threads that expire",
    "Runs.search / find_runs": "threads that expire",
    "Runs.cancellable_ids / open_run_ids": "threads that expire",
    "Lifecycle.best_effort.<locals>.unless_closed / update_model_name": "words of runs",
    "Lifecycle._complete / update_run_completion": "words of runs",
    "Lifecycle._decide_own / finish": "old style",
    "Lifecycle._recreate_and_repeat / get": "a deleted thread",
    "Lifecycle._recreate_and_repeat / put": "words of who was removed",
    "Lifecycle._recreate_and_repeat / thread": "words of who was removed",
    "Lifecycle._recreate_and_repeat / update_run_completion": "words of who was removed",
    "Lifecycle._write_end.<locals>.unless_lost / update_status": "forgotten",
    "Lifecycle._write_progress / update_run_progress": "words of runs",
    "Lifecycle.start / start": "operations",
    "LoopPacemaker._beat / beat": "busy",
    "Operations._remove / delete_thread": "operations",
    "Operations._visible / thread": "operations",
    "Outbox._attempt / decide": "a cancel is pending",
    "Outbox._attempt / finish": "removed and finished again",
    "Outbox._attempt / put": "removed, and written again later",
    "Outbox._attempt / readopt": "another try is pending",
    "Outbox._attempt / refence": "a newer fence is pending",
    "Outbox._attempt / settle": "a rollback is pending",
    "Outbox._attempt / thread": "removed and finished again",
    "Outbox._attempt / withdraw": "a full outbox",
    "Queries.ended / row": "declared dead alive",
    "Runs.explain / holder": "the curious",
    "Runs.explain / transitions": "the curious",
    "positions / pending_on": "the curious",
    "positions / waiting_line": "the curious",
    "Queries.get / get": "the curious",
    "Queries.has_inflight / holder": "the curious",
    "Queries.list_by_thread / list_by_thread": "the curious",
    "Runs._row / row": "the curious",
    "Queries.row_or_record / row": "the curious",
    "Threads.get / thread": "the curious",
    "Reaper._examine / fence_worker": "a restart",
    "Reaper._sweep / sweep": "a restart",
    "Reaper._sweep / workers": "a restart",
    "Reaper._undo / readopt": "an orphaned rollback fails",
    "Reaper._undo / settle": "an orphaned rollback",
    "Recovery.reconcile / get": "a restart and an operator",
    "Endings._finish / finish": "operations",
    "Endings.leave_queue / decide": "leaving",
    "Endings._recreate / put": "removed and finished again",
    "Endings._recreate / thread": "an operation is finished again",
    "Endings._refence / refence": "deaf",
    "Endings._try_again / readopt": "undoing fails",
    "Endings._undo / settle": "undoing",
    "Endings._write_unwritten / decide": "a cancel is pending",
    "StoredValues.copy / save": "operations",
    "StoredValues.copy / thread": "operations",
    "StateRemoval._remove / forget_removed_states": "state elsewhere",
    "StoredValues.restore / restore": "undoing",
    "StoredValues.save / save": "operations",
    "Takeover._take / row": "two homes leave",
    "Takeover._take / thread": "two homes leave",
    "Timeouts.end / decide": "limits",
    "Runs.recent / runs": "the curious",
    "Waiter._remote / row": "declared dead alive",
    "ThreadQueue._claim / claim": "two homes leave",
    "ThreadQueue._end_foreign / finish": "forgotten and claimed",
    "Watch._tick / tick": "busy",
    "Worker._new_epoch / register": "busy",
    "Worker._sign_off / retire": "leaving",
    "ThisWorker.fleet / workers": "the curious",
    "prune / prune": "a short memory",
}


def _point(text: str) -> Point:
    function, _, op = text.partition(" / ")
    return function, op


_LATER_WAYS = {
    "Outbox._attempt / start": "a start is pending",
    "ThreadQueue.dispatch_next / claimants": "two homes leave",
    "Timeouts.end_unlaunched / decide": "never launched",
    "StateRemoval._claim / claim_removed_states": "state elsewhere",
    "StateRemoval.before / forget_removed_states": "state elsewhere",
    "StateRemoval.before / removed_state": "state elsewhere",
    "StateRemoval.note / note_states": "state elsewhere",
    "Settlement._write_hand_over / hand_over": "a run is handed over",
    "HandOvers._hint / workers": "a run is handed over",
    "Outbox._attempt / hand_over": "a hand-over is pending",
    "with_user_of_parent / row": "a family",
    "ThreadQueue.dispatch / claimants": "dispatched",
    "Dispatch.withdraw / decide": "dispatched",
    "ThreadQueue.claim_for_others / claimable": "dispatched",
    "ThreadQueue._claim_children / claimable_children": "dispatched",
    "UnclaimedRuns.examine / unclaimed": "dispatched",
    "waits_for / holder": "the curious",
    "waits_for / row": "the curious",
    "waits_for / claimants": "the curious",
    "StoredValues.keep_latest / keep_latest_checkpoint": "former states",
}
LATER: Mapping[Point, str] = {_point(text): scene for text, scene in _LATER_WAYS.items()}
"""Aimed at after all others, in this order, so that the seeds of a campaign keep their aims."""
WAYS: Mapping[Point, str] = {_point(text): scene for text, scene in _WAYS.items()} | LATER

_CALLERS = {
    "Delivery.read_decision / standing": "operations cancelled",
    "Endings._try_again / readopt": "operations rolled back",
    "Endings._undo / settle": "operations rolled back",
    "StoredValues.restore / restore": "operations rolled back",
    "Takeover._take / row": "behind an operation",
    "Takeover._take / thread": "behind an operation",
    "ThreadQueue._claim / claim": "behind an operation",
}
CALLERS: Mapping[Point, str] = {_point(text): scene for text, scene in _CALLERS.items()}
"""Points where mostly a worker waits by itself, but in this scene a caller, which may be cancelled."""

_OWN = "the worker calls the store there by itself"
_JOB = "a job calls the store there, which continues when the caller leaves"
_AGAIN = "the first call finds the row, and a job makes the repeated ones"
_NO_CALLER_WAITS = {
    "BusyThreads._read_holder / holder": "several callers share the read",
    "Admissions._take_back / withdraw": _JOB,
    "Cancellations._decide / decide": _JOB,
    "Drain._decide / decide": _OWN,
    "Drain._record / drain": _OWN,
    "Drain._record / workers": _OWN,
    "Expiry.sweep / expire_threads": _OWN,
    "Expiry.sweep / has_expired_threads": _OWN,
    "Settlement._write_hand_over / hand_over": _JOB,
    "HandOvers._hint / workers": _OWN,
    "Outbox._attempt / hand_over": _OWN,
    "Lifecycle._decide_own / finish": _JOB,
    "Lifecycle._write_end.<locals>.unless_lost / update_status": _JOB,
    "LoopPacemaker._beat / beat": _OWN,
    "Outbox._attempt / decide": _OWN,
    "Outbox._attempt / finish": _OWN,
    "Outbox._attempt / put": _OWN,
    "Outbox._attempt / readopt": _OWN,
    "Outbox._attempt / refence": _OWN,
    "Outbox._attempt / settle": _OWN,
    "Outbox._attempt / start": _OWN,
    "Outbox._attempt / thread": _OWN,
    "Outbox._attempt / withdraw": _OWN,
    "ThreadQueue.claim_for_others / claimable": _OWN,
    "ThreadQueue._claim_children / claimable_children": _OWN,
    "UnclaimedRuns.examine / unclaimed": _OWN,
    "Reaper._examine / fence_worker": _JOB,
    "Reaper._sweep / sweep": _JOB,
    "Reaper._sweep / workers": _JOB,
    "Reaper._undo / readopt": _JOB,
    "Reaper._undo / settle": _JOB,
    "Endings.leave_queue / decide": _JOB,
    "Endings._recreate / put": _AGAIN,
    "Endings._refence / refence": _JOB,
    "Endings._write_unwritten / decide": _JOB,
    "StateRemoval._claim / claim_removed_states": _OWN,
    "Timeouts.end / decide": _OWN,
    "Timeouts.end_unlaunched / decide": _OWN,
    "ThreadQueue._end_foreign / finish": _JOB,
    "Watch._tick / tick": _OWN,
    "Worker._new_epoch / register": _JOB,
    "Worker._sign_off / retire": "the caller that shuts a worker down waits until it has left",
    "prune / prune": _OWN,
}
NO_CALLER_WAITS: Mapping[Point, str] = {_point(text): why for text, why in _NO_CALLER_WAITS.items()}
"""Points where no caller can be cancelled, and why."""

NEVER: Mapping[Point, str] = {
    (
        "Admissions._admit",
        "holder",
    ): "only a store of records without rules of its own reports a broken index",
    ("Endings._without_result", "finish"): "the simulated store has room for everything",
    ("Extras._write", "update_extra"): "no simulated code has fields of its own: they decide nothing",
    ("Queries.has_inflight", "inflight_runs"): "no simulated client leaves out operations",
    ("Queries.has_inflight", "row"): "no simulated client leaves out operations",
    ("StoredValues.delete", "save"): "no simulated client gives a new thread a first state",
    ("confirming.<locals>.holds", "standing"): "only an event log that others keep calls a fence stale",
}
"""Points of the source that no simulated process comes to, and why."""

ALIASES: Mapping[Point, Point] = {
    ("Lifecycle.update_model_name", "update_model_name"): (
        "Lifecycle.best_effort.<locals>.unless_closed",
        "update_model_name",
    ),
    ("Lifecycle._write_start", "start"): ("Lifecycle.start", "start"),
    ("Endings._write_end", "finish"): ("Endings._finish", "finish"),
    ("HandOvers.write", "hand_over"): ("Settlement._write_hand_over", "hand_over"),
}
"""A call that is written in one function and awaited by another."""
