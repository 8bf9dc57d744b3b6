"""explain: a run's history as a timeline, and where it stands now."""

from __future__ import annotations

from datetime import datetime

from coordinator.cli import screen
from coordinator.cli.access import looking_at, run_or_fail
from coordinator.cli.documents import receipt_document, run_document, transition_document
from coordinator.cli.failures import DONE
from coordinator.cli.text import short, span
from coordinator.cli.tracebacks import place_of_traceback
from coordinator.resources.runs import Explanation
from coordinator.settings import Settings
from stores.rows import Transition

_COLUMNS = ("TIME", "AFTER", "WHAT", "STATUS", "BY", "WHY", "EPOCH", "FENCE")

_MEANING = {
    "admitted": "admitted",
    "queued": "waits",
    "delayed": "delayed",
    "claimed": "its turn",
    "started": "started",
    "decided": "decided",
    "finished": "ended",
    "settled": "thread free",
    "saved": "last save",
    "adopted": "adopted",
    "fenced": "fenced off",
}


async def explain(settings: Settings, run_id: str, *, as_json: bool) -> int:
    async with looking_at(settings) as seen:
        run_id = (await run_or_fail(seen.store, settings, run_id)).run_id
        told = await seen.manager.runs.explain(run_id)
        receipt = await seen.manager.runs.receipt(run_id)
        traceback = await place_of_traceback(seen.store, told.transitions)
    if as_json:
        screen.show_document(
            {
                "run": run_document(told.run, told.position),
                "holder": told.holder,
                "receipt": receipt_document(receipt) if told.run.cancel_action is not None else None,
                "traceback": traceback,
                "timeline": [transition_document(step) for step in told.transitions],
            }
        )
        return DONE
    steps = told.transitions
    day = f"{datetime.fromtimestamp(steps[0].at / 1e6).astimezone():%Y-%m-%d, UTC%z}" if steps else ""
    screen.show_lines([_headline(told), day])
    lines = [_line(step, steps[index - 1] if index else None) for index, step in enumerate(steps)]
    screen.show_table(
        _COLUMNS, lines, none="its history is no longer kept", spare=("FENCE", "EPOCH", "AFTER")
    )
    if told.run.error is not None:
        screen.show_lines(["", f"error: {short(told.run.error, 2000)}"])
    if traceback is not None:
        screen.show_lines([f"traceback: {traceback}"])
    return DONE


def _headline(told: Explanation) -> str:
    run = told.run
    now = (
        f"{run.phase.value}, {run.status.value}" if run.phase.value != run.status.value else run.status.value
    )
    text = f"run {run.run_id!r} on thread {run.thread_id!r}: {now}"
    if run.delayed and run.not_before is not None:
        due = datetime.fromtimestamp(run.not_before / 1e6).astimezone()
        return f"{text}; delayed until {due:%Y-%m-%d %H:%M:%S}"
    if told.position is not None:
        behind = f" behind run {told.holder!r}" if told.holder is not None else ""
        return f"{text}; number {told.position} in the line{behind}"
    if run.holds_thread:
        return f"{text}; holds the thread on worker epoch {run.owner_epoch} with fence {run.fence}"
    return f"{text}; the thread is now held by run {told.holder!r}" if told.holder is not None else text


def _line(step: Transition, before: Transition | None) -> list[object]:
    moment = datetime.fromtimestamp(step.at / 1e6).astimezone()
    status = step.to_status.value
    if step.from_status is not None and step.from_status is not step.to_status:
        status = f"{step.from_status.value} → {status}"
    decides = step.what in ("decided", "finished", "admitted", "queued", "delayed", "recorded")
    return [
        f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}",
        "" if before is None else f"+{span((step.at - before.at) / 1e6)}",
        _MEANING.get(step.what, step.what),
        status,
        step.actor if decides and step.actor else "",
        _why(step) if decides else "",
        step.epoch,
        step.fence or None,
    ]


def _why(step: Transition) -> str:
    cause = step.cause.value if step.cause is not None else ""
    return f"{cause}: {step.detail}" if cause and step.detail else cause or str(step.detail or "")
