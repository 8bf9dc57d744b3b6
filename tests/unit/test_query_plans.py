"""What must stay cheap however many runs have finished: the plan of every statement is checked."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stores.catalogue import NewThread, ThreadPatch, ThreadQuery
from stores.claims import ClaimableQuery
from stores.finding import ListPosition, RunQuery
from stores.memory import MemoryStore
from stores.pruning import PruneCursor, Retention
from stores.rows import HOMELESS_AT_ONCE, Limits
from stores.sql.codec import RUN_COLUMNS
from tests.support.builders import (
    SUCCESS,
    cancel,
    created,
    holding,
    new_run,
    new_worker,
    running,
    waiting,
    worker_row,
)
from tests.support.inside_stores import connection_of

SMALL, LARGE = 20, 2_000
LIMITS = Limits(per_thread=100, per_user=100)
SCANNED_ON_PURPOSE = (
    "runs_inflight",
    "runs_open",
    "runs_tick",
    "runs_portable",
    "runs_home",
    "runs_due",
    "runs_of_assistant",
)
"""Partial indexes that hold what is in flight only: as long as the work, not as the history."""


def finished(store: MemoryStore, count: int) -> None:
    """That many finished runs on the thread `t`, with their audit."""
    connection_of(store).execute("BEGIN")
    connection_of(store).execute(
        "INSERT OR IGNORE INTO threads (thread_id, user_id, created_at, updated_at) VALUES ('t', 'u', 1, 1)"
    )
    connection_of(store).execute(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)"
        " INSERT INTO runs (run_id, thread_id, user_id, status, owner_epoch, fence, settled_at, created_at,"
        " created_us, updated_at) SELECT 'old' || n, 't', 'u', 'success', 1, n, n, ?, n, n FROM n",
        (count, created(-1000)),
    )
    connection_of(store).execute("COMMIT")


class Scene:
    """A store with history, and what a worker does in it."""

    def __init__(self, history: int) -> None:
        self.store = MemoryStore()
        self.history = history
        self.statements: list[str] = []
        self.steps = 0

    async def prepare(self) -> None:
        self.me = await self.store.register(new_worker())
        finished(self.store, self.history)
        await running(self.store, self.me, "busy", user_id="u")
        await waiting(self.store, self.me, "busy", user_id="u")

    async def watch(self, call: Awaitable[Any]) -> None:
        """Note each statement of the call, and count the instructions of SQLite's machine."""
        cx = connection_of(self.store)

        def step() -> int:
            self.steps += 1
            return 0

        def note(sql: str) -> None:
            if self.statements[-1:] != [sql]:  # triggers are traced under the statement that fires them
                self.statements.append(sql)

        cx.set_trace_callback(note)
        cx.set_progress_handler(step, 1)
        try:
            await call
        finally:
            cx.set_trace_callback(None)
            cx.set_progress_handler(None, 0)

    def explained(self) -> list[str]:
        plans: list[str] = []
        for sql in self.statements:
            if sql.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
                plans += [row[3] for row in connection_of(self.store).execute(f"EXPLAIN QUERY PLAN {sql}")]
        return plans


async def admit_reject(scene: Scene) -> None:
    await scene.watch(scene.store.admit(new_run(user_id="u"), epoch=scene.me, limits=LIMITS))


async def admit_with_key(scene: Scene) -> None:
    run = new_run(user_id="u", idempotency_key="k", request_hash="h")
    await scene.watch(scene.store.admit(run, epoch=scene.me, limits=LIMITS))


async def admit_enqueue(scene: Scene) -> None:
    run = new_run("busy", user_id="u", multitask_strategy="enqueue")
    await scene.watch(scene.store.admit(run, epoch=scene.me, limits=LIMITS))


async def admit_interrupt(scene: Scene) -> None:
    await holding(scene.store, scene.me, user_id="u")
    run = new_run(user_id="u", multitask_strategy="interrupt")
    await scene.watch(scene.store.admit(run, epoch=scene.me, limits=LIMITS))


async def admit_delayed(scene: Scene) -> None:
    run = new_run(user_id="u", multitask_strategy="enqueue", delay_ms=1)
    await scene.watch(scene.store.admit(run, epoch=scene.me, limits=LIMITS))


async def queue_who_is_due(scene: Scene) -> None:
    run = new_run(user_id="u", multitask_strategy="enqueue", delay_ms=0)
    await scene.store.admit(run, epoch=scene.me, limits=LIMITS)
    await scene.watch(scene.store.tick(scene.me))
    await scene.watch(scene.store.claim("t", epoch=scene.me))


async def insert(scene: Scene) -> None:
    await scene.watch(scene.store.insert(new_run(user_id="u"), epoch=scene.me))


async def claim(scene: Scene) -> None:
    own = await holding(scene.store, scene.me)
    await waiting(scene.store, scene.me)
    await scene.store.finish(own, SUCCESS)
    await scene.watch(scene.store.claim("t", epoch=scene.me))


async def start_save_finish(scene: Scene) -> None:
    own = await holding(scene.store, scene.me)
    await scene.watch(scene.store.start(own, {}))
    await scene.watch(scene.store.save(own, {"v": 1}))
    await scene.watch(scene.store.finish(own, SUCCESS))


async def cancel_and_settle(scene: Scene) -> None:
    own = await running(scene.store, scene.me)
    await scene.watch(cancel(scene.store, own.run_id))
    await scene.watch(scene.store.refence(own))
    await scene.watch(scene.store.settle(own._replace(fence=own.fence + 1), SUCCESS))


async def tick(scene: Scene) -> None:
    await waiting(scene.store, scene.me, "busy", portable=True)
    await scene.watch(scene.store.tick(scene.me))


async def claims_for_others(scene: Scene) -> None:
    epoch = await scene.store.register(new_worker(assistants=("a",)))
    left_behind(scene.store, 2)
    await scene.watch(scene.store.claimable(ClaimableQuery(20), epoch=epoch))
    await scene.watch(scene.store.claimable_children(20, epoch=epoch))
    await scene.watch(scene.store.unclaimed())


async def beat(scene: Scene) -> None:
    await scene.watch(scene.store.beat(scene.me))


async def fence_and_sweep(scene: Scene) -> None:
    peer = await scene.store.register(new_worker())
    await running(scene.store, peer, "theirs")
    await scene.watch(scene.store.fence_worker(await worker_row(scene.store, peer), by=scene.me, proven=True))
    await scene.watch(scene.store.sweep(by=scene.me, error="gone"))


async def line_holder_thread(scene: Scene) -> None:
    for thread in ("t", "busy"):
        await scene.watch(scene.store.waiting_line(thread))
        await scene.watch(scene.store.pending_on(scene.me))
        await scene.watch(scene.store.holder(thread))
        await scene.watch(scene.store.thread(thread))


async def history_page(scene: Scene) -> None:
    await scene.watch(scene.store.runs(thread_id="t", limit=10))
    await scene.watch(scene.store.list_by_thread("t", limit=10))


async def catalogue_page(scene: Scene) -> None:
    await scene.watch(scene.store.run("old3", thread_id="t", user_id="u"))
    await scene.watch(scene.store.thread_runs("t", statuses=(), limit=10, offset=0, user_id="u"))
    await scene.watch(
        scene.store.inflight_runs(statuses=("running",), thread_id=None, user_id="u", after="", limit=10)
    )
    await scene.watch(
        scene.store.inflight_runs(statuses=(), thread_id="busy", user_id=None, after="", limit=10)
    )


async def what_operators_look_for(scene: Scene) -> None:
    own = await running(scene.store, scene.me, "other", metadata={"a": 1})
    for query in (RunQuery(thread_id="busy"), RunQuery(metadata={"a": 1}), RunQuery(created_before=10**18)):
        await scene.watch(scene.store.open_run_ids(query, user_id=None, limit=1000))
    silent = RunQuery(silent_since=10**18)
    await scene.watch(scene.store.find_runs(silent, user_id=None, behind=None, limit=10))
    await scene.watch(scene.store.find_runs(RunQuery(), user_id=None, behind=None, limit=10))
    await scene.watch(
        scene.store.find_runs(RunQuery(thread_id="t"), user_id=None, behind=ListPosition(5, "x"), limit=10)
    )
    for kind in ("run", "thread", "cron", "webhook"):
        await scene.watch(scene.store.ids_from(kind, own.run_id[:6], limit=6))


async def threads_of_a_user(scene: Scene) -> None:
    """Few threads, with all of the history on one of them."""
    for user in ("u", None):
        for query in (ThreadQuery(), ThreadQuery(status="idle", sort_by="status"), ThreadQuery(ids=("t",))):
            await scene.watch(scene.store.threads(query, user_id=user))
        await scene.watch(scene.store.count_threads(ThreadQuery(metadata={"a": 1}), user_id=user))


async def make_and_patch(scene: Scene) -> None:
    await scene.watch(scene.store.create_thread(NewThread("new", user_id="u", ttl_ms=1000)))
    await scene.watch(scene.store.patch_thread("t", ThreadPatch({"a": 1}), user_id=None))


async def update_the_fields_of_a_run(scene: Scene) -> None:
    await scene.watch(scene.store.update_extra("old3", {"a": 1}, user_id="u", max_bytes=100))


async def delete_one_run(scene: Scene) -> None:
    await scene.watch(scene.store.delete_run("old3", thread_id="t", user_id="u"))


async def nothing_has_expired(scene: Scene) -> None:
    """A thread whose time to live has passed, but whose run has not ended."""
    await running(scene.store, scene.me, "long", temporary_ms=0)
    await scene.watch(scene.store.has_expired_threads())
    await scene.watch(scene.store.expire_threads(limit=10))


async def expire_one(scene: Scene) -> None:
    await scene.store.finish(await running(scene.store, scene.me, "short", temporary_ms=0), SUCCESS)
    await scene.watch(scene.store.expire_threads(limit=10))


async def delete_a_thread(scene: Scene) -> None:
    await scene.store.finish(await running(scene.store, scene.me, "small"), SUCCESS)
    operation = await running(scene.store, scene.me, "small", kind="op")
    await scene.watch(scene.store.delete_thread(operation))


async def everything_recent(scene: Scene) -> None:
    await scene.watch(scene.store.runs(limit=10))
    await scene.watch(scene.store.runs(in_flight=True, limit=10))
    await scene.watch(scene.store.list_inflight())


async def one_row(scene: Scene) -> None:
    await scene.watch(scene.store.row("old3"))
    await scene.watch(scene.store.transitions("old3"))
    await scene.watch(scene.store.workers())


async def prune_one_page(scene: Scene) -> None:
    """The plans of all three stages; `created_us` of the history is its number."""
    keep = Retention(runs=0, transitions=0, workers=0)
    for cursor in (
        PruneCursor("runs"),
        PruneCursor("runs", us=0),
        PruneCursor("transitions"),
        PruneCursor("workers"),
    ):
        await scene.watch(scene.store.prune(keep, cursor=cursor, limit=10))


Doing = Callable[[Scene], Awaitable[None]]
EVERYTHING: tuple[Doing, ...] = (
    admit_reject,
    admit_with_key,
    admit_enqueue,
    admit_interrupt,
    admit_delayed,
    queue_who_is_due,
    insert,
    claim,
    start_save_finish,
    cancel_and_settle,
    tick,
    claims_for_others,
    beat,
    fence_and_sweep,
    line_holder_thread,
    history_page,
    everything_recent,
    one_row,
    prune_one_page,
    catalogue_page,
    what_operators_look_for,
    threads_of_a_user,
    make_and_patch,
    update_the_fields_of_a_run,
    delete_one_run,
    nothing_has_expired,
    expire_one,
    delete_a_thread,
)


async def done(doing: Doing, history: int) -> Scene:
    scene = Scene(history)
    await scene.prepare()
    await doing(scene)
    assert scene.statements
    return scene


@pytest.mark.parametrize("doing", EVERYTHING, ids=lambda doing: doing.__name__)
async def test_no_statement_scans_what_grows_with_the_history(doing: Doing) -> None:
    scene = await done(doing, SMALL)
    for step in scene.explained():
        # A subquery that is scanned is a batch: what it is made from is a step of its own.
        if step.startswith("SCAN") and not step.startswith(
            (
                *("SCAN workers", "SCAN CONSTANT", "SCAN json_each", "SCAN peer", "SCAN t USING"),
                *("SCAN (subquery", "SCAN mine"),
            )
        ):
            assert any(index in step for index in (*SCANNED_ON_PURPOSE, "runs_recent")), step


@pytest.mark.parametrize("doing", EVERYTHING, ids=lambda doing: doing.__name__)
async def test_the_work_stays_the_same_as_runs_finish(doing: Doing) -> None:
    small, large = await done(doing, SMALL), await done(doing, LARGE)
    assert len(large.statements) == len(small.statements)
    assert large.steps <= small.steps * 1.1 + 20


def busy_elsewhere(store: MemoryStore, count: int) -> None:
    """A live worker has that many runs in flight, and as many portable runs wait there."""
    connection_of(store).execute("BEGIN")
    for status in ("running", "pending"):
        connection_of(store).execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)"
            " INSERT INTO runs (run_id, thread_id, status, holds_thread, owner_epoch, home_epoch, portable,"
            " assistant_id, seq, created_at, created_us, updated_at) SELECT :status || n, 'theirs' || n,"
            " :status, :status = 'running', iif(:status = 'running', 2, NULL),"
            " iif(:status = 'pending', 2, NULL), 1, 'a', n, :created, n, n FROM n",
            {"count": count, "status": status, "created": created(-1000)},
        )
    connection_of(store).execute("COMMIT")


async def test_sweep_and_tick_read_no_runs_of_other_live_workers() -> None:
    steps = list[int]()
    for count in (SMALL, LARGE):
        scene = Scene(SMALL)
        await scene.prepare()
        assert await scene.store.register(new_worker(assistants=("a",))) == 2
        busy_elsewhere(scene.store, count)
        await scene.watch(scene.store.sweep(by=scene.me, error="gone"))
        await scene.watch(scene.store.tick(scene.me))
        await scene.watch(
            scene.store.thread_runs("busy", statuses=("running",), limit=9, offset=0, user_id=None)
        )
        steps.append(scene.steps)
    assert steps[1] <= steps[0] * 1.1 + 20


async def test_a_page_of_runs_in_flight_is_read_without_the_others() -> None:
    steps = list[int]()
    for count in (SMALL, LARGE):
        scene = Scene(SMALL)
        await scene.prepare()
        busy_elsewhere(scene.store, count)
        page = scene.store.inflight_runs(
            statuses=(), thread_id=None, user_id=None, after="running1", limit=10
        )
        await scene.watch(page)
        await scene.watch(scene.store.open_run_ids(RunQuery(), user_id=None, limit=10))
        steps.append(scene.steps)
    assert steps[1] <= steps[0] * 1.1 + 20


async def test_runs_in_flight_of_a_thread_are_found_without_its_history() -> None:
    steps = list[int]()
    for history in (SMALL, LARGE):
        scene = Scene(history)
        await scene.prepare()
        run = await running(scene.store, scene.me)
        page = scene.store.thread_runs("t", statuses=("pending", "running"), limit=9, offset=0, user_id=None)
        await scene.watch(page)
        for query in (ThreadQuery(status="busy"), ThreadQuery(status="busy", ids=("t",))):
            threads = await scene.store.threads(query, user_id=None)
            assert run.thread_id in [thread.thread_id for thread in threads]
        steps.append(scene.steps)
    assert steps[1] <= steps[0] * 1.1 + 20


async def test_the_next_run_of_a_thread_is_found_without_its_history() -> None:
    steps = list[int]()
    for history in (SMALL, LARGE):
        scene = Scene(history)
        await scene.prepare()
        await scene.watch(scene.store.started_runs("t", after=history - 1, limit=9, user_id=None))
        steps.append(scene.steps)
    assert steps[1] <= steps[0] * 1.1 + 20


async def test_busy_threads_are_found_without_those_that_are_idle() -> None:
    steps = list[int]()
    for count in (SMALL, LARGE):
        scene = Scene(SMALL)
        await scene.prepare()
        connection_of(scene.store).execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)"
            " INSERT INTO threads (thread_id, created_at, updated_at) SELECT 'idle' || n, 1, 1 FROM n",
            (count,),
        )
        await scene.watch(scene.store.threads(ThreadQuery(status="busy"), user_id=None))
        steps.append(scene.steps)
    assert steps[1] <= steps[0] * 1.1 + 20


async def test_pages_are_read_in_the_order_of_their_index() -> None:
    scene = await done(history_page, SMALL)
    await everything_recent(scene)
    for step in scene.explained():
        if "runs_history" in step or "runs_recent" in step:
            break
    else:
        pytest.fail("no page used its index")
    plan = (
        connection_of(scene.store)
        .execute(
            f"EXPLAIN QUERY PLAN SELECT {RUN_COLUMNS} FROM runs WHERE thread_id = ? AND kind = 'run'"
            " ORDER BY created_us DESC, run_id LIMIT 10",
            ("t",),
        )
        .fetchall()
    )
    assert [row[3] for row in plan] == ["SEARCH runs USING INDEX runs_history (thread_id=?)"]


async def plans_of(query: ThreadQuery, user_id: str | None) -> list[str]:
    scene = Scene(SMALL)
    await scene.prepare()
    await scene.watch(scene.store.threads(query, user_id=user_id))
    plans = scene.explained()
    return [step for step in plans if "threads" in step or " t " in step or "B-TREE" in step]


async def test_the_newest_runs_of_a_thread_are_read_through_their_index() -> None:
    scene = Scene(LARGE)
    await scene.prepare()
    for statuses in ((), ("success", "error")):
        await scene.watch(scene.store.thread_runs("t", statuses=statuses, limit=50, offset=0, user_id="u"))
        thread, page = scene.explained()[-2:]
        assert "PRIMARY KEY" in thread
        assert page == "SEARCH runs USING INDEX runs_history (thread_id=?)", "and nothing is sorted"


async def test_threads_are_found_through_their_index() -> None:
    by_creation = ThreadQuery(sort_by="created_at")
    assert (await plans_of(by_creation, "u"))[
        0
    ] == "SEARCH t USING COVERING INDEX threads_of_user (user_id=?)"
    assert (await plans_of(by_creation, None))[0] == "SCAN t USING COVERING INDEX threads_recent"
    assert "threads_of_user (user_id=?)" in (await plans_of(ThreadQuery(), "u"))[0]
    for direction in ("asc", "desc"):
        page = (await plans_of(ThreadQuery(sort_order=direction), None))[0]
        assert page == "SCAN t USING COVERING INDEX threads_latest"
    assert "PRIMARY KEY (thread_id=?)" in (await plans_of(ThreadQuery(ids=("a",)), "u"))[0]


async def test_threads_that_may_have_expired_are_found_by_their_moment() -> None:
    scene = await done(nothing_has_expired, SMALL)
    first = scene.explained()[0]
    assert first.startswith("SEARCH t USING INDEX threads_expiry (<expr>")


async def test_a_statement_that_loses_its_index_fails_loudly() -> None:
    store = MemoryStore()
    epoch = await store.register(new_worker())
    connection_of(store).execute("DROP INDEX runs_inflight")
    with pytest.raises(Exception, match="no such index") as lost:
        await store.admit(new_run(), epoch=epoch, limits=Limits())
    assert isinstance(lost.value.__cause__, sqlite3.Error)


@pytest.mark.parametrize(
    ("doing", "most"),
    [(admit_reject, 6), (start_save_finish, 15), (tick, 7), (beat, 3)],
    ids=["admit", "run", "tick", "beat"],
)
async def test_transactions_take_few_statements(doing: Doing, most: int) -> None:
    """With BEGIN and COMMIT, without those of triggers."""
    assert len((await done(doing, SMALL)).statements) <= most


def left_behind(store: MemoryStore, count: int) -> None:
    """That many portable runs wait without a home, each the next of its thread."""
    connection_of(store).execute(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)"
        " INSERT INTO runs (run_id, thread_id, status, holds_thread, portable, assistant_id, seq,"
        " created_at, created_us, updated_at)"
        " SELECT 'left' || n, 'left' || n, 'pending', 0, 1, 'a', n, :created, n, n FROM n",
        {"count": count, "created": created(-1000)},
    )


async def test_a_tick_reads_a_batch_of_what_a_deployment_has_left_behind() -> None:
    steps = list[int]()
    for count in (HOMELESS_AT_ONCE, 4 * HOMELESS_AT_ONCE):
        scene = Scene(SMALL)
        await scene.prepare()
        me = await scene.store.register(new_worker(assistants=("a",)))
        left_behind(scene.store, count)
        assert len((await scene.store.tick(me)).free_threads) == HOMELESS_AT_ONCE
        await scene.watch(scene.store.tick(me))
        steps.append(scene.steps)
    assert steps[1] <= steps[0] * 1.1 + 20


async def test_claimable_runs_are_read_as_far_as_they_are_returned() -> None:
    steps = list[int]()
    for count in (HOMELESS_AT_ONCE, 4 * HOMELESS_AT_ONCE):
        scene = Scene(SMALL)
        await scene.prepare()
        me = await scene.store.register(new_worker(assistants=("a",)))
        left_behind(scene.store, count)
        await scene.watch(scene.store.claimable(ClaimableQuery(20), epoch=me))
        steps.append(scene.steps)
    assert steps[1] <= steps[0] * 1.1 + 20
