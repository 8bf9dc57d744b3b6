"""`coordinator dev`: edits are reloaded, and no run is repeated silently."""

from __future__ import annotations

import os
import re
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

from coordinator import RunManager, RunStatus
from coordinator.bootstrap import open_observer
from coordinator.gateway import create_gateway
from coordinator.settings import Settings
from tests.support.served import Served, alive, served
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

AGENT = """
import asyncio
from pathlib import Path

async def slow(ctx):
    await ctx.save({"version": VERSION})
    with Path("done.txt").open("a") as done:
        done.write(ctx.run.run_id + "\\n")
    await asyncio.Event().wait()

async def quick(ctx):
    return {"version": VERSION}

assistants = {"slow": slow, "quick": quick}
"""
MB = 1024


def write(folder: Path, version: int) -> None:
    (folder / "mine.py").write_text(AGENT.replace("VERSION", str(version)))


async def begun(folder: Path, url: str) -> str:
    """Starts a run and waits until it has started its work."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        answer = await client.post(f"/threads/{thread}/runs", json={"assistant_id": "slow"})
    run = str(answer.json()["run_id"])
    await wait_until(
        lambda: (folder / "done.txt").exists() and run in (folder / "done.txt").read_text(),
        description="the run is working",
        timeout=10,
    )
    return run


async def run_of(folder: Path, run_id: str) -> Any:
    async with open_observer(Settings(store=f"sqlite:///{folder / '.coordinator' / 'runs.db'}")) as seen:
        return await seen.store.row(run_id)


def memory_of(pid: int, what: str) -> int:
    """kB."""
    match = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert match is not None
    return int(match.group(1))


def children_of(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9 of all", "kill -9 of the one that was started"])
async def test_restart_ends_a_run_in_flight_and_does_not_repeat_it(tmp_path: Path, how: str) -> None:
    write(tmp_path, 1)
    async with served("dev", "--assistants", "mine:assistants", folder=tmp_path) as first:
        run = await begun(tmp_path, await first.up())
        (worker,) = first.workers.values()
        if how == "Ctrl-C":
            first.send(signal.SIGINT)
            took, status = await first.gone()
            assert (status, took < 5) == (0, True)
        else:
            if "all" in how:
                os.kill(first.pid, signal.SIGSTOP)  # so that neither acts on the end of the other
                os.kill(worker, signal.SIGKILL)
            os.kill(first.pid, signal.SIGKILL)
            await wait_until(lambda: not alive(worker), description="the worker has ended", timeout=6)
    async with served("dev", "--assistants", "mine:assistants", folder=tmp_path) as again:
        await again.up()

        async def marked() -> bool:
            return not (await run_of(tmp_path, run)).open

        await wait_until(marked, description="the run is marked", timeout=10)
        row = await run_of(tmp_path, run)
        assert row.status is (RunStatus.error if "all" in how else RunStatus.interrupted)
        assert not row.holds_thread
        async with get_client(url=again.url) as client:
            match = await client.runs.get(row.thread_id, run)
            assert match["status"] == row.status.value
            assert (await client.threads.get(row.thread_id))["values"] == {"version": 1}
    assert (tmp_path / "done.txt").read_text().split() == [run], "the work is done once"


async def test_valid_edit_is_served_and_broken_edit_is_not(tmp_path: Path) -> None:
    write(tmp_path, 1)
    async with (
        AsyncExitStack() as stack,
        served("dev", "--assistants", "mine:assistants", folder=tmp_path) as server,
    ):
        client: Any = await stack.enter_async_context(get_client(url=await server.up()))

        async def version() -> int:
            return (await client.runs.wait(None, "quick"))["version"]

        assert await version() == 1
        run = await begun(tmp_path, server.url)
        await edited(server, tmp_path, 2, logs=r"mine\.py changed")
        await server.wait_for_line("restart done")
        assert await version() == 2
        assert (await run_of(tmp_path, run)).status is RunStatus.interrupted

        (tmp_path / "mine.py").write_text("assistants = {")
        await server.wait_for_line(
            "rolling restart aborted, the remaining workers keep the old code: .*SyntaxError.*mine.py, line 1"
        )
        assert await version() == 2

        await edited(server, tmp_path, 3, logs="restart done", times=2)
        assert await version() == 3
        assert "Traceback" not in server.output


async def edited(server: Served, folder: Path, version: int, *, logs: str, times: int = 1) -> None:
    """Repeats the edit until it is detected: the watch starts some time after the server."""
    while True:
        write(folder, version)
        with suppress(AssertionError):
            await server.wait_for_line(logs, times=times, within=8)
            return


@pytest.mark.usefixtures("untraced")  # tracing takes memory of its own
async def test_dev_server_has_one_worker_and_few_processes(tmp_path: Path) -> None:
    """Measures all processes after the first run, with file watching enabled."""
    write(tmp_path, 1)
    async with served("dev", "--assistants", "mine:assistants", folder=tmp_path) as server:
        url = await server.up()
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            assert (await client.post("/runs/wait", json={"assistant_id": "quick"})).json() == {"version": 1}
        pids = [server.pid, *children_of(server.pid)]
        assert len(pids) == 3, "the supervisor, one worker and Redis"
        sizes = {pid: memory_of(pid, "Rss") / MB for pid in pids}
        assert sum(sizes.values()) <= 112, sizes


async def test_files_are_watched_only_with_assistants_to_reload(tmp_path: Path) -> None:
    async with served("dev", folder=tmp_path) as server:
        await server.up()
        await server.wait_for_line(r"reload +off")
        async with httpx.AsyncClient(base_url=server.url) as client:
            answer = await client.post("/runs/wait", json={"assistant_id": "agent"}, timeout=30)
        assert answer.json()["done"] == 1


async def test_dev_server_has_the_openapi_document_of_every_gateway(tmp_path: Path) -> None:
    """The document includes routes that are built lazily."""
    write(tmp_path, 1)
    async with served("dev", "--assistants", "mine:assistants", folder=tmp_path) as server:
        async with httpx.AsyncClient(base_url=await server.up(), timeout=30) as client:
            described = (await client.get("/openapi.json")).json()
        assert described == create_gateway(RunManager()).openapi()
        assert "Warning" not in server.output


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}


async def preflight(url: str, origin: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url) as client:
        return await client.options("/threads", headers={"origin": origin, **PREFLIGHT})


async def test_pages_of_localhost_may_call_and_other_origins_are_logged(tmp_path: Path) -> None:
    async with served("dev", folder=tmp_path) as server:
        url = await server.up()
        await server.wait_for_line(r"pages +http://localhost:\*, http://127\.0\.0\.1:\* may call")
        for origin in ("http://localhost:5173", "http://127.0.0.1:3000"):
            answer = await preflight(url, origin)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
        assert (await preflight(url, "https://evil.example")).status_code == 403
        await server.wait_for_line("refused .*'https://evil.example'.*--cors-origin https://evil.example")


@pytest.mark.parametrize("command", ["dev", "serve"])
async def test_cors_origin_option_replaces_the_default_origins(command: str, tmp_path: Path) -> None:
    mine, other = "https://app.example.com", "http://localhost:5173"
    async with served(command, "--cors-origin", mine, folder=tmp_path) as server:
        url = await server.up()
        assert (await preflight(url, mine)).status_code == 200
        assert (await preflight(url, other)).status_code == 403


async def test_cors_origins_variable_replaces_the_default_origins(tmp_path: Path) -> None:
    async with served("dev", folder=tmp_path, COORDINATOR_CORS_ORIGINS="https://app.example.com") as server:
        assert (await preflight(await server.up(), "http://localhost:5173")).status_code == 403


TYPED = """
import time
from pydantic import BaseModel
from coordinator import assistant

class Question(BaseModel):
    text: str
    words: int = 3

@assistant(name="agent", input=Question)
async def mine(ctx):
    return {"answer": ctx.input.text}

@assistant
async def blocks(ctx):
    time.sleep(3)  # the stall is what is tested

assistants = [mine, blocks]
"""


async def test_example_of_the_banner_is_valid_for_a_user_assistant(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TYPED)
    async with served("dev", "--assistants", "mine:assistants", folder=tmp_path) as server:
        await server.up()
        body = (await server.wait_for_line(r"-d '(\{.*\})'")).group(1)
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            answer = await client.post(
                "/runs/wait", content=body, headers={"content-type": "application/json"}
            )
        assert answer.json() == {"answer": "hello"}


async def test_log_names_the_line_that_blocks_the_event_loop(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TYPED)
    async with served("dev", "--assistants", "mine:assistants", folder=tmp_path) as server:
        async with httpx.AsyncClient(base_url=await server.up(), timeout=30) as client:
            await client.post("/runs/wait", json={"assistant_id": "blocks"})
        await server.wait_for_line(r"The event loop has been blocked for .*mine\.py:\d+ in blocks")


async def test_unknown_variable_is_logged_without_its_value(tmp_path: Path) -> None:
    async with served("dev", folder=tmp_path, COORDINATOR_LEASE_TLL="secret") as server:
        await server.up()
        await server.wait_for_line(
            "COORDINATOR_LEASE_TLL is not a setting and has no effect: did you mean COORDINATOR_LEASE_TTL"
        )
        assert "secret" not in server.output


async def test_help_shows_defaults_of_dev_and_log_counts_workers(tmp_path: Path) -> None:
    async with served("dev", "--help", folder=tmp_path, COLUMNS="200") as help_command:
        await help_command.gone()
        assert "Default: 0" in help_command.output
        assert "Default: 30" not in help_command.output
    async with served("dev", folder=tmp_path) as server:
        await server.up()
        server.send(signal.SIGTERM)
        await server.wait_for_line("stopping 1 worker: their runs have 0 s of grace")
