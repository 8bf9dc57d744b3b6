"""`coordinator serve --admit-only`: one server answers clients, another one on the same store executes the
runs."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.command_line import cli
from tests.support.served import served
from tests.support.sse import all_events

pytestmark = [pytest.mark.multiprocess]

RUN: dict[str, object] = {"assistant_id": "agent", "input": {"messages": [{"role": "user", "content": "hi"}]}}


async def test_runs_of_clients_of_one_server_are_executed_by_another(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    options = ("--store", store, "--redis", "", "--demo-assistant")
    async with (
        served("serve", "--admit-only", *options, folder=tmp_path) as front,
        httpx.AsyncClient(base_url=await front.up(), timeout=30) as client,
    ):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        created = (await client.post(f"/threads/{thread}/runs", json=RUN)).json()
        assert created["status"] == "pending"
        await front.wait_for_line("executes +no runs")
        shown = await cli("explain", created["run_id"], "--store", store)
        assert "no live worker executes assistant 'agent'" in shown.out
        shown = await cli("runs", "show", created["run_id"], "--store", store)
        assert "no live worker executes assistant 'agent'" in shown.out
        workers = await cli("workers", "list", "--store", store, "--json")
        assert [one["runs"] for one in workers.document["unclaimed"]] == [1]
        assert "1 run waits since" in workers.err
        async with served("serve", *options, folder=tmp_path) as back:
            await back.up()
            joined = await client.get(f"/threads/{thread}/runs/{created['run_id']}/join")
            assert joined.status_code == 200
            waited = await client.post(f"/threads/{thread}/runs/wait", json=RUN)
            assert waited.status_code == 200, waited.text
            assert (joined.json()["log"], waited.json()["log"]) == (["run:1"], ["run:1"] * 2)
            sent = await all_events(client, "POST", f"/threads/{thread}/runs/stream", json=RUN)
            names = [event.event for event in sent]
            assert names[0] == "metadata"
            assert "values" in names
            listed = (await cli("workers", "list", "--store", store, "--json")).document["workers"]
            assert [row["admits_only"] for row in listed] == [True, False]
            table = (await cli("workers", "list", "--store", store)).out
            assert "admits only" in table
            runs = (await cli("runs", "list", "--store", store, "--json")).document["runs"]
            assert {run["owner_epoch"] for run in runs} == {listed[1]["epoch"]}
