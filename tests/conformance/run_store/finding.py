"""What operators look for: runs by filters, those that may still be cancelled, ids by how they begin."""

from __future__ import annotations

from coordinator.testing.conformance.stores.finding import matching, still_open
from stores.base import CoordinationStore
from stores.times import instant
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    created,
    holding,
    row_of,
    running,
    sql_of,
    waiting,
)


class Finding(StoreCase):
    async def test_runs_by_age(self, store: CoordinationStore, me: int) -> None:
        runs = [(await running(store, me, f"t{n}", created_at=created(n))).run_id for n in range(3)]
        sql_of(store)("UPDATE runs SET created_us = NULL WHERE run_id = ?", runs[2])
        at = instant(created(1))
        assert await matching(store, created_from=at) == [runs[1]]
        assert await matching(store, created_before=at) == [runs[0]]
        assert await still_open(store, created_before=at) == [runs[0]]
        assert await matching(store) == [runs[1], runs[0], runs[2]], "unreadable times come last"

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
        assert await matching(store, silent_since=now - 1) == [quiet.run_id]
        assert len(await matching(store, silent_since=now)) == 3
        await store.finish(quiet, SUCCESS)
        assert await matching(store, silent_since=now - 1) == []

    async def test_ids_of_operations_are_not_found(self, store: CoordinationStore, me: int) -> None:
        operation = await holding(store, me, kind="op")
        assert await store.ids_from("run", operation.run_id[:4], limit=10) == []
        assert await store.ids_from("cron", "", limit=10) == []
        assert await store.ids_from("webhook", "", limit=10) == []
