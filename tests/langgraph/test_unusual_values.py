"""Numbers that are not finite, U+0000 and lone surrogates in a graph's state, over HTTP on both stores."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from coordinator.langgraph import GraphAssistant, postgres_states, sqlite_states
from tests.langgraph.savers.test_values import VALUES, valued
from tests.support.gateways import Served, gateways
from tests.support.postgres import Database

SHOWN: dict[str, Any] = {
    "nan": None,
    "infinity": None,
    "negative infinity": None,
    "NUL": "a\0b",
    "lone surrogate": "a?b",
    "nested": {"of": [None, "a\0b"]},
}


@pytest.fixture(params=["sqlite", "postgres"])
async def gateway(
    request: pytest.FixtureRequest, tmp_path: Path, shared_postgres: Database, namespace: str
) -> AsyncGenerator[Served]:
    name = f"values_{uuid4().hex[:12]}"
    settings: dict[str, Any] = {}
    states = sqlite_states(tmp_path / "checkpoints.db", synchronous="NORMAL")
    if request.param == "postgres":
        await shared_postgres.execute(f"CREATE DATABASE {name}")
        url = urlunsplit(urlsplit(shared_postgres.url)._replace(path=f"/{name}"))
        settings, states = {"store": url}, postgres_states(url)

    def agents() -> dict[str, Any]:
        return {case: GraphAssistant(valued(VALUES[case]), states, name=case) for case in VALUES}

    async with gateways(1, tmp_path, None, namespace, settings=settings, agents=agents) as (one,):
        yield one
    if settings:
        await shared_postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_values_are_kept_and_shown(gateway: Served) -> None:
    sdk = gateway.sdk
    for case, shown in SHOWN.items():
        thread = (await sdk.threads.create(graph_id=case))["thread_id"]
        config: Any = {"metadata": {"note": "a\0b"}}
        result: Any = await sdk.runs.wait(thread, case, input={"log": []}, config=config)
        assert (result["value"], result["again"]) == (shown, shown), case
        await sdk.threads.update_state(thread, {"given": "x\0y"}, as_node="second")
        state: Any = await sdk.threads.get_state(thread)
        assert (state["values"]["value"], state["values"]["given"]) == (shown, "x\0y")
        history: Any = await sdk.threads.get_history(thread)
        assert [one["values"].get("again") for one in history] == [shown, shown, None, None, None]
        assert (await sdk.threads.get(thread))["values"]["again"] == shown


async def test_input_with_a_nul_is_kept(gateway: Served) -> None:
    sdk = gateway.sdk
    thread = (await sdk.threads.create(graph_id="NUL"))["thread_id"]
    events = [part async for part in sdk.runs.stream(thread, "NUL", input={"given": "x\0y"})]
    assert events[-1].data["given"] == "x\0y"
    copy = await sdk.threads.copy(thread)
    state: Any = await sdk.threads.get_state(copy["thread_id"])
    assert state["values"]["given"] == "x\0y"
