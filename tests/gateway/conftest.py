"""Gateways that are served over sockets, in this process.

`pair`: two places to ask. `alone` is one worker in memory, asked twice; `together` two workers on one SQLite
file and a real Valkey, so that every test of cancels, streams and joins is one across workers too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from coordinator.testing.valkey import ValkeyServer
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


@pytest.fixture(params=["alone", "together"])
def pair(request: pytest.FixtureRequest) -> Pair:
    if request.param == "together":
        return request.getfixturevalue("two")
    one: Served = request.getfixturevalue("one")
    return one, one


@pytest.fixture
async def thread(pair: Pair) -> str:
    return await new_thread(pair[0].sdk)
