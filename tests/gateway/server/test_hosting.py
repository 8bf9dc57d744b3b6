"""A user's app that mounts the gateway: at a signal its runs are drained, even if responses are open."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from coordinator.bootstrap import open_observer
from coordinator.gateway import serve
from coordinator.gateway.server.failures import CannotServe
from coordinator.settings import Settings
from tests.gateway.server.test_metrics_of_all_workers import admitted
from tests.support.served import Served, alive, running_python

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

GRACE = 1.5
APP = f"""
import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from coordinator import open_coordinator
from coordinator.gateway import create_gateway, serve

async def long(ctx):
    while True:
        await ctx.emit("custom", 1)
        await asyncio.sleep(0.05)

async def short(ctx):
    await ctx.emit("custom", 1)
    await ctx.drain_event.wait()
    return {{"done": True}}

def app_with(grace):
    @asynccontextmanager
    async def lifespan(app):
        agents = {{"long": long, "short": short}}
        async with open_coordinator("sqlite:///runs.db", assistants=agents, grace=grace) as manager:
            gateway = create_gateway(manager)
            app.mount("/agents", gateway)
            async with gateway.running():
                yield
        with Path("ended").open("a") as ended:
            ended.write("lifespan ended\\n")

    return FastAPI(lifespan=lifespan)

app, patient = app_with({GRACE}), app_with(60)
"""
ONE = "import mine; from coordinator.gateway import serve; serve(mine.app, port=0)"
TWO = "from coordinator.gateway import serve; serve('mine:app', port=0, workers=2)"


@asynccontextmanager
async def hosted(program: str, folder: Path, **variables: str) -> AsyncGenerator[Served]:
    (folder / "mine.py").write_text(APP)
    async with running_python(program, folder=folder, descriptors=None, **variables) as server:
        yield server


async def watch(client: httpx.AsyncClient, assistant: str, begun: asyncio.Semaphore) -> str:
    """Returns everything that a client of a stream receives."""
    text = ""
    body = {"assistant_id": assistant, "stream_mode": "custom", "on_completion": "keep"}
    with suppress(httpx.RemoteProtocolError):
        async with client.stream("POST", "/agents/runs/stream", json=body) as answer:
            assert answer.status_code == 200
            async for part in answer.aiter_text():
                if "event: custom" in part and "event: custom" not in text:
                    begun.release()
                text += part
    return text


@pytest.mark.parametrize("program", [ONE, TWO], ids=["one process", "two workers"])
async def test_runs_are_drained_from_the_signal_on(program: str, tmp_path: Path) -> None:
    async with hosted(program, tmp_path) as server:
        async with httpx.AsyncClient(base_url=await server.up(), timeout=30) as client:
            begun = asyncio.Semaphore(0)
            watching = [asyncio.create_task(watch(client, name, begun)) for name in ("long", "short")]
            for _ in watching:
                await begun.acquire()
            workers = [*server.workers.values()]
            server.send(signal.SIGTERM)
            took, status = await server.gone()
            await asyncio.gather(*watching)
        assert status == 0, server.output
        assert took < GRACE + 5
        assert not any(map(alive, workers))
        assert (tmp_path / "ended").read_text().count("lifespan ended") == max(1, len(workers))
        assert "Traceback" not in server.output
    async with open_observer(Settings(store=f"sqlite:///{tmp_path / 'runs.db'}")) as seen:
        ends = {row.assistant_id: row.status.value for row in await seen.store.runs()}
    assert ends == {"long": "interrupted", "short": "success"}


async def test_a_second_signal_ends_the_grace(tmp_path: Path) -> None:
    async with hosted(ONE.replace("mine.app", "mine.patient"), tmp_path) as server:
        async with httpx.AsyncClient(base_url=await server.up(), timeout=30) as client:
            begun = asyncio.Semaphore(0)
            watching = asyncio.create_task(watch(client, "long", begun))
            await begun.acquire()
            server.send(signal.SIGTERM)
            await asyncio.sleep(0.05)  # two signals of one number that wait together are one
            server.send(signal.SIGTERM)
            _, status = await server.gone(within=10)
            await watching
        assert status == 0


async def test_app_whose_lifespan_fails_does_not_serve(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_text("no database at all, but a text of more than a few bytes\n" * 20)
    async with hosted(ONE, tmp_path) as server:
        _, status = await server.gone()
        assert status == 3
        assert "Application startup failed" in server.output


async def test_killed_worker_is_restarted(tmp_path: Path) -> None:
    async with hosted(TWO, tmp_path) as server:
        await server.up()
        first = server.workers[1]
        os.kill(first, signal.SIGKILL)
        await server.wait_for_line(r"worker 1 \(pid \d+\) listens", times=2)
        assert server.workers[1] != first


async def test_metrics_of_a_mounted_gateway_are_those_of_all_workers(tmp_path: Path) -> None:
    async with hosted(TWO, tmp_path) as server:
        url = f"{await server.up()}/agents"
        await server.wait_for_line(r"worker 2 \(pid \d+\) listens")
        for _ in range(10):
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                assert (await client.post("/runs", json={"assistant_id": "long"})).status_code == 200
        assert {await admitted(url) for _ in range(12)} == {10}


def test_several_workers_need_the_name_of_the_app() -> None:
    with pytest.raises(CannotServe, match="several workers need the name of an app"):
        serve(object(), workers=2)
