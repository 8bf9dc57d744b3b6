"""What operators look for: runs by filters, those that may still be cancelled, ids by how they begin."""

from __future__ import annotations

from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.catalogue import NewThread
from stores.finding import IdKind, ListPosition, RunQuery
from stores.states import CancelAction
from stores.times import instant
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    cancel,
    created,
    holding,
    row_of,
    running,
    sql_of,
    waiting,
)


async def listed(store: CoordinationStore, user_id: Any = None, limit: int = 100, **query: Any) -> list[str]:
    rows = await store.find_runs(RunQuery(**query), user_id=user_id, behind=None, limit=limit)
    return [row.run_id for row in rows]


async def still_open(store: CoordinationStore, user_id: Any = None, **query: Any) -> list[str]:
    return await store.open_run_ids(RunQuery(**query), user_id=user_id, limit=100)


class Finding(StoreCase):
    async def test_runs_by_every_filter(self, store: CoordinationStore, me: int) -> None:
        done = await running(store, me, "t1", user_id="u", metadata={"team": "red", "n": [1, 2]})
        await store.finish(done, SUCCESS)
        runs = await running(store, me, "t2", user_id="u", assistant_id="a", metadata={"team": "blue"})
        waits = await waiting(store, me, "t2", user_id="u", assistant_id="b", metadata={"team": "blue"})
        operation = await holding(store, me, "t3", kind="op")
        every = [waits, runs.run_id, done.run_id]
        assert await listed(store) == every
        assert operation.run_id not in await still_open(store)
        filters: list[tuple[dict[str, Any], list[str]]] = [
            ({"thread_id": "t2"}, every[:2]),
            ({"statuses": ("running", "success")}, every[1:]),
            ({"assistant_id": "a"}, [runs.run_id]),
            ({"metadata": {"team": "blue"}}, every[:2]),
            ({"metadata": {"n": [2]}}, [done.run_id]),
            ({"in_flight": True}, every[:2]),
            ({"in_flight": True, "assistant_id": "b", "thread_id": "t2"}, [waits]),
            ({"metadata": {"team": "green"}}, []),
        ]
        for query, expected in filters:
            assert await listed(store, **query) == expected, query
            assert await still_open(store, **query) == sorted(set(expected) - {done.run_id}), query
        assert await listed(store, "u") == every
        assert (await listed(store, "v"), await still_open(store, "v")) == ([], [])

    async def test_runs_by_age(self, store: CoordinationStore, me: int) -> None:
        runs = [(await running(store, me, f"t{n}", created_at=created(n))).run_id for n in range(3)]
        sql_of(store)("UPDATE runs SET created_us = NULL WHERE run_id = ?", runs[2])
        at = instant(created(1))
        assert await listed(store, created_from=at) == [runs[1]]
        assert await listed(store, created_before=at) == [runs[0]]
        assert await still_open(store, created_before=at) == [runs[0]]
        assert await listed(store) == [runs[1], runs[0], runs[2]], "unreadable times come last"

    async def test_list_goes_on_behind_its_last_run(self, store: CoordinationStore, me: int) -> None:
        """Also where several are of one moment: by run id."""
        moments = [created(at) for at in (1, 2, 2, 2, 3)]
        for number, moment in enumerate(moments):
            await running(store, me, f"t{number}", run_id=f"r{number}", created_at=moment)
        order = ["r4", "r1", "r2", "r3", "r0"]
        assert await listed(store) == order
        for size in (1, 2, 3):
            seen, behind = list[str](), None
            while rows := await store.find_runs(RunQuery(), user_id=None, behind=behind, limit=size):
                seen += [row.run_id for row in rows]
                behind = ListPosition(instant(rows[-1].created_at) or 0, rows[-1].run_id)
            assert seen == order
        assert await listed(store, limit=0) == []

    async def test_what_is_decided_is_not_open(self, store: CoordinationStore, me: int) -> None:
        runs = await running(store, me)
        waits = [await waiting(store, me) for _ in range(2)]
        assert await still_open(store) == sorted([runs.run_id, *waits])
        assert await store.open_run_ids(RunQuery(), user_id=None, limit=1) == [min(runs.run_id, *waits)]
        assert await still_open(store, statuses=("pending",)) == sorted(waits)
        await cancel(store, waits[0])
        await cancel(store, runs.run_id, CancelAction.rollback)
        assert await still_open(store) == [waits[1]], "its task stops, or is undone, by itself"
        assert runs.run_id in await listed(store, in_flight=True)

    async def test_silent_is_neither_saved_nor_reported(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        quiet = await running(store, me, "quiet")
        saves = await running(store, me, "saves")
        reports = await running(store, me, "reports")
        await waiting(store, me, "quiet")
        clock.advance(60)
        now = clock.micros
        await store.save(saves, {"n": 1})
        await store.update_run_progress(reports.run_id, message_count=1)
        assert (await row_of(store, reports.run_id)).updated_at == now
        assert await listed(store, silent_since=now - 1) == [quiet.run_id]
        assert len(await listed(store, silent_since=now)) == 3
        await store.finish(quiet, SUCCESS)
        assert await listed(store, silent_since=now - 1) == []

    @pytest.mark.parametrize("kind", ["run", "thread"])
    async def test_ids_by_how_they_begin(self, store: CoordinationStore, me: int, kind: IdKind) -> None:
        ids = ["01a", "01b", "01b2", "02%", "é1"]
        for each in ids:
            if kind == "run":
                await running(store, me, f"t{each}", run_id=each)
            else:
                await store.create_thread(NewThread(each))
        for prefix, expected in (
            ("01", ids[:3]),
            ("01b", ids[1:3]),
            ("01b2", ids[2:3]),
            ("02%", [ids[3]]),
            ("0_", []),
            ("%", []),
            ("é", [ids[4]]),
            ("", ids),
        ):
            assert await store.ids_from(kind, prefix, limit=10) == expected, prefix
        assert await store.ids_from(kind, "0", limit=2) == ids[:2]

    async def test_ids_of_operations_are_not_found(self, store: CoordinationStore, me: int) -> None:
        operation = await holding(store, me, kind="op")
        assert await store.ids_from("run", operation.run_id[:4], limit=10) == []
        assert await store.ids_from("cron", "", limit=10) == []
        assert await store.ids_from("webhook", "", limit=10) == []
