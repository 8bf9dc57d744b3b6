"""`coordinator reconcile`."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from coordinator.cli import declaring
from coordinator.cli.failures import CommandFailed
from coordinator.cli.reconcile import note_of
from stores.rows import WorkerRow
from stores.states import WorkerState
from tests.support.command_line import DONE, FAILED, USAGE, Answer, Busy, cli, victim
from tests.support.forked import ForkedProcess
from tests.support.postgres import Database

SHORT = {"COORDINATOR_LEASE_TTL": "2", "COORDINATOR_RENEW": "0.5", "COORDINATOR_LEASE_MARGIN": "0.5"}


@pytest.mark.multiprocess
async def test_reconcile_ends_only_the_runs_of_a_killed_worker(empty: str) -> None:
    async with victim(empty) as (dead, orphan), victim(f"{empty}") as (_, other):
        assert other == ""  # the thread is taken: it has failed
        dead.kill()
        await dead.wait()
        limited = await cli("reconcile", "--store", empty, "--before", "2020-01-01", "--json")
        assert (limited.code, limited.document["ended"]) == (DONE, []), limited.err
        answer = await cli("reconcile", "--store", empty, "--error", "gone [red]", "--json")
        (run,) = answer.document["ended"]
        assert (run["run_id"], run["status"], run["error"]) == (orphan, "error", "gone [red]")
        again = await cli("reconcile", "--store", empty)
        assert "no orphaned runs" in again.out


async def test_reconcile_ignores_a_live_worker(busy: Busy) -> None:
    answer = await busy.cli("reconcile", "--json")
    assert answer.document == {
        "ended": [],
        "buried": [],
        "declared_dead": None,
        "undecided": [],
        "to_be_continued": [],
        "unwatched": [],
    }
    assert busy.running.status == "running"
    assert len(await busy.manager.worker.fleet()) == 1  # its own has left again


@pytest.mark.slow
@pytest.mark.multiprocess
async def test_reconcile_watches_a_worker_with_expired_lease(empty: str) -> None:
    async with victim(empty, **SHORT) as (paused, orphan):
        paused.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.3)  # its lease has to end by the store's own clock
        at_once = await cli("reconcile", "--store", empty, "--no-wait", "--json")
        assert at_once.document["ended"] == []
        assert [worker["expired"] for worker in at_once.document["undecided"]] == [True]
        answer = await cli("reconcile", "--store", empty, "--json")
        assert [run["run_id"] for run in answer.document["ended"]] == [orphan]
        assert "watching the heartbeat" in answer.err
        paused.send_signal(signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.multiprocess
async def test_reconcile_watches_a_frozen_worker_before_its_lease_expires(empty: str) -> None:
    async with victim(empty, **SHORT) as (frozen, orphan):
        frozen.send_signal(signal.SIGSTOP)
        answer = await cli("reconcile", "--store", empty, "--json")
        assert (answer.code, [run["run_id"] for run in answer.document["ended"]]) == (DONE, [orphan])
        assert "watching the heartbeat of worker epoch 1" in answer.err
        assert "--force" not in answer.err  # which refuses a process that is there
        frozen.send_signal(signal.SIGCONT)


@pytest.mark.multiprocess
async def test_reconcile_without_wait_lists_unwatched_workers(busy: Busy) -> None:
    epoch = busy.manager.worker.epoch
    answer = await busy.cli("reconcile", "--no-wait", "--json")
    assert (answer.code, [worker["epoch"] for worker in answer.document["unwatched"]]) == (DONE, [epoch])
    answer = await busy.cli("reconcile", "--no-wait")
    assert f"the heartbeat of worker epoch {epoch} was not watched" in answer.err


async def test_worker_of_reconcile_has_its_own_id_prefix(busy: Busy) -> None:
    assert (await busy.cli("reconcile", "--no-wait")).code == DONE
    workers = (await busy.cli("workers", "list", "--all", "--json")).document["workers"]
    named = {worker["worker_id"].startswith("coordinator-reconcile-") for worker in workers}
    assert named == {True, False}
    assert [w["state"] for w in workers if w["worker_id"].startswith("coordinator-reconcile-")] == ["dead"]


class Elsewhere(NamedTuple):
    """A worker whose process nothing proves dead or alive, as those of other hosts. `orphan`: its run."""

    process: ForkedProcess
    orphan: str
    environment: dict[str, str]

    async def cli(self, *args: str) -> Answer:
        return await cli(*args, env=self.environment)


def unproven(path: Path) -> None:
    with closing(sqlite3.connect(path)) as cx, cx:
        cx.execute("UPDATE workers SET proof = 'of another gate'")


@pytest.fixture(params=["sqlite", "postgres"])
async def elsewhere(
    request: pytest.FixtureRequest, tmp_path: Path, shared_postgres: Database
) -> AsyncGenerator[Elsewhere]:
    lease = getattr(request.function, "lease", {})
    if request.param == "sqlite":
        path = tmp_path / "runs.db"
        environment = {"COORDINATOR_STORE": f"sqlite:///{path}"}
        async with victim(environment["COORDINATOR_STORE"], **lease) as (process, orphan):
            unproven(path)
            yield Elsewhere(process, orphan, environment)
        return
    async with shared_postgres.worker() as (url, schema):
        environment = {"COORDINATOR_STORE": url, "COORDINATOR_POSTGRES_SCHEMA": schema}
        alone = {"COORDINATOR_POSTGRES_HOST_GATE": "off", **environment, **lease}
        async with victim(url, **alone) as (process, orphan):
            yield Elsewhere(process, orphan, environment)


def with_short_lease(test: Any) -> Any:
    test.lease = SHORT
    return test


@pytest.mark.slow
@pytest.mark.multiprocess
@with_short_lease
async def test_reconcile_watches_a_dead_worker_before_its_lease_expires(elsewhere: Elsewhere) -> None:
    """Its lease has not ended yet: what it holds is not ended, which is no success."""
    elsewhere.process.kill()
    await elsewhere.process.wait()
    at_once = await elsewhere.cli("reconcile", "--no-wait")
    assert at_once.code == FAILED
    assert "1 run was not ended" in at_once.err
    assert "coordinator reconcile --force 1" in at_once.err
    answer = await elsewhere.cli("reconcile", "--json")
    assert (answer.code, [run["run_id"] for run in answer.document["ended"]]) == (DONE, [elsewhere.orphan])
    assert "watching the heartbeat of worker epoch 1" in answer.err
    assert "coordinator reconcile --force 1" in answer.err


@pytest.mark.multiprocess
@with_short_lease
async def test_reconcile_treats_a_renewing_worker_as_alive(elsewhere: Elsewhere) -> None:
    answer = await elsewhere.cli("reconcile", "--json")
    assert (answer.code, answer.document["ended"], answer.document["undecided"]) == (DONE, [], [])


@pytest.mark.multiprocess
async def test_history_names_the_operator_who_declared_a_worker_dead(
    elsewhere: Elsewhere,
) -> None:
    elsewhere.process.kill()  # alive it would register anew, and might end its run before the command does
    await elsewhere.process.wait()
    refused = await elsewhere.cli("reconcile", "--force", "1", "--json")
    assert (refused.code, refused.error["type"]) == (USAGE, "NotConfirmed")
    forced = await elsewhere.cli("reconcile", "--force", "1", "--yes", "--actor", "alice", "--json")
    assert forced.code == DONE, forced.err
    assert [run["run_id"] for run in forced.document["ended"]] == [elsewhere.orphan]
    assert forced.document["declared_dead"] == {"epoch": 1, "actor": "alice", "already": False}
    answer = await elsewhere.cli("explain", elsewhere.orphan)
    assert "worker epoch 1 was declared dead by alice" in answer.out
    again = await elsewhere.cli("reconcile", "--force", "1")
    assert again.code == DONE
    assert "worker epoch 1 was already dead" in again.out
    unknown = await elsewhere.cli("reconcile", "--force", "4711", "--yes", "--json")
    assert (unknown.code, unknown.error["type"]) == (FAILED, "WorkerNotFound")


async def test_worker_with_existing_process_cannot_be_declared_dead(busy: Busy) -> None:
    answer = await busy.cli("reconcile", "--force", str(busy.manager.worker.epoch), "--yes", "--json")
    assert (answer.code, answer.error["type"]) == (FAILED, "WorkerAlive")
    assert f"kill -9 {os.getpid()}" in answer.error["hint"]
    assert busy.running.status == "running"


WORKER = WorkerRow(
    7, "gw-1", "h\x1b[31m", "b", 123, "0", WorkerState.live, 3, 15_000, 0, None, 0, 20, expired=True
)


def test_confirmation_of_force_shows_facts_effect_and_risk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = list[str]()

    def confirm(question: str, **options: bool) -> None:
        assert options["abort"]
        questions.append(question)

    monkeypatch.setattr(typer, "confirm", confirm)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    declaring.confirm(WORKER, yes=False, as_json=False)
    declaring.confirm(WORKER, yes=True, as_json=False)
    assert questions == ["Declare worker epoch 7 dead?"]
    output = capsys.readouterr().err
    for words in ("gw-1, process 123", "holds 20 threads", "its lease expired", "until its next heartbeat"):
        assert words in output
    assert "\x1b" not in output
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    with pytest.raises(CommandFailed, match="not confirmed"):
        declaring.confirm(WORKER, yes=False, as_json=False)


def test_runs_that_will_be_continued_are_counted_and_named() -> None:
    assert note_of(["a"]) == (
        "1 run of a dead worker waits for a worker that executes its assistant and continues it: a"
    )
    assert note_of(list("abcdef")).startswith("6 runs of dead workers wait for a worker")
    assert note_of(list("abcdef")).endswith("continues them: a, b, c, d, e …")
