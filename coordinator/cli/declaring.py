"""reconcile --force: an operator declares a worker dead that nothing proves dead."""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

import typer

from coordinator.cli.access import looking_at
from coordinator.cli.failures import USAGE, CommandFailed, note
from coordinator.cli.text import counted, safe, span
from coordinator.settings import Settings
from stores.rows import WorkerRow
from stores.states import WorkerState


class Declared(NamedTuple):
    """`already`: it was dead before."""

    epoch: int
    actor: str
    already: bool


async def confirmed(settings: Settings, epoch: int, *, yes: bool, as_json: bool) -> WorkerRow:
    """The worker that may be declared dead, after a question if it is not dead already. Raises CommandFailed
    where there is no such worker, where its process is on this host and lives, and where nobody confirms;
    typer.Abort where the answer is no."""
    async with looking_at(settings) as seen:
        rows = {row.epoch: row for row in await seen.store.workers(alive_only=False)}
        worker = rows.get(epoch)
        if worker is None:
            raise CommandFailed("WorkerNotFound", f"no worker has epoch {epoch}", epoch=str(epoch))
        if worker.state is WorkerState.dead:
            return worker
        if seen.store.proven_alive(worker):
            raise CommandFailed(
                "WorkerAlive",
                f"worker epoch {epoch} is process {worker.pid} of host {worker.host!r}, and that process is"
                " there: nothing was changed",
                f"End it there (kill -9 {worker.pid}): that proves its death, and its tasks end with it.",
                epoch=str(epoch),
            )
    _ask(worker, yes=yes, as_json=as_json)
    return worker


def _ask(worker: WorkerRow, *, yes: bool, as_json: bool) -> None:
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise CommandFailed(
            "NotConfirmed",
            f"worker epoch {worker.epoch} would be declared dead, and nobody confirmed it",
            "Add --yes if you know that its process has ended.",
            code=USAGE,
            epoch=str(worker.epoch),
        )
    for line in warning_of(worker):
        note(line)
    typer.confirm(f"Declare worker epoch {worker.epoch} dead?", abort=True, err=True)


def warning_of(worker: WorkerRow) -> list[str]:
    """What is known of it, what will be done, and what can go wrong."""
    now = time.time_ns() // 1000
    ttl = worker.ttl_ms / 1000
    left = (worker.lease_until - now) / 1e6
    ago = span(max(0.0, ttl - left))
    lease = f"lasts for another {span(left)}" if left > 0 else f"ended {span(-left)} ago"
    which = f"{safe(worker.worker_id)}, process {worker.pid} on host {safe(worker.host)}"
    known = (
        f"worker epoch {worker.epoch}: {which}, holds {counted(worker.holding, 'thread')}; its last heartbeat"
        f" was {ago} ago, its lease {lease}"
    )
    effect = (
        "declared dead, none of its writes is accepted any more; its runs end as error, and their threads go"
        " to the runs that wait for them"
    )
    danger = (
        "if it lives all the same, its tasks go on until its next heartbeat or write, at the latest until its"
        " lease ends: until then two runs of one thread may do things outside the store at the same time"
    )
    return [known, effect, danger]
