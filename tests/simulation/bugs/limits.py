"""Guards of time limits, families, owners, what is kept and what is full."""

from __future__ import annotations

from tests.simulation.bugs.edit import bug

_TIMEOUTS = "coordinator.runs.timeouts:Timeouts."
_SILENCE = "coordinator.runs.timeouts:_Silence."
_DELIVERY = "coordinator.runs.cancellation:Delivery."
_CANCEL = "coordinator.runs.cancellation:Cancellations."
_ENDINGS = "coordinator.runs.endings:Endings."
_DECISIONS = "stores.sql.sqlite.decisions:"
_ADMISSION = "stores.sql.sqlite.admission:"
_OWNERSHIP = "stores.sql.sqlite.ownership:"
_WORKERS = "stores.sql.sqlite.workers:"
_PRUNING = "stores.sql.sqlite.pruning:"

BUGS = (
    # -- time limits
    bug("no-run-timer", (_TIMEOUTS + "runs", "if timeout is not None:", "if 0:")),
    bug("silence-may-last", (_TIMEOUTS + "runs", "if idle is not None:", "if 0:")),
    bug(
        "no-queue-timer",
        (_TIMEOUTS + "waits", "if isinstance(entry.state, Waiting) and", "if 0 and"),
    ),
    bug(
        "a-sign-of-life-is-ignored",
        (_SILENCE + "lasts", "if active_at > self.since:", "if 0:"),
    ),
    bug(
        "a-standstill-is-silence",
        (_SILENCE + "lasts", "self.blocked += max(0.0,", "self.blocked += min(0.0,"),
    ),
    bug(
        "a-turn-does-not-end-the-waiting",
        (_TIMEOUTS + "_expired", "(cause is Cause.queue_timeout and entry.own is not None)", "0"),
        (_TIMEOUTS + "runs", "entry.stop_timers()", "pass"),
        (_DECISIONS + "decide", "(NOT :while_waiting OR {_NOT_HOLDING})", "(:while_waiting OR 1)"),
    ),
    bug(
        "a-claimed-run-ends-by-queue-timeout",
        (_DECISIONS + "decide", "(NOT :while_waiting OR {_NOT_HOLDING})", "(:while_waiting OR 1)"),
    ),
    bug(
        "handed-over-and-ended",
        (_DECISIONS + "decide", "(:home IS NULL OR home_epoch = :home)", "(:home IS NULL OR 1)"),
    ),
    bug(
        "the-tick-ignores-overdue-runs",
        ("coordinator.workers.watch:Watch._tick", "for overdue in tick.overdue:", "for overdue in ():"),
    ),
    bug(
        "a-limit-waits-for-the-store",
        (_TIMEOUTS + "end", "if entry is None or entry.own is None or not entry.open:", "if 1:"),
    ),
    bug(
        "no-launch-timer",
        (_TIMEOUTS + "end_unlaunched", "if (limit := self._launch_within) is None:", "if 1:"),
    ),
    bug(
        "launched-and-ended-as-forgotten",
        (
            "coordinator.runs.timeouts:_is_untouched",
            "return long and not entry.touched and",
            "return long and",
        ),
    ),
    bug(
        "what-is-tracked-takes-as-long-as-it-likes",
        (_TIMEOUTS + "_expired", "(entry.returned and not entry.work.tracked)", "entry.returned"),
    ),
    # -- families
    bug("children-go-on", (_DECISIONS + "end_children", "if status is RunStatus.success:", "if 1:")),
    bug(
        "children-of-a-failure-go-on",
        (_OWNERSHIP + "_finish", "if decision.status is not RunStatus.success:", "if 0:"),
    ),
    bug(
        "children-of-the-dead-go-on",
        (_WORKERS + "_end", "end_children(cx, run_id, status, now)", "()"),
    ),
    bug(
        "grandchildren-go-on",
        (
            _DECISIONS + "_KIN",
            "ON child.parent_run_id = kin.run_id AND",
            "ON child.parent_run_id = kin.run_id || ' of no run' AND",
        ),
    ),
    bug(
        "a-child-that-comes-too-late",
        (_ADMISSION + "_check_parent", "if parent[0] not in OPEN and", "if 0 and"),
    ),
    bug(
        "children-are-not-cancelled",
        (_DELIVERY + "_deliver", "for child in decision.children", "for child in ()"),
    ),
    # -- owners, watchers
    bug("a-stranger-cancels", (_CANCEL + "cancel", "if user_id is not None and", "if 0 and")),
    bug(
        "a-stranger-sees",
        ("coordinator.runs.queries:Queries.get", "if user_id is None or known.user_id == user_id", "if 1"),
    ),
    bug(
        "who-is-watched-needs-it",
        (_CANCEL + "disconnected", "run.on_disconnect != DisconnectMode.cancel", "0"),
    ),
    bug(
        "an-end-is-not-delivered",
        (
            "coordinator.events.follower:Follower._read_row",
            "self._settled = standing.settled",
            "pass",
        ),
    ),
    bug(
        "the-end-is-delivered-too-soon",
        ("coordinator.events.standing:_settled", "if not is_settled(row):", "if row.open:"),
    ),
    # -- rollbacks that fail
    bug("undone-without-end", (_WORKERS + "readopt", ">= ROLLBACK_ATTEMPTS", ">= 99")),
    bug(
        "the-first-failure-is-the-last",
        (
            _ENDINGS + "_undo",
            "if await self._try_again(entry, hold):",
            "if 0:",
        ),
    ),
    bug("another-try-is-not-remembered", (_ENDINGS + "write", "if hold.retrying:", "if 0:")),
    bug(
        "tried-again-with-the-old-fence", (_WORKERS + "_adopt", "SET fence = fence + 1", "SET fence = fence")
    ),
    # -- what is full, what is old
    bug(
        "a-full-outbox-takes-more",
        ("stores.outbox:Outbox.check_room", "if len(self._pending) >= self._limit:", "if 0:"),
    ),
    bug(
        "what-runs-is-pruned",
        (_PRUNING + "_runs", "if settled is not None and settled <=", "if (settled or 0) <="),
        (_PRUNING + "_remove_runs", " AND settled_at IS NOT NULL", ""),
    ),
    bug(
        "the-young-are-pruned",
        (_PRUNING + "_runs", "settled <= (before if keyless else with_key)", "settled <= now"),
    ),
    bug("the-last-run-is-pruned", (_PRUNING + "_runs", " and not last", "")),
    bug("a-key-is-pruned", (_PRUNING + "_runs", "(before if keyless else with_key)", "before")),
    bug(
        "who-has-runs-is-pruned",
        (
            _PRUNING + "_workers",
            " AND NOT EXISTS (SELECT 1 FROM runs WHERE owner_epoch = workers.epoch AND holds_thread)",
            "",
        ),
    ),
)
