"""Texts for runs that no live worker executes, or that wait for a worker with a place."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from stores.base import AdmissionStore, ReadStore
from stores.claims import Unclaimed
from stores.rows import RunRow

REMEDY = (
    "start a worker with that assistant and without admit_only, or cancel them; after 10 minutes they end as"
    " error"
)
PLACE = "a worker that has a place for it"


class WaitingStore(AdmissionStore, ReadStore, Protocol):
    """Store operations of `waits_for`."""


def reason_of(waiting: Unclaimed) -> str:
    """For the log, health and lists of workers."""
    runs = "1 run waits" if waiting.runs == 1 else f"{waiting.runs} runs wait"
    since = datetime.fromtimestamp(waiting.since / 1e6, UTC)
    return (
        f"{runs} since {since:%Y-%m-%d %H:%M:%S} UTC, because no live worker executes assistant"
        f" {waiting.assistant_id!r}; {REMEDY}"
    )


async def waits_for(store: WaitingStore, run: RunRow) -> str | None:
    """What a queued run waits for, if its thread is free: which workers may claim it, or the run before
    it. None: the run is not queued, its thread is held, or the worker that admitted it claims it."""
    if not run.waiting or run.delayed:
        return None
    workers = await store.claimants(run.thread_id)
    head_id = await store.holder(run.thread_id)
    head = run if head_id in (None, run.run_id) else await store.row(head_id)
    if head is None or not head.waiting or head.delayed or not head.portable or head.home_epoch in workers:
        return None
    unclaimed = f"a worker: no live worker executes assistant {head.assistant_id!r}; {REMEDY}"
    what = PLACE if workers else unclaimed
    return what if head is run else f"run {head.run_id!r}, which waits for {what}"
