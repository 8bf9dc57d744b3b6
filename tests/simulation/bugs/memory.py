"""Guards in the manager and below it."""

from __future__ import annotations

from tests.simulation.bugs.edit import bug

_ADMISSION = "coordinator.runs.admission:Admissions."
_SETTLEMENT = "coordinator.runs.settlement:Settlement."
_LINE = "coordinator.runs.thread_queue:ThreadQueue."
_DELIVERY = "coordinator.runs.cancellation:Delivery."
_CANCEL = "coordinator.runs.cancellation:Cancellations."
_TASK_CANCEL = "coordinator.runs.task_cancel:TaskCancel."
_ENTRY = "coordinator.runs.entry:Entry."
_ENDINGS = "coordinator.runs.endings:Endings."
_REGISTRY = "coordinator.runs.registry:"
_WORKER = "coordinator.workers.worker:Worker."
_LEASE = "coordinator.workers.lease:Lease."
_HEART = "coordinator.workers.pacemaker:LoopPacemaker."
_DRAIN = "coordinator.workers.drain:Drain."
_TAKEOVER = "coordinator.runs.takeover:Takeover."
_REAPER = "coordinator.workers.reaper:Reaper."
_WATCH = "coordinator.workers.watch:Watch."
_QUERIES = "coordinator.runs.queries:"
_REMOVAL = "coordinator.assistants.removal:StateRemoval."

_EARLY = """early = self._registry.entry(run_id)
    if early is not None and early.own is not None and early.open: early.stop(abort, '')
    try:"""

_NOT_RESTORED = """hold.rollback_ref
    own, done = hold.own, self._with_facts(end, entry, hold.own)
    return await self._persist(entry, lambda: self._store.settle(own, done, 'done'))
"""

BUGS = (
    bug(
        "the-drain-ends-what-could-continue",
        ("coordinator.workers.drain:Drain._end", "if entry.handed_over or entry.may_continue:", "if 0:"),
    ),
    bug(
        "a-handed-over-run-is-not-settled",
        (
            "coordinator.runs.cancellation:Delivery.apply_row",
            "if self._is_stopping(entry):",
            "if entry.handed_over or self._is_stopping(entry):",
        ),
    ),
    bug(
        "an-adoption-is-forgotten",
        ("coordinator.workers.reaper:Reaper._recover", "await self.continue_run(orphan.adopted)", "pass"),
    ),
    # -- admission
    bug(
        "a-cancelled-admission-stays",
        (_ADMISSION + "admit", "await self._undo(self._interrupt(request), request)", "pass"),
    ),
    bug(
        "a-cancelled-create-stays",
        (_ADMISSION + "insert", "await self._undo(self._take_back(request), request)", "pass"),
    ),
    bug(
        "an-unknown-outcome-stays",
        (_ADMISSION + "_resolve", "if self._registry.entry(request.run_id) is None:", "if 0:"),
    ),
    bug(
        "redis-refuses",
        (
            "coordinator.runs.busy:BusyThreads.refuse",
            "await patience.attempt(partial(self._verify, request))",
            'raise ConflictError(request.spec.thread_id, answer.holder or "")',
        ),
    ),
    bug("admitted-while-it-was-fenced", (_ADMISSION + "_check_epoch", "self._worker.check(epoch)", "pass")),
    bug(
        "replaced-runs-are-not-cancelled",
        (_ADMISSION + "_admitted", "for decision in admission.replaced:", "for decision in ():"),
    ),
    bug(
        "admitted-after-it-has-left",
        (_ADMISSION + "_added", "entry.own is None", "0"),
    ),
    bug("an-early-claim-has-the-former-epoch", (_ADMISSION + "_added", "and entry.own is None", "")),
    bug(
        "an-admission-replaces-a-takeover",
        (_ADMISSION + "_added", "self._registry.under_way(request.run_id) is not None", "0"),
    ),
    bug(
        "a-late-takeover-replaces-a-later-one",
        (_TAKEOVER + "_take", "self._registry.owned(own.run_id) is not None", "0"),
    ),
    bug(
        "a-delay-is-not-waited-for",
        (_ADMISSION + "register", "if delay and own is None:", "if 0:"),
    ),
    bug("a-write-is-pending-for-ever", ("stores.outbox:Outbox._enqueue", "if self._closed:", "if 0:")),
    # -- cancel
    bug(
        "acknowledged-before-it-is-written",
        (_CANCEL + "cancel", "decision = await asyncio.shield(deciding)", "return True"),
    ),
    bug(
        "cancelled-before-it-is-written",
        (
            _CANCEL + "_stop",
            "try:",
            _EARLY,
        ),
    ),
    bug("a-cancel-ends-with-its-epoch", (_CANCEL + "_stop", "self._outbox.enqueue(", "(lambda *_: None)(")),
    bug(
        "a-standstill-takes-the-time-to-stop",
        ("coordinator.runs.work:Force.start", "PARTS, seconds / PARTS", "1, seconds"),
    ),
    bug(
        "a-late-job-outlives-its-manager",
        (
            "coordinator.assembly.whole:Assembly.close",
            "await shared.jobs.finished(within=min(1.0, closing.share))  # those",
            "pass  #",
        ),
    ),
    bug(
        "wait-returns-at-once",
        (_CANCEL + "cancel", "if answer and wait is not None:", "if 0:"),
    ),
    bug(
        "a-removed-run-has-not-settled",
        (
            _CANCEL + "_until_over",
            "if not self._registry.is_unsettled(run_id) and",
            "raise NotSettled(run_id, wait)\n        if",
        ),
    ),
    bug(
        "nothing-is-published",
        (_DELIVERY + "_deliver", "if home is not None and home != self._worker.epoch:", "if 0:"),
    ),
    bug(
        "a-second-cancel",
        (
            _ENTRY + "apply",
            "if self.abort is not None or self.settled.is_set():",
            "if self.settled.is_set():",
        ),
        (
            "coordinator.runs.work:Work.cancel_task",
            "task.done() or (self.cancel is not None and self.cancel.task is task):",
            "task.done():",
        ),
        (_ENTRY + "stop", "if isinstance(state, Closing):", "if isinstance(state, (Closing, Stopping)):"),
        (
            _DELIVERY + "_is_stopping",
            "entry.abort is not None or entry.settled.is_set()",
            "entry.settled.is_set()",
        ),
    ),
    bug(
        "a-swallowed-cancel-is-lost",
        (_TASK_CANCEL + "_swallowed", "return self._sentinel is not None and", "return 0 and"),
    ),
    bug(
        "an-unwritten-cancel-is-forgotten",
        (
            _ENDINGS + "write",
            "(abort := entry.unwritten) is not None",
            "(abort := None) is not None",
        ),
    ),
    # -- settlement
    bug(
        "tracked-work-is-not-waited-for",
        (_SETTLEMENT + "_conclude", "while entry.work.tracked and not entry.work.forced:", "while 0:"),
    ),
    bug(
        "settled-before-the-task-stopped",
        (_SETTLEMENT + "wind_up", "if entry.stopped or entry.queued:", "if 1:"),
    ),
    bug("the-context-stays-open", ("coordinator.runs.states:Hold.close", "self.context.close()", "pass")),
    bug("no-run-is-forced", (_SETTLEMENT + "arm_force", "if not entry.settled.is_set():", "if 0:")),
    bug("forced-with-a-good-fence", (_ENDINGS + "write", "if entry.work.forced:", "if 0:")),
    bug(
        "an-owner-gives-up",
        (
            "stores.outbox:Outbox.deliver",
            'logger.warning("%s The write is pending and is retried: %s (run %r)", error, what, run_id)',
            "raise",
        ),
    ),
    bug(
        "a-claim-without-an-answer",
        (_LINE + "_claim_or_queue", "self._outbox.enqueue(", "(lambda *_: None)("),
    ),
    bug(
        "a-line-without-a-home-waits-for-ticks",
        (
            _LINE + "dispatch_next",
            "if next_home not in (ANY_WORKER, self._worker.epoch):",
            "if next_home != self._worker.epoch:",
        ),
    ),
    bug("nobody-passes-on", (_LINE + "dispatch_next", "if next_home is None:", "if 1:")),
    bug("a-lost-run-goes-on", (_SETTLEMENT + "lose", "if entry.abort is None:", "if 0:")),
    bug(
        "the-undoing-is-skipped", (_ENDINGS + "write", "finish = await self._undo(entry, hold, end)", "pass")
    ),
    bug(
        "restored-values-are-not-settled",
        (
            _ENDINGS + "_undo",
            "hold.rollback_ref\n",
            _NOT_RESTORED,
        ),
    ),
    bug("in-line-and-over", (_SETTLEMENT + "_end", "await self._leave_queue(entry)", "pass")),
    bug("who-leaves-stays-unsettled", (_SETTLEMENT + "abandon", "self._settle_lost(entry)", "pass")),
    # -- the tick, hints
    bug(
        "tick-does-not-look-at-cancels",
        (_WATCH + "_tick", "for run_id in tick.cancelled:", "for run_id in ():"),
    ),
    bug(
        "tick-does-not-claim",
        (_WATCH + "_tick", "await self._claim(tick.free_threads)", "pass"),
    ),
    bug("tick-forgets-who-waits", (_WATCH + "_tick", "if entry.queued and", "if 0 and")),
    bug(
        "hints-are-ignored",
        (
            _WATCH + "signal",
            'if signal.kind == "cancel" and signal.run_id is not None:',
            "if signal.kind == 'cancel': return\n    if 0:",
        ),
    ),
    bug(
        "a-removed-run-is-not-told",
        (_REGISTRY + "Registry.removed", "if run_id not in self._unsettled:", "if 1:"),
    ),
    bug(
        "dropped-and-foreign",
        (_REGISTRY + "Registry.under_way", "or self._unsettled.get(run_id)", "or None"),
    ),
    bug(
        "an-early-claim-is-foreign",
        (_REGISTRY + "Registry.claimed", "is not None and arriving.admitted", "is not None and 0"),
    ),
    # -- the worker
    bug(
        "the-lease-is-not-checked",
        (_LEASE + "check", "if term.epoch == epoch and self.clock() <= term.deadline:", "if 1:"),
    ),
    bug("a-dead-worker-continues", (_HEART + "_beat", "lease.revoke(epoch, DECLARED_DEAD)", "pass")),
    bug(
        "the-lease-begins-at-the-answer",
        (_HEART + "_beat", "lease.renewed(epoch, began)", "lease.renewed(epoch, lease.clock())"),
        (_WORKER + "__init__", "settings.lease_ttl - settings.lease_margin", "settings.lease_ttl"),
    ),
    bug(
        "registered-before-the-tasks-are-gone",
        (_WORKER + "_register", "await self.dropped_runs_stopped()", "pass"),
    ),
    bug(
        "registered-for-good-while-it-drains",
        (_WORKER + "_register", "leaves = self.draining", "leaves = False"),
    ),
    bug("admits-while-it-drains", (_WORKER + "ready", "if self._draining or self._closed:", "if 0:")),
    bug(
        "fenced-and-no-run-is-dropped",
        (
            "coordinator.assembly.whole:Assembly._fenced",
            "for entry in self.shared.registry.unsettled():",
            "for entry in ():",
        ),
    ),
    # -- drain
    bug("a-wish-is-not-heeded", (_DRAIN + "accept_request", "if wish != self._accepted_request:", "if 0:")),
    bug("the-drain-is-not-written", (_DRAIN + "_run", "await self._leave_admission()", "pass")),
    bug("the-drain-is-not-written-later", (_DRAIN + "record", "if self._unrecorded and", "if 0 and")),
    bug(
        "handed-over-and-kept",
        (_DELIVERY + "_release_if_elsewhere", "self._settlement.hand_over(entry)", "pass"),
    ),
    bug("handed-over-is-over", (_SETTLEMENT + "hand_over", "entry.lose()", "pass")),
    bug(
        "taken-over-and-not-run",
        (
            "coordinator.runs.takeover:Takeover._take",
            "task = self._execution.launch(entry.record, assistant)",
            "return True",
        ),
    ),
    # -- the reaper
    bug(
        "admitted-before-the-first-sweep",
        (_REAPER + "first_sweep", "if self._swept.is_set():", "if 1:"),
    ),
    bug(
        "one-look-is-proof-of-death",
        (_REAPER + "_silent_for", "return now - seen[1]", "return peer.ttl_ms / 1000"),
    ),
    bug(
        "silence-from-the-first-look",
        (_REAPER + "_silent_for", "if seen is None or seen[0] != peer.hb_seq:", "if seen is None:"),
    ),
    bug(
        "no-worker-is-declared-dead",
        (
            _REAPER + "_examine",
            "if not proven and not silent_twice_the_ttl and not (peer",
            "if 1 or not (peer",
        ),
    ),
    bug(
        "an-adopted-rollback-is-left", (_REAPER + "_recover", "if orphan.adopted is not None and", "if 0 and")
    ),
    # -- state outside of the store
    bug("a-run-begins-with-removed-state", (_REMOVAL + "before", "if left is not None", "if 0")),
    bug("state-that-is-not-removed-is-forgotten", (_REMOVAL + "_remove", "continue\n        done", "done")),
    # -- waiting
    bug(
        "a-deleted-run-times-out",
        (
            _QUERIES + "Queries.ended",
            "(entry is None or entry.elsewhere) and await self._store.row(run_id) is None",
            "0",
        ),
    ),
    bug("decided-is-settled", (_QUERIES + "is_settled", "return row.settled or", "return not row.open or")),
    bug(
        "a-lost-run-answers-for-itself",
        (_QUERIES + "Waiter.until_settled", "return not entry.elsewhere or", "return 1 or"),
    ),
)
