"""What workers of earlier versions call on the newest schema answers what it answered on theirs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.postgres import PostgresStore
from stores.rows import Ownership
from tests.support.builders import buried, cancel, new_worker, running, sql_of, waiting
from tests.support.postgres import Database

FINISH = (
    "SELECT said, next_home, (stands).status, children::text FROM finish(?, ?, ?, ?, false, 'success', NULL,"
    " NULL, NULL, false, NULL, NULL, NULL, NULL)"
)
FINISH_MANY = (
    "SELECT said, next_home, (stands).status, children::text FROM finish_many(ARRAY[?], ARRAY[?],"
    " ARRAY[?]::bigint[], ARRAY[?]::bigint[], ARRAY[false], ARRAY['success'], ARRAY[NULL]::text[],"
    " ARRAY[NULL]::text[], ARRAY[NULL]::text[], ARRAY[false], ARRAY[NULL]::text[], ARRAY[NULL]::bigint[],"
    " ARRAY[NULL]::bigint[], ARRAY[NULL]::bigint[])"
)
SETTLE = (
    "SELECT said, next_home, (stands).status, NULL FROM settle(?, ?, ?, ?, NULL, NULL, NULL, NULL, NULL,"
    " NULL)"
)


@pytest.fixture
async def store(shared_postgres: Database) -> AsyncGenerator[PostgresStore]:
    async with shared_postgres.store() as store:
        yield store


async def line_of(store: CoordinationStore, home: str) -> tuple[Ownership, int]:
    """(who holds the thread, the home of the next in line)"""
    me, peer = [await store.register(new_worker(assistants=("agent",))) for _ in range(2)]
    own = await running(store, me)
    if home != "nobody":
        await waiting(store, peer, portable=True, assistant_id="agent")
    if home == "none":
        await store.drain(peer)
    if home == "dead":
        await buried(store, peer, by=me)
    return own, peer


@pytest.mark.parametrize("function", [FINISH, FINISH_MANY], ids=["finish", "finish_many"])
@pytest.mark.parametrize("home", ["nobody", "none", "dead", "live"])
async def test_finish_answers_the_bare_home_of_the_next_run(
    store: PostgresStore, home: str, function: str
) -> None:
    own, peer = await line_of(store, home)
    (answer,) = sql_of(store)(function, own.run_id, "t", own.epoch, own.fence)
    assert answer == ("written", peer if home in ("dead", "live") else None, "success", None)


@pytest.mark.parametrize("home", ["nobody", "none", "dead", "live"])
async def test_settle_answers_the_bare_home_of_the_next_run(store: PostgresStore, home: str) -> None:
    own, peer = await line_of(store, home)
    await cancel(store, own.run_id)
    (answer,) = sql_of(store)(SETTLE, own.run_id, "t", own.epoch, own.fence)
    assert answer == ("written", peer if home in ("dead", "live") else None, "interrupted", None)


async def test_finish_of_a_run_that_was_lost_answers_how_it_stands(store: PostgresStore) -> None:
    own, _ = await line_of(store, "live")
    execute: Any = sql_of(store)
    (answer,) = execute(FINISH, own.run_id, "t", own.epoch, own.fence + 1)
    assert answer == ("lost", None, "running", None)
