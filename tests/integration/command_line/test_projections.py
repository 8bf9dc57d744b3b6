"""`coordinator projections`, and what `coordinator db check` reports of them."""

from __future__ import annotations

import pytest

from coordinator import open_coordinator
from coordinator.cli.projections import warnings_of
from stores.projections import FailedChange, ProjectionRow, ProjectionStore
from tests.support.command_line import DONE, FAILED, USAGE, Answer, Busy, cli, on_a_terminal
from tests.support.postgres import Database

MINUTE = 60_000_000  # µs


@pytest.fixture
async def abandoned(busy: Busy) -> Busy:
    """A store with a projection that no worker has, and with pending changes: one of them has failed."""
    store = store_of(busy)
    await store.add_projection("gone")
    assert await busy.manager.cancel(busy.waiting[0].run_id)
    epoch = busy.manager.worker.epoch
    changes = await store.claim_changes("gone", epoch=epoch, lease=30, limit=100)
    assert changes is not None
    failed = FailedChange(changes[0].seq, "no such table", 3 * MINUTE)
    await store.report_changes("gone", epoch=epoch, delivered=[changes[1].seq], failed=[failed])
    return busy


def store_of(busy: Busy) -> ProjectionStore:
    assert isinstance(busy.manager.store, ProjectionStore)
    return busy.manager.store


async def test_projections_are_listed_with_their_pending_and_failing_changes(abandoned: Busy) -> None:
    [row] = await store_of(abandoned).projections()
    [listed] = (await abandoned.cli("projections", "list", "--json")).document["projections"]
    assert (listed["name"], listed["pending"], listed["failing"]) == ("gone", row.pending, 1)
    assert (listed["filling"], listed["claimed_by"], listed["error"]) == (False, None, "no such table")
    assert listed["oldest_at"] is not None
    header, line = (await abandoned.cli("projections", "list")).out.splitlines()
    assert line[header.index("PENDING") :].split()[0] == str(row.pending)
    assert line[header.index("FAILING") :].split()[0] == "1"
    assert line.endswith("no such table")


async def test_store_without_projections_has_an_empty_list(busy: Busy) -> None:
    assert (await busy.cli("projections", "list", "--json")).document == {"projections": []}
    assert (await busy.cli("projections", "list")).out == f"no projections in {busy.url}\n"


async def test_check_shows_projections_and_warns_of_those_that_lack_changes(abandoned: Busy) -> None:
    [row] = await store_of(abandoned).projections()
    check = await abandoned.cli("db", "check", "--json")
    [shown] = check.document["check"]["projections"]
    assert (check.code, shown["name"], shown["pending"]) == (DONE, "gone", row.pending)
    assert any("projection 'gone'" in warning for warning in check.document["check"]["warnings"])
    text = await abandoned.cli("db", "check")
    assert f"1: 'gone' with {row.pending} pending changes" in text.out
    assert "coordinator projections remove gone" in text.err


def test_projection_is_warned_of_if_it_fails_or_its_oldest_change_is_old() -> None:
    row = ProjectionRow("a b", 0, filling=False, claimed_by=None)
    assert warnings_of([row, row._replace(pending=3, oldest_at=9 * MINUTE)], 9 * MINUTE) == []
    [old] = warnings_of([row._replace(pending=1, oldest_at=6 * MINUTE)], 9 * MINUTE)
    assert "projection 'a b' has 1 pending change, the oldest since 3 min" in old
    assert "coordinator projections remove 'a b'" in old
    failing = row._replace(pending=2, oldest_at=9 * MINUTE, failing=1, error="no such table. Create it")
    [failed] = warnings_of([failing], 9 * MINUTE)
    assert "projection 'a b' has 2 pending changes" in failed
    assert "no such table" in failed


async def test_projection_is_removed_after_a_confirmation(abandoned: Busy) -> None:
    [row] = await store_of(abandoned).projections()
    refused = await abandoned.cli("projections", "remove", "gone", "--json")
    assert (refused.code, refused.error["type"]) == (USAGE, "NotConfirmed")
    assert f"{row.pending} pending changes" in refused.error["message"]
    assert (await in_terminal(abandoned, "n\n")).code != DONE
    assert len(await store_of(abandoned).projections()) == 1
    assert (await in_terminal(abandoned, "y\n")).code == DONE
    assert await store_of(abandoned).projections() == []


async def in_terminal(busy: Busy, typed: str) -> Answer:
    env = {"COORDINATOR_STORE": busy.url}
    return await on_a_terminal("projections", "remove", "gone", env=env, typed=typed)


async def test_removed_projection_is_reported(abandoned: Busy) -> None:
    [row] = await store_of(abandoned).projections()
    answer = await abandoned.cli("projections", "remove", "gone", "--yes", "--json")
    assert (answer.code, answer.document) == (DONE, {"removed": {"name": "gone", "pending": row.pending}})
    again = await abandoned.cli("projections", "remove", "gone", "--yes", "--json")
    assert (again.code, again.error["type"]) == (FAILED, "ProjectionNotFound")
    assert "coordinator projections list" in again.error["hint"]


async def test_projection_that_a_live_worker_delivers_is_not_removed(abandoned: Busy) -> None:
    epoch = abandoned.manager.worker.epoch
    await store_of(abandoned).claim_changes("gone", epoch=epoch, lease=30, limit=1)
    answer = await abandoned.cli("projections", "remove", "gone", "--yes", "--json")
    assert (answer.code, answer.error["type"]) == (FAILED, "ProjectionInUse")
    assert f"worker epoch {epoch}" in answer.error["message"]
    assert len(await store_of(abandoned).projections()) == 1


async def test_projection_of_a_postgres_schema_is_listed_and_removed(shared_postgres: Database) -> None:
    async with shared_postgres.worker() as (url, schema):
        env = {"COORDINATOR_STORE": url, "COORDINATOR_POSTGRES_SCHEMA": schema}
        async with open_coordinator(url, postgres_schema=schema) as manager:
            assert isinstance(manager.store, ProjectionStore)
            await manager.store.add_projection("gone")
            await manager.create_or_reject("t")
        [listed] = (await cli("projections", "list", "--json", env=env)).document["projections"]
        assert (listed["name"], listed["pending"] > 0) == ("gone", True)
        [checked] = (await cli("db", "check", "--json", env=env)).document["check"]["projections"]
        assert checked == listed
        answer = await cli("projections", "remove", "gone", "--yes", "--json", env=env)
        assert answer.document == {"removed": {"name": "gone", "pending": listed["pending"]}}
        assert (await cli("projections", "list", "--json", env=env)).document == {"projections": []}
