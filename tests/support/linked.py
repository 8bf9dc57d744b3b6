"""Links and notifiers that are closed at the end of a test."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from coordinator.notifier import Connectivity
from coordinator.notifiers.redis import RedisNotifier
from coordinator.redis.link import RedisLink
from coordinator.testing.conformance.notifiers import Worker
from tests.support.waiting import wait_until

HEALS_WITHIN = 2.0
"""Seconds from Redis being back to everything working as before."""


@asynccontextmanager
async def linked(url: str, namespace: str, budget: float = 0.25) -> AsyncGenerator[RedisLink]:
    """A link that has connected."""
    link = RedisLink(url, namespace=namespace, budget=budget)
    try:
        await wait_until(
            link.ping, description="the link has connected"
        )  # a busy machine may exceed the budget
        yield link
    finally:
        await link.aclose()


@asynccontextmanager
async def notified(url: str, namespace: str) -> AsyncGenerator[Worker]:
    """A worker that was not started yet. Its link has connected, if it can."""
    link = RedisLink(url, namespace=namespace)
    notifier = RedisNotifier(link)
    try:
        await link.ping()
        yield Worker(notifier)
    finally:
        await notifier.aclose()
        await link.aclose()


async def until(worker: Worker, connectivity: Connectivity, timeout: float = 20.0) -> float:
    return await wait_until(
        lambda: worker.notifier.connectivity is connectivity, description=connectivity, timeout=timeout
    )
