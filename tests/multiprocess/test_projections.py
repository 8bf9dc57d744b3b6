"""kill -9 of the worker that delivers changes of runs: in the end, a table of their own has the rows of the
store."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunManager, Settings, open_coordinator
from tests.support.children import Child
from tests.support.postgres import Database
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

pytestmark = pytest.mark.multiprocess

WORKER = """
import asyncio, sqlite3
from coordinator import Projection, open_coordinator
async def main():
    table, name, settings = args[0], args[1], eval(args[2])
    cx = sqlite3.connect(table, isolation_level=None, timeout=10)
    hold = asyncio.Event()
    left = [None]
    async def apply(change):
        if left[0] is not None:
            left[0] -= 1
        row = change.run
        if row is None:
            cx.execute("DELETE FROM copy WHERE run_id = ?", (change.run_id,))
        else:
            cx.execute(
                "INSERT INTO copy VALUES (?, ?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET"
                " seq = excluded.seq, status = excluded.status, settled = excluded.settled,"
                " tokens = excluded.tokens"
                " WHERE excluded.seq > copy.seq",
                (row.run_id, change.seq, row.status.value, row.settled_at, row.counters["total_tokens"]),
            )
        if left[0] == 0:  # applied, and not reported
            send("delivering")
            await asyncio.Event().wait()
    async def agent(ctx):
        ctx.progress(total_tokens=ctx.request.input)
        if ctx.request.input == 7:
            raise ValueError("seven")
        if ctx.request.input < 0:
            await asyncio.Event().wait()
        return ctx.request.input
    async with open_coordinator(
        projections=[Projection("copy", apply)], assistants={"agent": agent}, **settings
    ) as manager:
        send("ready")
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, receive):
            word, *more = line.split()
            if word == "stop":
                left[0] = int(more[0])
            elif word == "long":
                run = await manager.create_or_reject(f"long-{name}", "agent", kwargs={"input": -1})
                manager.launch(run)
                while run.status != "running":
                    await asyncio.sleep(0.01)
                send(run.run_id)
            elif word == "work":
                for number in range(int(more[0])):
                    strategy = ("interrupt", "rollback", "enqueue")[number % 3]
                    run = await manager.create_or_reject(
                        f"t{number % 4}", "agent", kwargs={"input": number}, multitask_strategy=strategy
                    )
                    manager.launch(run)
                    if number % 5 == 0:
                        await manager.cancel(run.run_id)
                    await asyncio.sleep(0.005)
                send("worked")
asyncio.run(main())
"""
"""Keeps `copy` in a file of its own. `stop N`: hangs after it has applied N more changes. `work N`: admits N
runs."""

COLUMNS = "run_id, status, settled, tokens"


def copied(path: Path) -> set[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, timeout=10)) as cx:
        return set(cx.execute(f"SELECT {COLUMNS} FROM copy"))


async def stored(manager: RunManager) -> set[tuple[Any, ...]]:
    return {
        (row.run_id, row.status.value, row.settled_at, row.counters["total_tokens"])
        for row in await manager.store.runs(limit=10_000)
    }


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_table_has_the_rows_of_the_store_after_a_kill(
    tmp_path: Path, shared_postgres: Database, store: str
) -> None:
    table = tmp_path / "copy.db"
    with closing(sqlite3.connect(table)) as cx:
        cx.execute("PRAGMA journal_mode = WAL")
        cx.execute(
            "CREATE TABLE copy (run_id TEXT PRIMARY KEY, seq INT, status TEXT, settled INT, tokens INT)"
        )
    async with AsyncExitStack() as stack:
        where: dict[str, Any] = {"store": f"sqlite:///{tmp_path / 'runs.db'}"}
        if store == "postgres":
            url, schema = await stack.enter_async_context(shared_postgres.worker())
            where = {"store": url, "postgres_schema": schema}
        settings: dict[str, Any] = {**QUICK, **where, "lease_ttl": 2.0}
        workers = [stack.enter_context(Child(WORKER, table, number, repr(settings))) for number in range(3)]
        for worker in workers:
            assert await asyncio.to_thread(worker.receive) == "ready"
        observer = await stack.enter_async_context(open_coordinator(settings=Settings(**settings)))
        victim, *others = workers
        victim.send("long")  # to be recovered
        recovered = await asyncio.to_thread(victim.receive)
        victim.send("stop 5")
        for worker in workers:
            worker.send("work 24")
        for worker in others:
            assert await asyncio.to_thread(worker.receive) == "worked"
        assert {await asyncio.to_thread(victim.receive) for _ in range(2)} == {"worked", "delivering"}
        victim.kill()

        async def settled() -> bool:
            return not await observer.store.runs(in_flight=True)

        await wait_until(settled, description="the runs have settled, also those of the dead worker")
        rows = await observer.store.runs(limit=10_000)
        for row in rows[:20]:
            if row.run_id != recovered and not row.rolled_back:
                await observer.store.delete_run(row.run_id, thread_id=None, user_id=None)

        async def same() -> bool:
            return copied(table) == await stored(observer)

        await wait_until(same, description="the table has the rows of the store")
        statuses = {status for _, status, *_ in copied(table)}
        assert statuses >= {"success", "interrupted", "error"}
        assert (await observer.store.row(recovered)) is not None
        (queue,) = await observer.projections.search()
        assert queue.failing == 0
