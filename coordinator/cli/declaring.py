"""reconcile --force: an operator declares a worker dead whose death is not proven."""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

import typer

from coordinator.cli.access import observing
from coordinator.cli.failures import USAGE, CommandFailed, note
from coordinator.cli.text import counted, safe, span
from coordinator.settings import Settings
from stores.rows import WorkerRow
from stores.states import WorkerState


class Declaration(NamedTuple):
    """A worker declared dead by `actor`. `already`: the worker was dead before."""

    epoch: int
    actor: str
    already: bool


async def confirmed(settings: Settings, epoch: int, *, yes: bool, as_json: bool) -> WorkerRow:
    """Return the worker to declare dead, after a confirmation unless it is dead already. Raises CommandFailed
    if the worker does not exist, if its process is alive on this host, or without a confirmation; typer.Abort
    if declined."""
    async with observing(settings) as observer:
        rows = {row.epoch: row for row in await observer.store.workers(alive_only=False)}
        worker = rows.get(epoch)
        if worker is None:
            raise CommandFailed("WorkerNotFound", f"no worker has epoch {epoch}", epoch=str(epoch))
        if worker.state is WorkerState.dead:
            return worker
        if observer.store.proven_alive(worker):
            raise CommandFailed(
                "WorkerAlive",
                f"worker epoch {epoch} is process {worker.pid} on host {worker.host!r}, which is alive:"
                " nothing"
                " was changed",
                f"Kill the process (kill -9 {worker.pid}): that proves its death and ends its tasks.",
                epoch=str(epoch),
            )
    confirm(worker, yes=yes, as_json=as_json)
    return worker


def confirm(worker: WorkerRow, *, yes: bool, as_json: bool) -> None:
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise CommandFailed(
            "NotConfirmed",
            f"worker epoch {worker.epoch} would be declared dead: not confirmed",
            "Add --yes if you know that its process has ended.",
            code=USAGE,
            epoch=str(worker.epoch),
        )
    for line in warning_of(worker):
        note(line)
    typer.confirm(f"Declare worker epoch {worker.epoch} dead?", abort=True, err=True)


def warning_of(worker: WorkerRow) -> list[str]:
    """Return the known facts, the effect and the risk as sentences."""
    now = time.time_ns() // 1000
    ttl = worker.ttl_ms / 1000
    left = (worker.lease_until - now) / 1e6
    ago = span(max(0.0, ttl - left))
    lease = f"expires in {span(left)}" if left > 0 else f"expired {span(-left)} ago"
    process = f"{safe(worker.worker_id)}, process {worker.pid} on host {safe(worker.host)}"
    facts = (
        f"worker epoch {worker.epoch}: {process}, holds {counted(worker.holding, 'thread')}; its last"
        " heartbeat"
        f" was {ago} ago, its lease {lease}"
    )
    effect = (
        "once it is declared dead, its writes are refused, its runs end as error, and their threads are"
        " dispatched to queued runs"
    )
    risk = (
        "if its process is alive, its tasks continue until its next heartbeat or write, at the latest until"
        " its"
        " lease expires: until then two runs of one thread may act outside the store at the same time"
    )
    return [facts, effect, risk]
