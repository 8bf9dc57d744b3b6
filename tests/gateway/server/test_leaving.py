"""Restarts and shutdowns under load: no run is lost or stuck, and no stream delays the exit."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

from coordinator import RunStatus
from coordinator.bootstrap import Observer, open_observer
from coordinator.settings import Settings
from tests.support.served import alive, served

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

GRACE = 5.0
STEPS = 5


def observer(folder: Path) -> Any:
    """Reads the store directly, without the servers."""
    return open_observer(Settings(store=f"sqlite:///{folder / '.coordinator' / 'runs.db'}"))


async def ends_of(seen: Observer) -> Counter[str]:
    """Counts the runs by final status. No run may be open."""
    assert not await seen.store.runs(in_flight=True)
    return Counter(row.status.value for row in await seen.store.runs(limit=100_000))


class Client:
    """Creates and follows runs in a loop, with an unmodified SDK, and records what it received."""

    def __init__(self, sdk: Any) -> None:
        self._sdk = sdk
        self.complete, self.created = 0, 0
        self.wrong: list[object] = []

    async def stream_for_ever(self) -> None:
        """Streams runs on separate threads; all events must arrive once and in order."""
        while True:
            thread = (await self._sdk.threads.create())["thread_id"]
            following = self._sdk.runs.stream(
                thread, "agent", input={"steps": STEPS, "sleep": 0.05}, stream_resumable=True
            )
            events = [(part.event, part.data) async for part in following]
            done = [data["done"] for event, data in events if event == "values"]
            if done != [*range(1, STEPS + 1)] or any(event == "error" for event, _ in events):
                self.wrong.append(events)
            self.complete += 1

    async def create_for_ever(self) -> None:
        while True:
            thread = (await self._sdk.threads.create())["thread_id"]
            run = await self._sdk.runs.create(thread, "agent", input={"steps": 2, "sleep": 0.02})
            joined: Any = await self._sdk.runs.join(thread, run["run_id"])
            if joined.get("done") != 2:
                self.wrong.append(joined)
            self.created += 1


@pytest.mark.timeout(120)
async def test_rolling_restart_under_load_loses_no_run(tmp_path: Path) -> None:
    async with (
        AsyncExitStack() as stack,
        served("serve", "--workers", "3", "--grace", str(GRACE), folder=tmp_path) as server,
    ):
        sdk = await stack.enter_async_context(get_client(url=await server.up()))
        client = Client(sdk)
        before = [*server.workers.values()]
        working = [asyncio.create_task(client.stream_for_ever()) for _ in range(2)]
        working += [asyncio.create_task(client.create_for_ever()) for _ in range(2)]
        server.send(signal.SIGHUP)
        await server.wait_for_line("rolling restart done", within=90)
        enough = client.complete + 4, client.created + 4
        while client.complete < enough[0] or client.created < enough[1]:
            assert not [task for task in working if task.done()], "a client gave up"
            await asyncio.sleep(0.02)
        for task in working:
            task.cancel()
        ended = await asyncio.gather(*working, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended
        assert not client.wrong
        assert not [pid for pid in before if alive(pid)]
        server.send(signal.SIGTERM)
        took, status = await server.gone()
        assert (status, took < GRACE + 5) == (0, True)
        assert "has not ended in time" not in server.output
        assert "Traceback" not in server.output
    async with observer(tmp_path) as seen:
        assert set(await ends_of(seen)) <= {RunStatus.success.value, RunStatus.interrupted.value}


async def test_open_streams_do_not_delay_the_exit(tmp_path: Path) -> None:
    """Connections of every kind: streaming, joining, waiting, and idle ones."""
    grace = 1.0
    async with served("serve", "--workers", "2", "--grace", str(grace), folder=tmp_path) as server:
        url = await server.up()
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            body = {"assistant_id": "agent", "input": {"steps": 1000, "sleep": 0.1}}
            kept = {**body, "on_completion": "keep"}
            thread = (await client.post("/threads", json={})).json()["thread_id"]
            run = (await client.post(f"/threads/{thread}/runs", json=body)).json()["run_id"]

            async def hold(method: str, path: str, **more: Any) -> str:
                """Returns how the response ended for the client."""
                with suppress(httpx.RemoteProtocolError):
                    async with client.stream(method, path, **more) as answer:
                        assert answer.status_code == 200
                        async for _ in answer.aiter_raw():
                            begun.release()
                    return "closed"
                return "broken"

            begun = asyncio.Semaphore(0)
            held = [
                asyncio.create_task(hold("GET", f"/threads/{thread}/runs/{run}/stream")),
                asyncio.create_task(hold("GET", f"/threads/{thread}/runs/{run}/join")),
                asyncio.create_task(hold("POST", "/runs/wait", json=kept)),
                asyncio.create_task(hold("POST", "/runs/stream", json=kept)),
            ]
            _, silent = await asyncio.open_connection("127.0.0.1", server.port)
            for _ in range(10):
                await begun.acquire()
            began = time.monotonic()
            server.send(signal.SIGTERM)
            _, status = await server.gone()
            assert status == 0
            assert time.monotonic() - began < grace + 5
            assert "has not ended in time" not in server.output
            assert set(await asyncio.gather(*held)) <= {"closed", "broken"}
            silent.close()
    async with observer(tmp_path) as seen:
        assert await ends_of(seen) == {RunStatus.interrupted.value: 3}
    assert "open responses are aborted" in server.output
    assert " ERROR " not in server.output, "an aborted response is no error"


async def test_second_signal_ends_the_grace(tmp_path: Path) -> None:
    async with (
        AsyncExitStack() as stack,
        served("serve", "--grace", "60", folder=tmp_path) as server,
    ):
        client = await stack.enter_async_context(get_client(url=await server.up()))
        thread = (await client.threads.create())["thread_id"]
        run = await client.runs.create(thread, "agent", input={"steps": 1000, "sleep": 0.1})
        server.send(signal.SIGTERM)
        await server.wait_for_line("stopping 1 worker")
        with suppress(asyncio.TimeoutError):
            await server.gone(within=2)
            pytest.fail("the server ended before the grace of its run was over")
        server.send(signal.SIGTERM)
        took, status = await server.gone()
        assert (status, took < 5) == (0, True)
    async with observer(tmp_path) as seen:
        assert (await seen.manager.runs.explain(run["run_id"])).run.status is RunStatus.interrupted
