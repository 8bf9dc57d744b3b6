"""Rows of a newer version: unknown values are read unchanged, and hide no rows."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.catalogue import ThreadQuery
from stores.rows import Ownership
from stores.sql.readable import unreadable_rows
from stores.states import Phase, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import ENDED, row_of, running, sql_of, waiting


async def decided(store: CoordinationStore, me: int) -> Ownership:
    """A run that a newer version has decided with an unknown action and cause."""
    own = await running(store, me)
    sql_of(store)(
        "UPDATE runs SET status = 'interrupted', cancel_action = 'suspend', cancel_cause = 'quota',"
        " multitask_strategy = 'merge', on_disconnect = 'detach', cancel_requested_at = updated_at"
        " WHERE run_id = ?",
        own.run_id,
    )
    return own


class NewerValues(StoreCase):
    async def test_unknown_action_and_cause_keep_their_text(self, store: CoordinationStore, me: int) -> None:
        own = await decided(store, me)
        row = await row_of(store, own.run_id)
        assert (row.cancel_action, row.cancel_cause) == ("suspend", "quota")
        assert (row.multitask_strategy, row.on_disconnect) == ("merge", "detach")
        assert row.phase is Phase.cancelling
        standing = await store.standing(own.run_id)
        assert standing is not None
        assert (standing.status, standing.action, standing.cause) == ("interrupted", "suspend", "quota")
        record = await store.get(own.run_id)
        assert record is not None
        assert (record["cancel_action"], record["cancel_cause"]) == ("suspend", "quota")

    async def test_run_with_an_unknown_cause_is_listed_ticked_and_settled(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await decided(store, me)
        after = await waiting(store, me)
        assert {run.run_id for run in await store.runs()} == {own.run_id, after}
        assert {run.run_id for run in await store.runs(in_flight=True)} == {own.run_id, after}
        assert (await store.tick(me)).cancelled == (own.run_id,)
        finish = await store.finish(own, ENDED)
        assert (finish.lost, finish.status) == (False, RunStatus.interrupted)
        claimed = await store.claim("t", epoch=me)
        assert claimed is not None
        assert claimed.run_id == after

    async def test_audit_with_unknown_values_keeps_their_text(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await decided(store, me)
        sql_of(store)(
            "UPDATE transitions SET to_status = 'suspended', what = 'suspended' WHERE run_id = ?"
            " AND cause = 'quota'",
            own.run_id,
        )
        last = (await store.transitions(own.run_id))[-1]
        assert (last.what, last.to_status, last.cause) == ("suspended", "suspended", "quota")

    async def test_row_that_cannot_be_read_is_skipped_counted_and_logged_once(
        self, store: CoordinationStore, me: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        good, bad = await running(store, me, "good"), await running(store, me, "bad")
        sql_of(store)("UPDATE runs SET interrupts = '{', metadata = '{' WHERE run_id = ?", bad.run_id)
        every: dict[str, Any] = {"statuses": (), "thread_id": None, "user_id": None, "after": "", "limit": 10}
        before = unreadable_rows()
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert [run.run_id for run in await store.runs()] == [good.run_id]
                assert [run.run_id for run in await store.runs(in_flight=True)] == [good.run_id]
                assert [run.run_id for run in await store.inflight_runs(**every)] == [good.run_id]
                page = await store.thread_runs("bad", statuses=(), limit=10, offset=0, user_id=None)
                assert page == []
        assert unreadable_rows() == before + 1
        assert len([line for line in caplog.messages if bad.run_id in line]) == 1
        assert (await store.tick(me)).cancelled == ()
        assert len(await store.threads(ThreadQuery(), user_id=None)) == 2
