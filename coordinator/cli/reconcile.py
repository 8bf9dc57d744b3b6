"""reconcile: end what nobody owns, asked for by an operator."""

from __future__ import annotations

import asyncio
import time

from coordinator.arguments import check_instant, check_text
from coordinator.bootstrap import LoneReaper, open_reaper
from coordinator.cli import screen
from coordinator.cli.access import check_visible
from coordinator.cli.countdown import countdown
from coordinator.cli.documents import run_document, worker_document
from coordinator.cli.failures import DONE, warn
from coordinator.cli.runs import COLUMNS, SPARE, run_line
from coordinator.settings import Settings
from coordinator.telemetry import Event
from coordinator.telemetry.events import PeerBuried, RunRecovered
from stores.rows import RunRow, WorkerRow

_LOOK = 0.5  # s; how often a watched heartbeat is looked at


class Ended:
    """What this command has ended."""

    def __init__(self) -> None:
        self.run_ids: dict[str, None] = {}
        self.buried: list[int] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunRecovered):
            self.run_ids[event.run_id] = None
        elif isinstance(event, PeerBuried):
            self.buried.append(event.epoch)


async def reconcile(settings: Settings, *, error: str, before: str | None, wait: bool, as_json: bool) -> int:
    check_visible(settings)
    limit = check_instant("--before", before)
    text = check_text("--error", error) or ""
    ended = Ended()
    async with open_reaper(settings, hooks=(ended,)) as reaper:
        await reaper.reap(error=text, before=limit)
        if wait:
            await _watch(reaper, text, limit)
        suspects = await _suspects(reaper)
        rows = [await reaper.store.row(run_id) for run_id in ended.run_ids]
    _show([row for row in rows if row is not None], ended, suspects, waited=wait, as_json=as_json)
    return DONE


async def _suspects(reaper: LoneReaper) -> list[WorkerRow]:
    """Their lease is over, but nothing proves that they are dead."""
    return [row for row in await reaper.store.workers() if row.expired and row.epoch != reaper.epoch]


async def _watch(reaper: LoneReaper, error: str, before: str | None) -> None:
    """Until each of them has moved again or was buried, for one lease at most."""
    suspects = await _suspects(reaper)
    if not suspects:
        return
    longest = max(row.ttl_ms for row in suspects) / 1000 + 2 * _LOOK
    until = time.monotonic() + longest
    epochs = ", ".join(str(row.epoch) for row in suspects)
    with countdown(f"watching the heartbeat of worker epoch {epochs}", longest) as left:
        while suspects and time.monotonic() < until:
            await asyncio.sleep(_LOOK)
            left(max(0.0, until - time.monotonic()))
            await reaper.reap(error=error, before=before)
            suspects = await _suspects(reaper)


def _show(
    found: list[RunRow], ended: Ended, suspects: list[WorkerRow], *, waited: bool, as_json: bool
) -> None:
    if as_json:
        body = {
            "ended": [run_document(row) for row in found],
            "buried": ended.buried,
            "undecided": [worker_document(row, gone=False) for row in suspects],
        }
        screen.show_document(body)
        return
    if ended.buried:
        screen.show_lines([f"dead: worker epoch {', '.join(str(epoch) for epoch in ended.buried)}"])
    lines = [run_line(row, None) for row in found]
    screen.show_table(COLUMNS, lines, none="nothing to end", spare=SPARE)
    if suspects:
        epochs = ", ".join(str(row.epoch) for row in suspects)
        again = "their heartbeat moved; try again" if waited else "run it with --wait"
        warn(f"the lease of worker epoch {epochs} is over, but nothing proves that it is dead: {again}")
