"""Gateways that are served over sockets, in this process.

`pair`: two gateways, `local` and `remote`. With `alone` both are the same worker in memory; with `together`
they are two workers on one SQLite file and a real Valkey, with `unlinked` two workers on the file without
Redis. A test of one worker is thereby also a test across two. `graphs`: like `together`, with an `agent` that
behaves like graphs. `plain`: like `pair`, also in modules that replace `pair` by one with graphs."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from coordinator.servers.valkey import ValkeyServer
from tests.graphlike import CheckpointStates, GraphLikeAssistant
from tests.support.gateway_agents import AGENTS
from tests.support.gateways import Served, gateways, new_thread, one_gateway

Pair = tuple[Served, Served]


@pytest.fixture
async def one() -> AsyncGenerator[Served]:
    async with one_gateway() as served:
        yield served


@pytest.fixture
async def two(tmp_path: Path, shared_valkey: ValkeyServer, namespace: str) -> AsyncGenerator[Pair]:
    async with gateways(2, tmp_path, shared_valkey.url, namespace) as (local, remote):
        yield local, remote


@pytest.fixture
async def unlinked(tmp_path: Path) -> AsyncGenerator[Pair]:
    async with gateways(2, tmp_path, None, "rc") as (local, remote):
        yield local, remote


@pytest.fixture
async def graphs(tmp_path: Path, shared_valkey: ValkeyServer, namespace: str) -> AsyncGenerator[Pair]:
    def agents() -> dict[str, Any]:
        states = CheckpointStates(tmp_path / "checkpoints.db")
        return {**AGENTS, "agent": GraphLikeAssistant(states, name="agent")}

    async with gateways(2, tmp_path, shared_valkey.url, namespace, agents=agents) as (local, remote):
        yield local, remote


def pair_of(request: pytest.FixtureRequest) -> Pair:
    if request.param != "alone":
        return request.getfixturevalue("two" if request.param == "together" else request.param)
    one: Served = request.getfixturevalue("one")
    return one, one


UNLINKED = ("alone", "together", "unlinked")
"""For modules that also test messages between workers."""

WITH_GRAPHS = ("alone", "together", "graphs")
"""For modules that also test graphs: `pair = pytest.fixture(pair_of, params=WITH_GRAPHS)`."""


@pytest.fixture
def no_exception_is_logged(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Fails the test if the server logs an exception: no client sees one that is raised after its
    response."""
    yield
    logged = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert [record.exc_info for record in logged if record.exc_info] == []


plain = pytest.fixture(pair_of, name="plain", params=["alone", "together"])
pair = pytest.fixture(pair_of, name="pair", params=["alone", "together"])


@pytest.fixture
async def thread(pair: Pair) -> str:
    return await new_thread(pair[0].sdk)
