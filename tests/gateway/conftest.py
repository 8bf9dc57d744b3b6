"""Gateways that are served over sockets, in this process.

`pair`: two places to ask. `alone` is one worker in memory, asked twice; `together` two workers on one SQLite
file and a real Valkey; with `graphs` their `agent` behaves as graphs do. So what is tested of one worker is
tested across two, and of functions as of graphs. `plain`: the first two.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from coordinator.testing.graphlike import CheckpointStates, GraphLikeAssistant
from coordinator.testing.valkey import ValkeyServer
from tests.support.gateway_agents import AGENTS
from tests.support.gateways import Served, gateways, new_thread, one_gateway

Pair = tuple[Served, Served]


@pytest.fixture
async def one() -> AsyncGenerator[Served]:
    async with one_gateway() as served:
        yield served


@pytest.fixture
async def two(tmp_path: Path, shared_valkey: ValkeyServer, namespace: str) -> AsyncGenerator[Pair]:
    async with gateways(2, tmp_path, shared_valkey.url, namespace) as (here, there):
        yield here, there


@pytest.fixture
async def graphs(tmp_path: Path, shared_valkey: ValkeyServer, namespace: str) -> AsyncGenerator[Pair]:
    def agents() -> dict[str, Any]:
        states = CheckpointStates(tmp_path / "checkpoints.db")
        return {**AGENTS, "agent": GraphLikeAssistant(states, name="agent")}

    async with gateways(2, tmp_path, shared_valkey.url, namespace, agents=agents) as (here, there):
        yield here, there


def _pair(request: pytest.FixtureRequest) -> Pair:
    if request.param != "alone":
        return request.getfixturevalue("two" if request.param == "together" else request.param)
    one: Served = request.getfixturevalue("one")
    return one, one


plain = pytest.fixture(_pair, name="plain", params=["alone", "together"])
pair = pytest.fixture(_pair, name="pair", params=["alone", "together", "graphs"])


@pytest.fixture
async def thread(pair: Pair) -> str:
    return await new_thread(pair[0].sdk)
