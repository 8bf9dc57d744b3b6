"""explain: the history of a run as a timeline, and its current state."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from coordinator.cli import screen
from coordinator.cli.access import observing, run_or_fail
from coordinator.cli.documents import receipt_document, run_document, transition_document
from coordinator.cli.failures import DONE
from coordinator.cli.how_ended import EndedBy, adopted_after_cancel, ended_by, forced, unstopped
from coordinator.cli.owners import Owners
from coordinator.cli.pauses import Pause
from coordinator.cli.text import counted, short, span
from coordinator.cli.tracebacks import traceback_location
from coordinator.resources.runs import Explanation
from coordinator.settings import Settings
from stores.projections import PendingChange
from stores.rows import Transition

_COLUMNS = ("TIME", "AFTER", "WHAT", "STATUS", "BY", "WHY", "EPOCH", "FENCE")

_LABELS = {
    "admitted": "admitted",
    "queued": "queued",
    "delayed": "delayed",
    "claimed": "claimed",
    "started": "started",
    "decided": "decided",
    "finished": "ended",
    "settled": "thread free",
    "saved": "last save",
    "adopted": "adopted",
    "fenced": "fenced",
}


async def explain(settings: Settings, run_id: str, *, as_json: bool) -> int:
    async with observing(settings) as observer:
        run_id = (await run_or_fail(observer.store, settings, run_id)).run_id
        explanation = await observer.manager.runs.explain(run_id)
        receipt = await observer.manager.runs.receipt(run_id)
        traceback = await traceback_location(observer.store, explanation.transitions)
        owners = await Owners.read(observer.store)
        pause = await Pause.read(observer.store, explanation.run)
    if as_json:
        screen.show_document(
            {
                "run": run_document(explanation.run, explanation.position, owners=owners),
                "holder": explanation.holder,
                "waits_for": explanation.waits_for,
                "waits_for_answer": pause.waits_for_answer,
                "receipt": receipt_document(receipt) if explanation.run.cancel_action is not None else None,
                "traceback": traceback,
                "timeline": [transition_document(step) for step in explanation.transitions],
                "pending_changes": [change._asdict() for change in explanation.pending_changes],
            }
        )
        return DONE
    steps = explanation.transitions
    day = f"{datetime.fromtimestamp(steps[0].at / 1e6).astimezone():%Y-%m-%d, UTC%z}" if steps else ""
    loss = owners.loss(explanation.run)
    paused = "" if pause.sentence is None else f"; paused: {pause.sentence}"
    screen.show_lines([f"{_headline(explanation, loss)}{paused}", day])
    dead = ended_by(explanation.run, steps) is EndedBy.dead_worker and not adopted_after_cancel(steps)
    lines = [_cells(step, steps[index - 1] if index else None, dead=dead) for index, step in enumerate(steps)]
    screen.show_table(_COLUMNS, lines, none="its history was pruned", spare=("FENCE", "EPOCH", "AFTER"))
    still = None if loss else unstopped(explanation.run, time.time_ns() // 1000, None)
    still = still or forced(explanation.run, steps)
    if explanation.run.rollback_state is not None:
        screen.show_lines([f"rollback: {explanation.run.rollback_state}"])
    screen.show_lines([*([] if still is None else [still]), *_behind(explanation.pending_changes)])
    if explanation.run.error is not None:
        screen.show_lines(["", f"error: {short(explanation.run.error, 2000)}"])
    if traceback is not None:
        screen.show_lines([f"traceback: {traceback}"])
    return DONE


def _behind(pending: Sequence[PendingChange]) -> list[str]:
    """A line for each projection that lacks changes of the run."""
    lines = list[str]()
    for projection, count in Counter(change.projection for change in pending).items():
        failed = next(
            (one for one in pending if one.projection == projection and one.error is not None), None
        )
        why = (
            "" if failed is None else f"; attempt {failed.attempts} failed: {short(failed.error or '', 500)}"
        )
        lines.append(
            f"projection {projection!r} does not have {counted(count, 'change')} of the run yet{why}"
        )
    return lines


def _headline(explanation: Explanation, loss: str | None) -> str:
    """`loss`: see `Owners.loss`."""
    run, holder = explanation.run, explanation.holder
    state = (
        f"{run.phase.value}, {run.status.value}" if run.phase.value != run.status.value else run.status.value
    )
    text = f"run {run.run_id!r} on thread {run.thread_id!r}: {state}"
    if loss is not None:
        held = f"; holds the thread with fence {run.fence}" if run.holds_thread else ""
        return f"{text}{held}; {loss}"
    if run.delayed and run.not_before is not None:
        due = datetime.fromtimestamp(run.not_before / 1e6).astimezone()
        return f"{text}; delayed until {due:%Y-%m-%d %H:%M:%S}"
    if explanation.position is not None and run.holds_thread:
        return (
            f"{text}; holds the thread; position {explanation.position} of the runs that wait for a place of"
            f" worker epoch {run.owner_epoch}"
        )
    if explanation.position is not None:
        behind = f" behind run {holder!r}" if holder is not None else ""
        waits = f"; waits for {explanation.waits_for}" if explanation.waits_for is not None else ""
        return f"{text}; position {explanation.position} in the queue of its thread{behind}{waits}"
    if run.attempt > 1:
        text = f"{text}, attempt {run.attempt}"
    if run.holds_thread:
        stopped = f"stopped by worker epoch {run.owner_epoch}, to be continued by a worker"
        held = f"holds the thread on worker epoch {run.owner_epoch} with fence {run.fence}"
        return f"{text}; {stopped if run.between_attempts else held}"
    return f"{text}; the thread is now held by run {holder!r}" if holder is not None else text


def _cells(step: Transition, previous: Transition | None, *, dead: bool) -> list[object]:
    """`dead`: other workers have freed the thread, because the run's worker was declared dead."""
    status = step.to_status.value
    if step.from_status is not None and step.from_status is not step.to_status:
        status = f"{step.from_status.value} → {status}"
    if step.what == "adopted" and previous is not None:
        by, why = _adoption(step, previous)
        return [*_beginning(step, previous, status), by, why, step.epoch, step.fence or None]
    if step.what == "settled" and dead:
        why = f"worker epoch {step.epoch} is dead or has lost its lease"
        return [*_beginning(step, previous, status), "other workers", why, step.epoch, step.fence or None]
    has_cause = step.what in ("decided", "finished", "admitted", "queued", "delayed", "recorded")
    return [
        *_beginning(step, previous, status),
        step.actor if has_cause and step.actor else "",
        _cause(step) if has_cause else "",
        step.epoch,
        step.fence or None,
    ]


def _beginning(step: Transition, previous: Transition | None, status: str) -> list[object]:
    """The cells from TIME to STATUS."""
    moment = datetime.fromtimestamp(step.at / 1e6).astimezone()
    return [
        f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}",
        "" if previous is None else f"+{span((step.at - previous.at) / 1e6)}",
        _LABELS.get(step.what, step.what),
        status,
    ]


def _adoption(step: Transition, previous: Transition) -> tuple[str, str]:
    """The worker that adopted the run, and what has become of the one that had it before."""
    by, former = f"worker epoch {step.epoch}", f"worker epoch {previous.epoch}"
    return by, f"{former} drains" if previous.what == "handed over" else f"{former} is dead"


def _cause(step: Transition) -> str:
    cause = step.cause.value if step.cause is not None else ""
    return f"{cause}: {step.detail}" if cause and step.detail else cause or str(step.detail or "")
