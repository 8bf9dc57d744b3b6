"""Runs in flight whose worker is dead, before a peer or `coordinator reconcile` has ended them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from coordinator.cli.owners import Owners
from stores.states import RunStatus
from tests.support.command_line import DONE, FAILED, Answer, Busy, cli, victim

pytestmark = pytest.mark.multiprocess

DEAD = "its worker (epoch 1) is dead: `coordinator reconcile` frees the thread"


class Orphan(NamedTuple):
    """A run that executed when its worker was killed."""

    run_id: str
    url: str

    async def cli(self, *args: str) -> Answer:
        return await cli(*args, env={"COORDINATOR_STORE": self.url})


@pytest.fixture
async def orphan(empty: str) -> AsyncGenerator[Orphan]:
    async with victim(empty) as (process, run_id):
        process.kill()
        await process.wait()
        yield Orphan(run_id, empty)


async def test_commands_agree_that_the_worker_of_a_run_is_dead(orphan: Orphan) -> None:
    [worker] = (await orphan.cli("workers", "list", "--json")).document["workers"]
    assert worker["gone"]
    for command in (
        ("explain", orphan.run_id),
        ("runs", "show", orphan.run_id),
        ("threads", "show", "victim"),
    ):
        assert (await orphan.cli(*command)).out.count(DEAD) == 1, command
    shown = (await orphan.cli("runs", "show", orphan.run_id)).out
    assert not any(line.startswith("took") for line in shown.splitlines())
    refused = await orphan.cli("runs", "cancel", orphan.run_id, "--wait", "0.1", "--json")
    assert (refused.code, refused.error["type"]) == (FAILED, "NotSettled")
    assert DEAD in refused.error["hint"].replace("Its", "its")
    assert DEAD in (await orphan.cli("runs", "cancel", orphan.run_id)).out


@pytest.mark.parametrize("command", [("explain",), ("runs", "show")], ids=" ".join)
async def test_cancelled_run_of_a_dead_worker_is_not_shown_as_stopping(
    orphan: Orphan, command: tuple[str, ...]
) -> None:
    assert (await orphan.cli("runs", "cancel", orphan.run_id)).code == DONE
    text = (await orphan.cli(*command, orphan.run_id)).out
    assert text.count(DEAD) == 1
    assert "has not stopped" not in text


async def test_lists_name_the_dead_worker_of_a_run(orphan: Orphan) -> None:
    header, line = (await orphan.cli("runs", "list")).out.splitlines()
    assert line[header.index("OWNER") :].startswith("1, dead")
    assert line[header.index("TOOK") :].startswith("-")
    preview = await orphan.cli("runs", "cancel", "--status", "all", "--dry-run")
    assert "1, dead" in preview.out


async def test_documents_have_whether_the_worker_of_a_run_is_dead(orphan: Orphan) -> None:
    assert await documents(orphan) == [True, True, True, True]
    assert (await orphan.cli("reconcile", "--json")).code == DONE
    assert await documents(orphan) == [False, False, False]


async def documents(orphan: Orphan) -> list[bool]:
    """Field `owner_dead` of the run, by `runs list`, `runs show`, `explain` and, while it holds its thread,
    `threads show`."""
    [listed] = (await orphan.cli("runs", "list", "--json")).document["runs"]
    shown = (await orphan.cli("runs", "show", orphan.run_id, "--json")).document["run"]
    explained = (await orphan.cli("explain", orphan.run_id, "--json")).document["run"]
    holder = (await orphan.cli("threads", "show", "victim", "--json")).document["thread"]["holder"]
    return [run["owner_dead"] for run in (listed, shown, explained, holder) if run is not None]


async def test_remedy_depends_on_what_a_sweep_does_with_the_run(busy: Busy) -> None:
    running, waiting, done = [
        await busy.manager.store.row(run.run_id) for run in (busy.running, busy.waiting[0], busy.done)
    ]
    [worker] = await busy.manager.worker.fleet()
    assert running is not None
    assert waiting is not None
    assert done is not None
    retried = replace(running, portable=True, retries=1)
    cancelled = replace(retried, status=RunStatus.interrupted, ended_at=1)
    between_attempts = replace(retried, stopped_at=1)
    queued_portable = replace(waiting, portable=True)
    dead, alive, expired = Owners([]), Owners([worker]), Owners([replace(worker, expired=True)])
    is_dead = f"its worker (epoch {worker.epoch}) is dead"
    for owners in (dead, alive, expired):
        assert [owners.loss(row) for row in (done, between_attempts, queued_portable)] == [None, None, None]
    rows: tuple[Any, ...] = (running, waiting, retried, cancelled)
    assert [alive.loss(row) for row in rows] == [None] * 4
    assert [dead.loss(row) for row in rows] == [
        f"{is_dead}: `coordinator reconcile` frees the thread",
        f"{is_dead}: `coordinator reconcile` ends the run",
        f"{is_dead}: a worker that executes its assistant continues the run",
        f"{is_dead}: `coordinator reconcile` frees the thread",
    ]
    has_expired = f"the lease of its worker (epoch {worker.epoch}) has expired"
    assert expired.loss(running) == f"{has_expired}: `coordinator reconcile` frees the thread"
    assert [owners.dead(running) for owners in (dead, alive, expired)] == [True, False, False]
    assert [owners.live(running) for owners in (dead, alive, expired)] == [None, worker, None]
