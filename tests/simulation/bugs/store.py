"""Guards in the transactions."""

from __future__ import annotations

from tests.simulation.bugs.edit import bug

_THREADS = "stores.sql.sqlite.threads:"
_ADMISSION = "stores.sql.sqlite.admission:"
_DECISIONS = "stores.sql.sqlite.decisions:"
_OWNERSHIP = "stores.sql.sqlite.ownership:"
_READING = "stores.sql.sqlite.reading:"
_WORKERS = "stores.sql.sqlite.workers:"
_ORPHANS = "stores.sql.sqlite.orphans:"
_RECORDS = "stores.sql.sqlite.records:"

_ATTEMPTS = "stores.sql.sqlite.attempts:"
_STARTS = "stores.sql.sqlite.starts:"

BUGS = (
    # -- further attempts
    bug("an-attempt-keeps-the-fence", (_ATTEMPTS + "_adopt", "SET fence = fence + 1", "SET fence = fence")),
    bug("an-attempt-of-a-decided-run", (_ORPHANS + "Orphaned.may_continue", "self.decided or ", "")),
    bug(
        "an-attempt-under-a-live-owner",
        (_ORPHANS + "_HANDED_OVER", "WHERE state = 'draining'", "WHERE state <> 'dead'"),
    ),
    bug(
        "a-death-takes-no-retry",
        (_ATTEMPTS + "_adopt", "retries - (stopped_at IS NULL AND status = 'running')", "retries"),
    ),
    bug(
        "a-hand-over-takes-a-retry",
        (_ATTEMPTS + "_adopt", "retries - (stopped_at IS NULL AND status = 'running')", "retries - 1"),
    ),
    bug(
        "handed-over-without-the-guard",
        (_ATTEMPTS + "hand_over", "WHERE {GUARD} AND", "WHERE run_id = :run AND"),
    ),
    bug(
        "handed-over-after-the-decision",
        (_ATTEMPTS + "hand_over", " AND status IN {OPEN_STATUSES} AND stopped_at", " AND stopped_at"),
    ),
    bug(
        "the-second-start-forgets-the-first",
        (_STARTS + "_BEGIN_ATTEMPT", "SET stopped_at = NULL", "SET stopped_at = NULL, rollback_ref = NULL"),
    ),
    bug("an-adoption-without-an-answer", (_ATTEMPTS + "sweep", "[] if by is None", "[] if 1")),
    bug("who-drains-continues", (_ATTEMPTS + "_knows", "epoch = ? AND state = 'live'", "epoch = ?")),
    bug(
        "an-unstarted-run-needs-retries",
        (_ORPHANS + "Orphaned.may_continue", "self.deaths < DEATHS", "self.retries > 0"),
    ),
    bug("who-leaves-ends-what-could-continue", (_ATTEMPTS + "waits", "if not run.may_continue", "if 1")),
    # -- admission
    bug(
        "reject-does-not-look",
        (_ADMISSION + "admit", "if in_flight and strategy is Strategy.reject:", "if 0:"),
    ),
    bug("admit-without-live-epoch", (_ADMISSION + "_existing_or_idle", "if not live:", "if 0:")),
    bug(
        "admit-ignores-the-key",
        (_ADMISSION + "_existing_or_idle", "elif spec.idempotency_key is not None:", "elif 0:"),
    ),
    bug(
        "interrupt-takes-a-held-thread",
        (_ADMISSION + "admit", "free = not any(other.holds_thread for other in in_flight)", "free = True"),
    ),
    bug(
        "interrupt-spares-who-waits",
        (_ADMISSION + "_replace", 'if other.kind == "run"', 'if other.kind == "run" and other.holds_thread'),
    ),
    bug(
        "enqueue-jumps-the-line",
        (
            _ADMISSION + "admit",
            "free = all(other.not_before is not None for other in in_flight)",
            "free = not any(other.holds_thread for other in in_flight)",
        ),
    ),
    bug(
        "line-without-bound",
        (_ADMISSION + "admit", "_check_thread_limit(spec, in_flight, limits.per_thread)", "pass"),
    ),
    bug(
        "admit-keeps-the-fence",
        (_THREADS + "_TOUCH_THREAD", "fence = threads.fence + :step", "fence = threads.fence"),
    ),
    bug(
        "deleted-thread-forgets-its-fence",
        (
            _THREADS + "_TOUCH_THREAD",
            "COALESCE((SELECT fence FROM deleted_threads WHERE thread_id = :thread), 0)",
            "0",
        ),
    ),
    bug(
        "an-heir-is-still-a-child",
        (_ADMISSION + "_place", "if admission.ended(spec.parent_run_id):", "if 0:"),
    ),
    # -- claim
    bug("claim-without-live-epoch", (_ADMISSION + "claim", "if is_dead(cx, epoch):", "if 0:")),
    bug(
        "claim-of-a-foreign-run",
        (_ADMISSION + "claim", "home_epoch IS :epoch OR (portable AND {HOMELESS} AND {KNOWN})", "1"),
    ),
    bug(
        "claim-takes-the-last",
        (_ADMISSION + "claim", "{WAITING} ORDER BY seq LIMIT 1", "{WAITING} ORDER BY seq DESC LIMIT 1"),
    ),
    bug("claim-keeps-the-fence", (_ADMISSION + "take_thread", "SET fence = fence + 1", "SET fence = fence")),
    bug("claim-of-a-held-thread", (_ADMISSION + "claim", "if busy is not None:", "if 0:")),
    # -- delayed runs
    bug(
        "delayed-runs-are-waited-for",
        (
            _ADMISSION + "admit",
            "free = all(other.not_before is not None for other in in_flight)",
            "free = not in_flight",
        ),
    ),
    bug(
        "dispatched-run-stays-with-its-worker",
        (_ADMISSION + "admit", "holds &= not request.dispatched", "pass"),
    ),
    bug(
        "a-delay-takes-the-thread",
        (_ADMISSION + "admit", "holds = free and spec.delay_ms is None", "holds = free"),
    ),
    bug(
        "delayed-runs-keep-their-old-place",
        (
            _ADMISSION + "queue_due",
            '"UPDATE runs SET seq = ?, not_before',
            '"UPDATE runs SET seq = MIN(seq, ?), not_before',
        ),
    ),
    bug(
        "due-before-its-time",
        (_ADMISSION + "queue_due", '" AND not_before <= ? ORDER', '" AND not_before IS NOT ? ORDER'),
    ),
    bug(
        "who-is-due-is-placed-behind-who-comes",
        (_ADMISSION + "_in_flight", "other.not_before <= now for other in runs", "0 for other in runs"),
    ),
    bug("a-claim-ignores-due-runs", (_ADMISSION + "claim", "queue_due(cx, thread_id, now)", "pass")),
    bug("the-tick-ignores-due-runs", (_READING + "_DUE", "not_before <= :now", "not_before < 0 * :now")),
    bug(
        "delayed-runs-die-with-their-home",
        (
            _ORPHANS + "_ALL",
            "AND owner_epoch IS NULL AND NOT portable",
            "AND owner_epoch IS NULL AND (NOT portable OR not_before IS NOT NULL)",
        ),
    ),
    # -- drain, takeover
    bug(
        "who-drains-admits",
        (
            _ADMISSION + "_existing_or_idle",
            "epoch = :epoch AND state = 'live'",
            "epoch = :epoch AND state <> 'dead'",
        ),
    ),
    bug("who-drains-takes-over", (_ADMISSION + "KNOWN", " AND state = 'live'", "")),
    bug("claim-from-a-living-home", (_ADMISSION + "HOMELESS", "(home_epoch", "1 OR (home_epoch")),
    bug(
        "claim-of-what-is-not-portable",
        (_ADMISSION + "claim", "(portable AND {HOMELESS} AND {KNOWN})", "{HOMELESS}"),
    ),
    bug("no-run-is-taken-over", (_ADMISSION + "claim", "(portable AND {HOMELESS} AND {KNOWN})", "0")),
    bug("drain-hands-nothing-over", (_WORKERS + "drain", "AND NOT holds_thread AND portable", "AND 0")),
    bug(
        "drain-hands-over-what-is-not-portable",
        (_WORKERS + "drain", "AND NOT holds_thread AND portable", "AND NOT holds_thread"),
    ),
    # -- decide, withdraw
    bug(
        "decide-overwrites",
        (_DECISIONS + "decide", "run_id = :run AND status IN {OPEN_STATUSES}", "run_id = :run"),
    ),
    bug(
        "decided-in-line-and-not-settled",
        (_DECISIONS + "_DECIDE", "CASE WHEN owner_epoch IS NULL THEN :now END", "NULL"),
    ),
    bug(
        "decide-frees-the-thread",
        (_DECISIONS + "_DECIDE", "CASE WHEN owner_epoch IS NULL THEN :now END", ":now, holds_thread = 0"),
    ),
    # -- what an owner writes
    bug(
        "zombies-write",
        (
            _OWNERSHIP + "GUARD",
            " AND EXISTS (SELECT 1 FROM workers WHERE epoch = runs.owner_epoch AND state <> 'dead')",
            "",
        ),
        (
            "stores.sql.sqlite.starts:GUARD",
            " AND EXISTS (SELECT 1 FROM workers WHERE epoch = runs.owner_epoch AND state <> 'dead')",
            "",
        ),
        (
            _OWNERSHIP + "_FINISH",
            " AND EXISTS (SELECT 1 FROM workers WHERE epoch = runs.owner_epoch AND state <> 'dead')",
            "",
        ),
    ),
    bug(
        "repeated-finish-forgets-the-run-it-started",
        (_OWNERSHIP + "_claim_next", "if row is not None:", "if 0:"),
    ),
    bug(
        "withdrawal-leaves-a-run-that-has-started",
        (_DECISIONS + "withdraw", "settled_at IS NULL", "settled_at IS NULL AND started_at IS NULL"),
    ),
    bug(
        "save-after-the-decision",
        (_OWNERSHIP + "save", " AND (status = 'running' OR (:last AND {STOPPED}))", ""),
    ),
    bug("every-save-moves-the-rollback-point", (_OWNERSHIP + "save", 'if "values" not in ref:', "if 1:")),
    bug("no-save-keeps-the-old-values", (_OWNERSHIP + "save", 'if "values" not in ref:', "if 0:")),
    bug(
        "finish-overwrites-the-decision",
        (
            _OWNERSHIP + "_FINISH",
            "status = CASE WHEN status IN ('pending', 'running') THEN :status ELSE status END",
            "status = :status",
        ),
    ),
    bug(
        "finish-does-not-wait-for-the-rollback",
        (_OWNERSHIP + "_FINISH", "OR cancel_action IS NOT 'rollback'", "OR 1"),
    ),
    bug(
        "hold-does-not-hold",
        (_OWNERSHIP + "_FINISH", "holds_thread = holds_thread AND :hold", "holds_thread = 0"),
        (_OWNERSHIP + "_FINISH", "CASE WHEN NOT :hold THEN :now END", ":now"),
    ),
    bug(
        "refence-keeps-the-threads-fence",
        (_OWNERSHIP + "refence", "(row[0], now, own.thread_id)", "(own.fence, now, own.thread_id)"),
    ),
    bug(
        "a-repeated-refence-is-lost",
        (_OWNERSHIP + "refence", " AND fence > :fence AND :fence > 0", " AND 0"),
    ),
    # -- workers
    bug("the-dead-renew", (_WORKERS + "beat", "{_MINE}", "epoch = :epoch")),
    bug(
        "living-runs-are-orphans", (_ORPHANS + "_ALL", "owner_epoch > after AND", "owner_epoch >= after AND")
    ),
    bug(
        "queued-orphans-are-not-ended",
        (_ORPHANS + "_ALL", "home_epoch < before", "home_epoch < -1"),
    ),
    bug("zombies-adopt", (_WORKERS + "sweep", "None if by is None or is_dead(cx, by) else by", "by")),
    bug("adopted-with-the-old-fence", (_WORKERS + "_adopt", "SET fence = fence + 1", "SET fence = fence")),
    bug("a-lost-answer-to-a-sweep", (_WORKERS + "_adopted_before", "return [", "return [] and [")),
    bug("no-rollback-is-adopted", (_WORKERS + "_end_all", "if run.undo and", "if 0 and")),
    bug(
        "sweep-leaves-what-is-beside",
        (_WORKERS + "sweep", "AND cancel_action IS NOT NULL AND NOT holds_thread", "AND 0"),
    ),
    # -- threads
    bug(
        "an-expired-thread-leaves-no-state",
        (_THREADS + "_remove", "leave(cx, now, thread_id, fence)", "pass"),
    ),
    # -- records
    bug(
        "put-resets-the-fence",
        (
            _RECORDS + "put",
            "COALESCE((SELECT fence FROM deleted_threads WHERE thread_id = :thread), 0)",
            "0",
        ),
    ),
    bug(
        "delete-takes-who-waits",
        (
            _RECORDS + "delete_thread",
            "AND NOT {IN_FLIGHT}",
            "AND run_id <> (SELECT max(run_id) FROM runs WHERE kind = 'op')",
        ),
    ),
)
