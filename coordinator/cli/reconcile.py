"""reconcile: end what nobody owns, asked for by an operator."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from coordinator.arguments import check_instant, check_text
from coordinator.bootstrap import LoneReaper, open_reaper
from coordinator.cli import screen
from coordinator.cli.access import check_visible
from coordinator.cli.cancel import me
from coordinator.cli.countdown import countdown
from coordinator.cli.declaring import Declared, confirmed
from coordinator.cli.documents import Document, run_document, worker_document
from coordinator.cli.failures import DONE, FAILED, note, warn
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


class Asked(NamedTuple):
    """What the command was asked for. `force`: the epoch of a worker that the operator declares dead."""

    error: str
    before: str | None = None
    wait: bool = True
    force: int | None = None
    actor: str | None = None
    yes: bool = False


async def reconcile(settings: Settings, asked: Asked, *, as_json: bool) -> int:
    check_visible(settings)
    limit = check_instant("--before", asked.before)
    text = check_text("--error", asked.error) or ""
    actor = check_text("--actor", asked.actor) or me()
    doomed = None
    if asked.force is not None:
        doomed = await confirmed(settings, asked.force, yes=asked.yes, as_json=as_json)
    ended, declared = Ended(), None
    async with open_reaper(settings, hooks=(ended,)) as reaper:
        if doomed is not None:
            new = await reaper.store.declare_dead(doomed.epoch, by=reaper.epoch, actor=actor)
            declared = Declared(doomed.epoch, actor, already=not new)
        watch = Watch(reaper)
        await reaper.reap(error=text, before=limit)
        suspects, unwatched = await watch.suspects(), list[WorkerRow]()
        if asked.wait and declared is None:
            suspects = await _watch(reaper, watch, text, limit)
        else:
            unwatched = [row for row in suspects if not row.expired and watch.is_there(row)]
            suspects = [row for row in suspects if row not in unwatched]
        rows = [await reaper.store.row(run_id) for run_id in ended.run_ids]
    found = [row for row in rows if row is not None]
    left = Left(suspects, unwatched, waited=asked.wait)
    if as_json:
        screen.show_document(_document(found, ended, declared, left))
    else:
        _show(found, ended, declared, left)
    return FAILED if suspects and declared is None else DONE


class Left(NamedTuple):
    """Workers that were left alone. `suspects`: neither proven dead nor seen alive. `unwatched`: the process
    is there and the lease is not over, and nothing was waited for that would say whether it goes on."""

    suspects: list[WorkerRow]
    unwatched: list[WorkerRow]
    waited: bool


class Watch:
    """Which workers may be dead: their lease is over, or they hold threads. One that has been seen to renew
    its lease lives; a process that is there may be frozen."""

    def __init__(self, reaper: LoneReaper) -> None:
        self._reaper = reaper
        self._seen: dict[int, int] = {}

    async def suspects(self) -> list[WorkerRow]:
        return [row for row in await self._reaper.store.workers() if self._suspected(row)]

    def is_there(self, row: WorkerRow) -> bool:
        return self._reaper.store.proven_alive(row)

    def _suspected(self, row: WorkerRow) -> bool:
        if row.epoch == self._reaper.epoch or row.hb_seq != self._seen.setdefault(row.epoch, row.hb_seq):
            return False
        return row.expired or row.holding > 0


async def _watch(reaper: LoneReaper, watch: Watch, error: str, before: str | None) -> list[WorkerRow]:
    """Until each of them has moved again or was buried, for one lease at most. Returns who is left."""
    suspects = await watch.suspects()
    if not suspects:
        return []
    longest = max(row.ttl_ms for row in suspects) / 1000 + 2 * _LOOK
    until = time.monotonic() + longest
    what = f"watching the heartbeat of worker epoch {_epochs(suspects)}"
    with countdown(what, longest) as left:
        if unproven := [row for row in suspects if not watch.is_there(row)]:
            note(f"if you know that it is dead: coordinator reconcile --force {unproven[0].epoch}")
        while suspects and time.monotonic() < until:
            await asyncio.sleep(_LOOK)
            left(max(0.0, until - time.monotonic()))
            await reaper.reap(error=error, before=before)
            suspects = await watch.suspects()
    return suspects


def _epochs(rows: list[WorkerRow]) -> str:
    return ", ".join(str(row.epoch) for row in rows)


def _document(found: list[RunRow], ended: Ended, declared: Declared | None, left: Left) -> Document:
    return {
        "ended": [run_document(row) for row in found],
        "buried": ended.buried,
        "declared_dead": None if declared is None else declared._asdict(),
        "undecided": [worker_document(row, gone=False) for row in left.suspects],
        "unwatched": [worker_document(row, gone=False) for row in left.unwatched],
    }


def _show(found: list[RunRow], ended: Ended, declared: Declared | None, left: Left) -> None:
    if declared is not None:
        was = "was dead already" if declared.already else f"is declared dead by {declared.actor}"
        screen.show_lines([f"worker epoch {declared.epoch} {was}"])
    if ended.buried:
        screen.show_lines([f"dead: worker epoch {', '.join(str(epoch) for epoch in ended.buried)}"])
    lines = [run_line(row, None) for row in found]
    screen.show_table(COLUMNS, lines, none="nothing to end", spare=SPARE)
    if left.suspects:
        _warn_of(left.suspects, waited=left.waited and declared is None)
    if left.unwatched and declared is None:
        note(
            f"the heartbeat of worker epoch {_epochs(left.unwatched)} was not watched: the process is there"
            " and its lease is not over. Without --no-wait the command finds out whether it is frozen"
        )


def _warn_of(suspects: list[WorkerRow], *, waited: bool) -> None:
    held = sum(row.holding for row in suspects)
    runs = "1 run was not ended" if held == 1 else f"{held} runs were not ended"
    are = "is" if len(suspects) == 1 else "are"
    again = "Try again" if waited else "Run it without --no-wait, so that it watches the heartbeats"
    warn(
        f"worker epoch {_epochs(suspects)} {are} neither proven dead nor seen alive: {runs}."
        f" {again}; if you know that it is dead, `coordinator reconcile --force {suspects[0].epoch}`"
    )
