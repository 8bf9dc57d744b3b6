"""What a statement reads where others have much to do: a large installation, made by SQL.

Here a small one; `make plans` makes one with a million runs, with JIT and without.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

import asyncpg
import pytest

from bench.fleet import Fleet, make
from stores.catalogue import ThreadQuery
from stores.finding import ListPosition, RunQuery
from stores.rows import Limits
from stores.spec import AdmissionRequest
from stores.sql import reads
from stores.sql.postgres import admission, decisions, finding, history, reading, threads, workers
from stores.sql.postgres.calls import Call
from stores.sql.postgres.schema import named
from stores.sql.postgres.selecting import select
from stores.states import CancelAction, Cause, RunStatus
from tests.support.builders import new_run
from tests.support.postgres import Database

SHARE = float(os.environ.get("COORDINATOR_FLEET_SHARE", "0.02"))
FLEET = Fleet().part(SHARE)
_READ = """
SELECT sum(pg_stat_get_xact_tuples_returned(oid))::bigint FROM pg_class
WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'i') AND relname NOT LIKE 'workers%'
"""
"""Entries of tables and indexes that this transaction has read, in functions too. Without workers: those are
read by design."""
AGAIN = 7
"""Times, until a function has settled on its plans."""


class Scene(NamedTuple):
    cx: asyncpg.Connection[Any]
    schema: str

    async def read_by(self, call: Call[Any]) -> tuple[int, list[Any]]:
        """(entries read, rows answered), undone."""
        sql = named(call.statement.sql, self.schema)
        read, rows = 0, list[Any]()
        for _ in range(AGAIN):
            transaction = self.cx.transaction()
            await transaction.start()
            try:
                before = await self.cx.fetchval(_READ, self.schema)
                rows = await self.cx.fetch(sql, *call.args)
                read = await self.cx.fetchval(_READ, self.schema) - before
            finally:
                await transaction.rollback()
        return read, rows

    async def execute(self, sql: str, *args: Any) -> None:
        await self.cx.execute(named(sql, self.schema), *args)


@pytest.fixture(scope="module")
def schema(shared_postgres: Database) -> str:
    async def made() -> str:
        name = await shared_postgres.made()
        async with shared_postgres.connection() as cx:
            await make(cx, name, FLEET)
        return name

    return asyncio.run(made())


@pytest.fixture(params=["on", "off"] if SHARE >= 1 else ["on"], ids=lambda jit: f"jit {jit}")
async def scene(
    shared_postgres: Database, schema: str, request: pytest.FixtureRequest
) -> AsyncGenerator[Scene]:
    async with shared_postgres.connection() as cx:
        await cx.execute(f"SET jit = {request.param}")
        yield Scene(cx, schema)


RUN, WAITING, THREAD = "run000000007", "wait000000007", "t7"
EPOCH = 8
_EXECUTING = (RUN, "unknown")


def _decide(run_id: str) -> Call[Any]:
    how: dict[str, Any] = {
        "action": CancelAction.interrupt,
        "cause": Cause.user,
        "reason": None,
        "actor": None,
    }
    return decisions.decide(None, run_id, RunStatus.interrupted, **how, error=None)


def _admit(run: AdmissionRequest, limits: Limits | None = None) -> Call[Any]:
    return admission.admit(None, run, EPOCH, limits or Limits())


def _page(**narrowed: Any) -> Call[Any]:
    options: dict[str, Any] = {"statuses": (), "thread_id": None, "user_id": None, "after": "", "limit": 100}
    return select(reads.inflight_runs(**{**options, **narrowed}))


def _open(limit: int, **query: Any) -> Call[Any]:
    return finding.open_run_ids(RunQuery(**query), None, limit)


OF_THREAD: dict[str, Any] = {"limit": 10, "offset": 0, "user_id": None}
CALLS: dict[str, tuple[Call[Any], int]] = {
    "tick": (reading.tick(EPOCH, None, _EXECUTING), 4),
    "sweep: orphans": (workers.orphaned(None), 1),
    "sweep: strays": (workers.settle_strays(None), 1),
    "sweep: adopted before": (workers.adopted_before(EPOCH), 1),
    "sweep: peers": (workers.workers(None, alive_only=True, counted=False), 1),
    "beat": (workers.beat(None, EPOCH, f"w{EPOCH}"), 1),
    "cancel of a running run": (_decide(RUN), 1),
    "cancel of a waiting run": (_decide(WAITING), 1),
    "admission": (_admit(new_run("new")), 1),
    "admission to a busy thread": (_admit(new_run(THREAD, multitask_strategy="enqueue")), 1),
    "admission of a user with a limit": (
        _admit(new_run(THREAD, multitask_strategy="enqueue", user_id="user7"), Limits(per_user=10**6)), 1,
    ),
    "page of runs in flight": (_page(), 3),
    "page of runs in flight, a later one": (_page(after=RUN), 3),
    "runs that may be cancelled": (_open(100), 3),
    "those of a thread": (_open(100, thread_id=THREAD), 4),
    "silent runs": (finding.find_runs(RunQuery(silent_since=10**18), None, None, 10**6), 8),
    "newest runs behind one": (finding.find_runs(RunQuery(), None, ListPosition(10**18, RUN), 10), 4),
    "ids of runs": (select(reads.ids_from("run", RUN[:-1], 6)), 2),
    "ids of threads": (select(reads.ids_from("thread", THREAD, 6)), 2),
    "runs of a thread that run": (history.thread_runs(THREAD, statuses=("running",), **OF_THREAD), 4),
    "newest runs of a thread": (history.thread_runs(THREAD, statuses=(), **OF_THREAD), 4),
    "runs of a thread as they began": (select(reads.started_runs(THREAD, 0, 10, None)), 4),
    "newest runs": (select(reads.runs(thread_id=None, statuses=(), limit=10, in_flight=False)), 4),
    "one run": (select(reads.row(RUN, None)), 2),
    "one thread": (reading.thread(THREAD, None), 4),
    "a user's threads": (threads.threads(ThreadQuery(limit=10, sort_by="created_at"), "user7"), 10),
}  # fmt: skip
"""Each call, and how many entries it may read for each row of its result."""
BESIDES = 60
"""Entries that one may read besides: of threads, of webhooks, of a run that is looked at more than once."""


@pytest.mark.parametrize("name", CALLS)
async def test_statement_reads_what_it_answers_and_not_what_others_do(scene: Scene, name: str) -> None:
    call, factor = CALLS[name]
    read, rows = await scene.read_by(call)
    own = 2 * (FLEET.waiting // FLEET.in_flight + FLEET.finished // FLEET.threads)
    users = FLEET.waiting // min(FLEET.threads, 1000) if "limit" in name else 0
    ids = _ids(rows) if name == "tick" else 0
    assert read <= factor * (len(rows) + ids) + own + users + BESIDES


def _ids(ticked: list[Any]) -> int:
    """The number of ids in the rows of a tick that hold several."""
    return sum(len(json.loads(row["run_id"])) for row in ticked if row["what"] == "waiting")


async def test_sweep_finds_runs_of_dead_and_of_missing_workers(scene: Scene) -> None:
    """Held, beside the slot, waiting; and no more entries are read than there are of them."""
    async with _undone(scene):
        await scene.execute("UPDATE rc.workers SET state = 'dead' WHERE epoch = 2")
        await scene.execute("DELETE FROM rc.workers WHERE epoch = 4")
        await scene.execute("UPDATE rc.runs SET portable = false WHERE home_epoch = 4")
        rows_of_dead = await scene.cx.fetch(
            named("SELECT run_id FROM rc.runs WHERE owner_epoch IN (2, 4) AND holds_thread"
                  " OR home_epoch = 4 AND status = 'pending'", scene.schema)
        )  # fmt: skip
        read, rows = await scene.read_by(workers.orphaned(None))
        assert {row[0] for row in rows} == {row[0] for row in rows_of_dead}
        waiting = FLEET.waiting // FLEET.workers  # of the other one: looked at, and left to be claimed
        assert read <= 4 * len(rows) + waiting + BESIDES


async def test_tick_takes_up_runs_that_are_at_home_nowhere(scene: Scene) -> None:
    async with _undone(scene):
        await scene.execute(
            "UPDATE rc.runs SET status = 'success', holds_thread = false, settled_at = 1 WHERE run_id = $1",
            RUN,
        )
        await scene.execute("UPDATE rc.runs SET home_epoch = NULL WHERE run_id = $1", WAITING)
        read, rows = await scene.read_by(reading.tick(1, None, ()))
        assert [row["thread_id"] for row in rows if row["what"] == "free"] == [THREAD]
        assert read <= 4 * (len(rows) + _ids(rows)) + BESIDES


class _undone:  # noqa: N801 - used as a function
    """What is written within is undone."""

    def __init__(self, scene: Scene) -> None:
        self._transaction = scene.cx.transaction()

    async def __aenter__(self) -> None:
        await self._transaction.start()

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()
