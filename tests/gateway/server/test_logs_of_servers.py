"""The logs of a server: sentences with one name for each worker, or JSON with separate fields."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.served import Served, served

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

AGENTS = """
import asyncio

async def fails(ctx):
    raise ValueError("the model raised boom")

async def unstorable(ctx):
    await ctx.save({"model": object()})

async def sleeps(ctx):
    await asyncio.Event().wait()

assistants = {"fails": fails, "unstorable": unstorable, "sleeps": sleeps}
"""
ARGUMENTS = ("--assistants", "mine:assistants", "--grace", "0")


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(AGENTS)


def documents(server: Served) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.lines if line.startswith("{")]


async def begin(server: Served, assistant: str) -> str:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        answer = await client.post("/runs", json={"assistant_id": assistant})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["run_id"])


async def test_a_dead_worker_has_one_name_in_log_store_and_list(tmp_path: Path) -> None:
    arguments = (*ARGUMENTS, "--workers", "2", "--store", "sqlite:///runs.db")
    async with served("serve", *arguments, folder=tmp_path, COORDINATOR_SWEEP="0.3") as server:
        url = await server.up()
        async with httpx.AsyncClient(base_url=url) as client:
            workers = (await client.get("/coordinator/workers")).json()
        assert {row["slot"]: row["pid"] for row in workers} == server.workers
        os.kill(pid := server.workers[2], signal.SIGKILL)
        epoch = server.epochs[2]
        match = await server.wait_for_line(
            rf"worker 2 of \S+ \(epoch {epoch}, pid {pid}\) is dead and fenced: 0 of its runs were ended$"
        )
        assert re.match(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d WARNING worker \d \(epoch \d+\): ",
            match.string,
        )
        assert "PeerBuried" not in server.output


async def test_routine_events_are_not_logged_as_warnings(tmp_path: Path) -> None:
    async with served("serve", *ARGUMENTS, folder=tmp_path) as server:
        await server.up()
        await server.wait_for_line("INFO .* hints from other workers arrive")
        assert "WARNING" not in server.output


async def test_json_lines_have_the_fields_of_events_and_the_run_of_a_failure(tmp_path: Path) -> None:
    arguments = (*ARGUMENTS, "--workers", "2", "--store", "sqlite:///runs.db", "--log-format", "json")
    async with served("serve", *arguments, folder=tmp_path, COORDINATOR_SWEEP="0.3") as server:
        server.url = (await server.wait_for_line(r'"url": "(http://[^"]+)"')).group(1)
        failed = await begin(server, "fails")
        await server.wait_for_line(rf'run .{failed}. failed.*"run_id": "{failed}"')
        run = await begin(server, "sleeps")
        async with httpx.AsyncClient(base_url=server.url) as client:
            timeline = (await client.get(f"/coordinator/runs/{run}/explain")).json()["timeline"]
        owner = timeline[0]["epoch"]
        slot = next(slot for slot, epoch in server.epochs.items() if epoch == owner)
        os.kill(server.workers[slot], signal.SIGKILL)
        await server.wait_for_line('"event": "RunRecovered"')
        records = {one.get("event"): one for one in documents(server)}
        assert records["PeerBuried"]["event_epoch"] == owner
        assert records["PeerBuried"]["ended"] == 1
        assert records["RunRecovered"]["run_id"] == run
        (failure,) = [one for one in documents(server) if one.get("run_id") == failed]
        assert "the model raised boom" in failure["exception"]
        assert failure["worker"] in ("worker 1", "worker 2")


async def test_dev_logs_start_end_and_error_of_runs(tmp_path: Path) -> None:
    async with served("dev", *ARGUMENTS, folder=tmp_path) as server:
        await server.up()
        run = await begin(server, "unstorable")
        await server.wait_for_line(rf"run '{run}' on thread .* of assistant 'unstorable' started")
        await server.wait_for_line(
            rf"run '{run}' on thread .* ended: error, .*which JSON cannot hold.*, after \S+ s"
        )
        await server.wait_for_line("in unstorable")


async def test_serve_logs_runs_only_with_the_setting(tmp_path: Path) -> None:
    async with served("serve", *ARGUMENTS, folder=tmp_path, COORDINATOR_LOG_RUNS="true") as server:
        await server.up()
        run = await begin(server, "fails")
        await server.wait_for_line(rf"run '{run}' on thread .* ended: error")
    async with served("serve", *ARGUMENTS, folder=tmp_path) as server:
        await server.up()
        run = await begin(server, "fails")
        await server.wait_for_line(rf"run '{run}' failed")
        assert "started" not in server.output


async def test_invalid_http_is_logged_at_a_bounded_rate_with_the_address(tmp_path: Path) -> None:
    """Any client can send invalid HTTP without limit."""
    upgrade = b"GET /ok HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with served("serve", *ARGUMENTS, "--workers", "1", folder=tmp_path) as server:
        await server.up()
        for sent in [b"no request\r\n\r\n"] * 20 + [upgrade] * 5:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            assert (await reader.read(100)).startswith(b"HTTP/1.1 ")
            writer.close()
        await server.wait_for_line(
            r"1 requests were not valid HTTP/1\.1 and were refused, the last one from 127\.0\.0\.1"
        )
    records = [line for line in server.lines if "refused" in line or "uvicorn" in line or "pgrade" in line]
    assert len(records) == 1, records
