"""reconcile: ends orphaned runs on request of an operator."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from coordinator.arguments import check_instant, check_text
from coordinator.bootstrap import LoneReaper, open_reaper
from coordinator.cli import screen
from coordinator.cli.access import check_visible
from coordinator.cli.cancel import current_actor
from coordinator.cli.countdown import countdown
from coordinator.cli.declaring import Declaration, confirmed
from coordinator.cli.documents import Document, run_document, worker_document
from coordinator.cli.failures import DONE, FAILED, note, warn
from coordinator.cli.runs import COLUMNS, SPARE, run_line
from coordinator.settings import Settings
from coordinator.telemetry import Event
from coordinator.telemetry.events import PeerBuried, RunRecovered
from stores.rows import RunRow, WorkerRow

_EXAMINED, _NAMED = 10_000, 5  # runs
_POLL_INTERVAL = 0.5  # s; of watched heartbeats


class Recovered:
    """Collects the runs ended and the workers declared dead by this command. A telemetry hook."""

    def __init__(self) -> None:
        self.run_ids: dict[str, None] = {}
        self.dead_epochs: list[int] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunRecovered):
            self.run_ids[event.run_id] = None
        elif isinstance(event, PeerBuried):
            self.dead_epochs.append(event.epoch)


class ReconcileOptions(NamedTuple):
    """`error`: text of the ended runs. `before`: only runs created before this time. `wait`: watch
    heartbeats. `force`: the epoch of a worker that the operator `actor` declares dead."""

    error: str
    before: str | None = None
    wait: bool = True
    force: int | None = None
    actor: str | None = None
    yes: bool = False


async def reconcile(settings: Settings, options: ReconcileOptions, *, as_json: bool) -> int:
    """Returns FAILED if a worker is neither proven dead nor observed alive."""
    check_visible(settings)
    limit = check_instant("--before", options.before)
    text = check_text("--error", options.error) or ""
    actor = check_text("--actor", options.actor) or current_actor()
    target = None
    if options.force is not None:
        target = await confirmed(settings, options.force, yes=options.yes, as_json=as_json)
    recovered, declared = Recovered(), None
    async with open_reaper(settings, hooks=(recovered,)) as reaper:
        if target is not None:
            new = await reaper.store.declare_dead(target.epoch, by=reaper.epoch, actor=actor)
            declared = Declaration(target.epoch, actor, already=not new)
        monitor = HeartbeatMonitor(reaper)
        await reaper.reap(error=text, before=limit)
        suspects, unwatched = await monitor.suspects(), list[WorkerRow]()
        if options.wait and declared is None:
            suspects = await _watch(reaper, monitor, text, limit)
        else:
            unwatched = [row for row in suspects if not row.expired and monitor.process_exists(row)]
            suspects = [row for row in suspects if row not in unwatched]
        rows = [await reaper.store.row(run_id) for run_id in recovered.run_ids]
        left = await _to_be_continued(reaper)
    runs = [row for row in rows if row is not None]
    undecided = Undecided(suspects, unwatched, waited=options.wait)
    if as_json:
        screen.show_document(_document(runs, recovered, declared, undecided, left))
    else:
        _show(runs, recovered, declared, undecided)
        if left:
            note(note_of(left))
    return FAILED if suspects and declared is None else DONE


async def _to_be_continued(reaper: LoneReaper) -> list[str]:
    """Returns runs in flight of dead workers: a worker that executes their assistants will continue them."""
    alive = {row.epoch for row in await reaper.store.workers(counted=False)}
    rows = await reaper.store.runs(in_flight=True, limit=_EXAMINED)
    return [row.run_id for row in rows if row.open and row.holds_thread and row.owner_epoch not in alive]


def note_of(left: list[str]) -> str:
    """A sentence for runs that a worker will continue."""
    waits = (
        "1 run of a dead worker waits for a worker that executes its assistant and continues it"
        if len(left) == 1
        else f"{len(left)} runs of dead workers wait for a worker that executes their assistants and"
        " continues them"
    )
    return f"{waits}: {', '.join(left[:_NAMED])}{' …' if left[_NAMED:] else ''}"


class Undecided(NamedTuple):
    """Workers that were not declared dead. `suspects`: neither proven dead nor observed alive. `unwatched`:
    the process exists and the lease is valid, but the heartbeat was not watched."""

    suspects: list[WorkerRow]
    unwatched: list[WorkerRow]
    waited: bool


class HeartbeatMonitor:
    """Determines the workers that may be dead: their lease has expired, or they hold threads. A worker that
    renews its lease is alive; an existing process may be frozen."""

    def __init__(self, reaper: LoneReaper) -> None:
        self._reaper = reaper
        self._first_heartbeats: dict[int, int] = {}

    async def suspects(self) -> list[WorkerRow]:
        return [row for row in await self._reaper.store.workers() if self._suspected(row)]

    def process_exists(self, row: WorkerRow) -> bool:
        return self._reaper.store.proven_alive(row)

    def _suspected(self, row: WorkerRow) -> bool:
        if row.epoch == self._reaper.epoch or row.hb_seq != self._first_heartbeats.setdefault(
            row.epoch, row.hb_seq
        ):
            return False
        return row.expired or row.holding > 0


async def _watch(
    reaper: LoneReaper, monitor: HeartbeatMonitor, error: str, before: str | None
) -> list[WorkerRow]:
    """Poll until each suspect has renewed its lease or is dead, for one lease at most. Returns the others."""
    suspects = await monitor.suspects()
    if not suspects:
        return []
    longest = max(row.ttl_ms for row in suspects) / 1000 + 2 * _POLL_INTERVAL
    until = time.monotonic() + longest
    title = f"watching the heartbeat of worker epoch {_epochs(suspects)}"
    with countdown(title, longest) as report:
        if unproven := [row for row in suspects if not monitor.process_exists(row)]:
            note(f"if you know that it is dead: coordinator reconcile --force {unproven[0].epoch}")
        while suspects and time.monotonic() < until:
            await asyncio.sleep(_POLL_INTERVAL)
            report(max(0.0, until - time.monotonic()))
            await reaper.reap(error=error, before=before)
            suspects = await monitor.suspects()
    return suspects


def _epochs(rows: list[WorkerRow]) -> str:
    return ", ".join(str(row.epoch) for row in rows)


def _document(
    runs: list[RunRow],
    recovered: Recovered,
    declared: Declaration | None,
    undecided: Undecided,
    left: list[str],
) -> Document:
    return {
        "ended": [run_document(row) for row in runs],
        "to_be_continued": left,
        "buried": recovered.dead_epochs,
        "declared_dead": None if declared is None else declared._asdict(),
        "undecided": [worker_document(row, exited=False) for row in undecided.suspects],
        "unwatched": [worker_document(row, exited=False) for row in undecided.unwatched],
    }


def _show(
    runs: list[RunRow], recovered: Recovered, declared: Declaration | None, undecided: Undecided
) -> None:
    if declared is not None:
        result = "was already dead" if declared.already else f"is declared dead by {declared.actor}"
        screen.show_lines([f"worker epoch {declared.epoch} {result}"])
    if recovered.dead_epochs:
        epochs = ", ".join(str(epoch) for epoch in recovered.dead_epochs)
        screen.show_lines([f"declared dead: worker epoch {epochs}"])
    lines = [run_line(row, None) for row in runs]
    screen.show_table(COLUMNS, lines, none="no orphaned runs", spare=SPARE)
    if undecided.suspects:
        _warn_of(undecided.suspects, waited=undecided.waited and declared is None)
    if undecided.unwatched and declared is None:
        note(
            f"the heartbeat of worker epoch {_epochs(undecided.unwatched)} was not watched: its process"
            " exists"
            " and its lease is valid. Without --no-wait the command detects whether it is frozen"
        )


def _warn_of(suspects: list[WorkerRow], *, waited: bool) -> None:
    held = sum(row.holding for row in suspects)
    runs = "1 run was not ended" if held == 1 else f"{held} runs were not ended"
    are = "is" if len(suspects) == 1 else "are"
    again = "Retry" if waited else "Run it without --no-wait to watch the heartbeats"
    warn(
        f"worker epoch {_epochs(suspects)} {are} neither proven dead nor observed alive: {runs}."
        f" {again}; if you know that it is dead, `coordinator reconcile --force {suspects[0].epoch}`"
    )
