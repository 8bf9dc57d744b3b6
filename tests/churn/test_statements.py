"""A SQLite connection keeps its 512 latest statements prepared. A statement whose text varies with the number
of its values fills that cache; with 500 values it takes more than 100 KiB."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import pytest

from stores.memory import MemoryStore
from stores.pruning import PruneCursor, Retention
from stores.webhooks import WebhookReport
from tests.support.builders import SUCCESS, StoreClock, new_worker, running

WARM = 3
"""Batches after which each statement has been executed once."""
BATCHES = 12
LATER = 10 * 86_400.0
"""s. Runs are built with a time of creation that is later than the store's clock."""
KEEP = Retention(runs=0, transitions=0, workers=0, keys=0, webhooks=0)
ALL_RUNS = PruneCursor("runs", us=0)

Batch = Callable[[MemoryStore, Sequence[str]], Awaitable[None]]
"""Executes one operation for these runs, which have ended, with dead webhooks."""


async def prune(store: MemoryStore, run_ids: Sequence[str]) -> None:
    for cursor in (PruneCursor("transitions"), ALL_RUNS, PruneCursor("webhooks")):
        removed = (await store.prune(KEEP, cursor=cursor, limit=100, dry_run=False)).pruned
        assert sum(removed) >= len(run_ids)


async def prune_dry(store: MemoryStore, run_ids: Sequence[str]) -> None:
    step = await store.prune(KEEP, cursor=ALL_RUNS, limit=100, dry_run=True)
    assert step.pruned.runs >= len(run_ids)


async def prune_workers(store: MemoryStore, run_ids: Sequence[str]) -> None:
    for _ in run_ids:
        await store.retire(await store.register(new_worker()))
    step = await store.prune(KEEP, cursor=PruneCursor("workers"), limit=100, dry_run=False)
    assert step.pruned.workers == len(run_ids)


async def revive_webhooks(store: MemoryStore, run_ids: Sequence[str]) -> None:
    assert set(await store.revive_webhooks(run_ids)) == set(run_ids)


async def stop_webhooks(store: MemoryStore, run_ids: Sequence[str]) -> None:
    await store.revive_webhooks()
    assert set(await store.stop_webhooks(run_ids)) == set(run_ids)


def statements() -> int:
    """Returns the number of prepared statements of this process."""
    gc.collect()
    return sum(type(kept).__name__ == "Statement" for kept in cast("list[object]", gc.get_objects()))


async def ended(store: MemoryStore, me: int, count: int) -> list[str]:
    """Runs whose webhooks are dead, on one thread; another run ends after them."""
    url = "https://hooks.example.com"
    run_ids = list[str]()
    for _ in range(count):
        own = await running(store, me, webhook=url)
        await store.finish(own, SUCCESS)
        run_ids.append(own.run_id)
    for claimed in await store.claim_webhooks(epoch=me, lease=40.0, limit=100):
        report = WebhookReport(delivered=False, error="410", status_code=410)
        await store.report_webhook(claimed.run_id, attempt=claimed.attempt, report=report)
    await store.finish(await running(store, me), SUCCESS)
    return run_ids


@pytest.mark.parametrize(
    "batch",
    [prune, prune_dry, prune_workers, revive_webhooks, stop_webhooks],
    ids=lambda batch: batch.__name__,
)
async def test_batches_of_any_size_share_their_statements(batch: Batch) -> None:
    clock = StoreClock()
    store = MemoryStore(clock=clock)
    me = await store.register(new_worker())
    warm = 0
    for count in range(1, BATCHES + 1):
        run_ids = await ended(store, me, count)
        clock.advance(LATER)
        await batch(store, run_ids)
        if count == WARM:
            warm = statements()
    assert statements() == warm
