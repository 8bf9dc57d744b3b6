"""Planted bugs: each guard of the real code removed or weakened once, by its text.

A bug is an edit of one function's source or of one SQL constant. If the text is not found, planting the bug
raises LookupError: a change of the guard has to update the bug.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.simulation.bugs import limits, memory, store
from tests.simulation.bugs.edit import Bug

_ALL = (*store.BUGS, *memory.BUGS, *limits.BUGS)
BUGS: dict[str, Bug] = {bug.name: bug for bug in _ALL}
assert len(BUGS) == len(_ALL), "two bugs have one name"

_STORES = "tests/conformance/run_store/"
_TESTS = "tests/fundamentals/"
FOUND_ELSEWHERE: Mapping[str, str] = {
    "a-key-is-pruned": _STORES + "pruning.py::test_idempotency_keys_are_remembered_for_a_day_at_least",
    "a-line-without-a-home-waits-for-ticks": _TESTS
    + "test_inherited_lines.py::test_handed_over_queue_needs_no_tick_between_its_runs",
    "a-removed-run-is-not-told": _TESTS
    + "test_catalogue.py::test_wait_raises_run_not_found_when_the_run_is_removed",
    "a-cancel-ends-with-its-epoch": _TESTS
    + "test_attempts.py::test_cancel_that_could_not_be_written_stops_the_next_attempt",
    "a-late-job-outlives-its-manager": _TESTS
    + "test_shutdown.py::test_job_that_begins_while_the_worker_signs_off_does_not_outlive_it",
    "a-standstill-takes-the-time-to-stop": _TESTS
    + "test_force.py::test_time_in_which_the_loop_is_blocked_is_not_taken_from_the_task",
    "a-late-takeover-replaces-a-later-one": _TESTS
    + "test_portable_runs.py::test_takeover_that_is_late_replaces_no_later_one",
    "an-admission-replaces-a-takeover": _TESTS + "test_portable_runs.py"
    "::test_run_taken_over_in_a_new_epoch_before_its_admission_returns_can_be_cancelled",
    "an-early-claim-has-the-former-epoch": _TESTS
    + "test_portable_runs.py::test_run_claimed_in_a_new_epoch_before_its_admission_returns_is_executed",
    "registered-for-good-while-it-drains": _TESTS
    + "test_drain.py::test_worker_that_registers_while_its_drain_begins_admits_nothing",
    "the-drain-is-not-written-later": _TESTS
    + "test_drain.py::test_drain_that_the_store_could_not_record_is_recorded_later",
    "a-limit-waits-for-the-store": _TESTS
    + "test_time_limits.py::test_timeout_stops_the_task_although_it_cannot_be_written",
    "admits-while-it-drains": _TESTS + "test_drain.py::test_draining_worker_is_shown_during_a_store_outage",
    "admitted-after-it-has-left": _TESTS
    + "test_shutdown.py::test_admission_answered_after_the_shutdown_is_refused",
    "another-try-is-not-remembered": _TESTS
    + "test_rollback.py::test_operation_interrupted_during_its_second_rollback_is_rolled_back",
    "claim-of-what-is-not-portable": "coordinator/testing/conformance/stores/recovery.py::"
    "run_that_is_not_portable_ends_with_its_home",
    "handed-over-without-the-guard": "coordinator/testing/conformance/stores/attempts.py::"
    "former_owner_writes_nothing_after_the_adoption",
    "handed-over-and-kept": _TESTS + "test_drain.py::test_queued_portable_run_is_handed_over",
    "launched-and-ended-as-forgotten": _TESTS
    + "test_never_launched.py::test_run_that_its_caller_uses_is_not_ended",
    "the-tick-ignores-overdue-runs": _TESTS
    + "test_time_limits.py::test_tick_of_any_worker_ends_overdue_runs",
    "a-write-is-pending-for-ever": "tests/unit/"
    "test_pending_writes.py::test_closed_outbox_accepts_no_pending_write",
    "put-resets-the-fence": _STORES
    + "rollbacks.py::test_a_record_put_back_on_a_deleted_thread_does_not_reset_its_fence",
    "repeated-finish-forgets-the-run-it-started": _STORES
    + "starts.py::test_repeated_finish_returns_the_run_that_it_started",
    "sweep-leaves-what-is-beside": _STORES + "workers.py::test_a_run_beside_the_slot_ends_with_its_worker",
    "the-last-run-is-pruned": _STORES
    + "pruning.py::test_old_runs_go_with_their_audit_and_the_last_of_each_thread_stays",
    "the-lease-begins-at-the-answer": "tests/unit/test_pacemakers.py::"
    "test_loop_pacemaker_counts_the_lease_from_before_the_store_answered",
    "the-drain-is-not-written": _TESTS + "test_drain.py::test_queued_portable_run_is_handed_over",
    "the-young-are-pruned": _STORES + "pruning.py::test_idempotency_keys_are_remembered_for_a_day_at_least",
    "who-drains-takes-over": _STORES + "lines.py::test_draining_worker_claims_no_orphaned_run",
    "who-has-runs-is-pruned": _STORES + "pruning.py::test_dead_workers_go_when_nothing_of_theirs_is_left",
    "who-leaves-stays-unsettled": _TESTS + "test_shutdown.py::test_wait_for_an_abandoned_run_ends",
    "a-claimed-run-ends-by-queue-timeout": _TESTS
    + "test_time_limits.py::test_turn_at_the_moment_of_the_queue_timeout_wins",
    "zombies-adopt": _STORES + "rollbacks.py::test_a_zombie_adopts_nothing",
}
"""Guards whose removal no seed of CI detects: another guard precedes them, they keep no property of the
simulation (the age of pruned rows), or they matter at one instant only. Each with the test that detects the
bug, which can be tried with `tests.simulation.bugs.plant`."""
