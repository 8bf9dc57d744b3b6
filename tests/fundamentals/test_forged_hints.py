"""Every client that can publish may forge hints. They cost a bounded number of transactions, and the worker
keeps answering."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator import RunManager
from coordinator.notifier import Signal
from coordinator.runs.hinted_claims import AT_ONCE
from tests.support.agents import Agent, launched
from tests.support.inside import assembly_of, jobs_of
from tests.support.waiting import wait_until

FORGED = 5_000


@pytest.mark.parametrize("threads", [1, FORGED], ids=["one thread", "a thread each"])
async def test_forged_claim_hints_cost_a_bounded_number_of_claims(
    alone: RunManager, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    await alone.create_or_reject("mine")
    await assembly_of(alone).loops.stop()
    claims, claim = list[str](), alone.store.claim

    async def counted(thread_id: str, **kwargs: Any) -> Any:
        claims.append(thread_id)
        return await claim(thread_id, **kwargs)

    monkeypatch.setattr(alone.store, "claim", counted)
    for number in range(FORGED):
        assembly_of(alone).watch.signal(Signal(kind="claim", thread_id=f"no {number % threads}"))
    run, agent = await launched(alone, "other", Agent(returns=1))
    async with asyncio.timeout(10):
        await agent.started.wait()
    agent.may_end.set()
    assert await alone.wait(run.run_id, timeout=10) == 1
    await wait_until(lambda: not jobs_of(alone), description="all hints are dealt with")
    assert len(claims) <= min(threads + 1, AT_ONCE)


async def test_thread_is_passed_on_although_hints_exceed_the_claim_limit(
    alone: RunManager,
) -> None:
    """The tick that replaces dropped hints finds their threads."""
    holds, holder = await launched(alone, "t", Agent(returns=1))
    async with asyncio.timeout(10):
        await holder.started.wait()
    waits, agent = await launched(alone, "t", Agent(returns=2), multitask_strategy="enqueue")
    await assembly_of(alone).loops.stop()
    assembly_of(alone).shared.queue.dispatch_next = _lost
    holder.may_end.set()
    assert await alone.wait(holds.run_id, timeout=10) == 1  # the thread is free, and no worker has claimed it
    agent.may_end.set()
    for number in range(FORGED):
        assembly_of(alone).watch.signal(Signal(kind="claim", thread_id=f"no {number}"))
    assembly_of(alone).watch.signal(Signal(kind="claim", thread_id="t"))
    assert await alone.wait(waits.run_id, timeout=10) == 2


async def _lost(thread_id: str, next_home: int | None) -> None:
    del thread_id, next_home
