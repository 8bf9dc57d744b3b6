"""workers list, workers drain."""

from __future__ import annotations

import time

from coordinator.cli import screen
from coordinator.cli.access import observing
from coordinator.cli.documents import worker_document
from coordinator.cli.failures import DONE, CommandFailed, warn
from coordinator.cli.text import span
from coordinator.settings import Settings
from coordinator.workers.identity import slot_of
from stores.rows import WorkerRow
from stores.states import WorkerState

COLUMNS = ("EPOCH", "SLOT", "STATE", "HOLDS", "LEASE", "UP", "HOST", "PID", "VERSION", "WORKER")


async def list_workers(settings: Settings, *, everyone: bool, as_json: bool) -> int:
    async with observing(settings) as observer:
        rows = await observer.store.workers(alive_only=not everyone)
        exited = {row.epoch for row in rows if has_exited(row, proven=observer.store.proven_dead(row))}
    versions = sorted({row.version for row in rows if row.state is not WorkerState.dead})
    if len(versions) > 1:
        warn(f"workers of several versions are alive: {', '.join(versions)}")
    if as_json:
        screen.show_document({"workers": [worker_document(row, exited=row.epoch in exited) for row in rows]})
    else:
        lines = [worker_line(row, exited=row.epoch in exited) for row in rows]
        screen.show_table(
            COLUMNS, lines, none=f"no workers in {settings.shown_store}", spare=("WORKER", "VERSION", "UP")
        )
    return DONE


async def drain_workers(settings: Settings, epoch: int | None, *, grace: float | None, as_json: bool) -> int:
    async with observing(settings) as observer:
        requests = await observer.manager.worker.request_drain(epoch, grace=grace)
    if not requests and epoch is not None:
        raise CommandFailed("WorkerNotFound", f"no live worker has epoch {epoch}", epoch=str(epoch))
    if as_json:
        screen.show_document({"asked": [{"epoch": one.epoch, "already": one.already} for one in requests]})
    else:
        screen.show_lines(
            f"worker {one.epoch} {'is already draining' if one.already else 'will drain'}" for one in requests
        )
    return DONE


def has_exited(row: WorkerRow, *, proven: bool) -> bool:
    """The process has ended, but the worker is not declared dead yet. `proven`: by the operating system."""
    return proven and row.state is not WorkerState.dead


def worker_line(row: WorkerRow, *, exited: bool) -> list[object]:
    """The cells of COLUMNS."""
    now = time.time_ns() // 1000
    left = (row.lease_until - now) / 1e6
    dead = row.state is WorkerState.dead
    lease = None if dead else f"{span(left)} left" if left > 0 else f"expired {span(-left)} ago"
    state = "exited" if exited else "expired" if row.expired and not dead else row.state.value
    return [
        row.epoch,
        slot_of(row.worker_id),
        screen.state(state),
        row.holding,
        lease,
        None if dead else span((now - row.started_at) / 1e6),
        row.host,
        row.pid,
        row.version,
        row.worker_id,
    ]
