"""workers list, workers drain."""

from __future__ import annotations

import sys
import time

import typer

from coordinator.cli import screen
from coordinator.cli.access import observing
from coordinator.cli.documents import worker_document
from coordinator.cli.failures import DONE, USAGE, CommandFailed, warn
from coordinator.cli.text import counted, iso, span
from coordinator.runs.unclaimed import reason_of
from coordinator.settings import Settings
from coordinator.workers.identity import slot_of
from stores.rows import WorkerRow
from stores.states import WorkerState

COLUMNS = (
    "EPOCH", "SLOT", "STATE", "HOLDS", "STOPPING", "LEASE", "UP", "HOST", "PID", "VERSION", "WORKER",
)  # fmt: skip


async def list_workers(settings: Settings, *, everyone: bool, as_json: bool) -> int:
    async with observing(settings) as observer:
        rows = await observer.store.workers(alive_only=not everyone)
        unclaimed = await observer.store.unclaimed()
        exited = {row.epoch for row in rows if has_exited(row, proven=observer.store.proven_dead(row))}
    versions = sorted({row.version for row in rows if row.state is not WorkerState.dead})
    if len(versions) > 1:
        warn(f"workers of several versions are alive: {', '.join(versions)}")
    alive = [row for row in rows if row.state is not WorkerState.dead]
    if draining := sum(row.state is WorkerState.draining for row in alive):
        warn(draining_warning(draining, len(alive)))
    for waiting in unclaimed:
        warn(reason_of(waiting))
    if as_json:
        screen.show_document(
            {
                "workers": [worker_document(row, exited=row.epoch in exited) for row in rows],
                "unclaimed": [
                    {"assistant_id": one.assistant_id, "runs": one.runs, "since": iso(one.since)}
                    for one in unclaimed
                ],
            }
        )
    else:
        lines = [worker_line(row, exited=row.epoch in exited) for row in rows]
        screen.show_table(
            COLUMNS,
            lines,
            none=f"no workers in {settings.shown_store}",
            spare=("WORKER", "VERSION", "UP", "STOPPING"),
        )
    return DONE


def draining_warning(draining: int, alive: int) -> str:
    """For lists of workers, of which at least one drains."""
    if draining < alive:
        return f"{draining} of {alive} workers {'drains' if draining == 1 else 'drain'}: no new runs there"
    return "all workers drain: no run is admitted until a worker is started or restarted"


async def drain_workers(
    settings: Settings, epoch: int | None, *, grace: float | None, yes: bool, as_json: bool
) -> int:
    """`epoch` None: every worker, after a confirmation. Raises CommandFailed if that is not possible,
    typer.Abort if it is declined."""
    async with observing(settings) as observer:
        if epoch is None and not yes:
            _confirm(len(await observer.store.workers(counted=False)), settings.shown_store, as_json=as_json)
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


def _confirm(workers: int, store: str, *, as_json: bool) -> None:
    """Raises CommandFailed without a terminal, typer.Abort if declined."""
    if as_json or not sys.stdin.isatty():
        raise CommandFailed(
            "NotConfirmed",
            f"{counted(workers, 'worker')} of {store} would drain: not confirmed",
            "Add --yes to drain them; they admit runs again only after a restart.",
            code=USAGE,
        )
    typer.confirm(
        f"Drain {counted(workers, 'worker')} of {store}? No run is admitted until they are restarted",
        abort=True,
        err=True,
    )


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
        f"{screen.state(state)}, admits only" if row.admits_only and not dead else screen.state(state),
        row.holding,
        row.stopping,
        lease,
        None if dead else span((now - row.started_at) / 1e6),
        row.host,
        row.pid,
        row.version,
        row.worker_id,
    ]
