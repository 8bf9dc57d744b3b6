"""`/metrics` of several workers: each of them exposes the sums over all workers, including killed ones."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.served import Served, alive, served
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

REQUESTS = 200
AT_ONCE = 10


async def admitted(url: str) -> float:
    """Returns the counter as the worker that accepts a new connection exposes it."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return sum(
        sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == "coordinator_runs_admitted_total"
    )


async def send_requests(url: str, times: int) -> None:
    async def some() -> None:
        for _ in range(times // AT_ONCE):
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                answer = await client.post("/runs/wait", json={"assistant_id": "agent"})
                assert answer.status_code == 200, answer.text

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def scraped(server: Served, total: int) -> None:
    """With 24 connections over four sockets, the probability that one socket gets none is 1 in 1,000."""
    seen = await asyncio.gather(*(admitted(server.url) for _ in range(24)))
    assert set(seen) == {total}


async def test_every_scrape_is_the_sum_of_all_workers_also_of_killed_ones(tmp_path: Path) -> None:
    async with served("serve", "--workers", "4", "--grace", "1", folder=tmp_path) as server:
        await server.up()
        done = 0
        for slot in (1, 2, 3, 4):
            await send_requests(server.url, REQUESTS // 4)
            done += REQUESTS // 4
            await scraped(server, done)
            os.kill(killed := server.workers[slot], signal.SIGKILL)
            # Until this line, connections to the socket of the killed worker may be refused.
            await server.wait_for_line(rf"worker {slot} \(pid {killed}\) .*; restarted")
            await scraped(server, done)
            await server.wait_for_line(rf"worker {slot} \(pid \d+\) listens", times=2)
            await scraped(server, done)
        await send_requests(server.url, 40)
        await scraped(server, done + 40)


async def test_empty_file_of_a_killed_worker_does_not_break_scrapes(tmp_path: Path) -> None:
    (folder := tmp_path / "tmp").mkdir()
    async with served("serve", "--workers", "2", folder=tmp_path, TMPDIR=str(folder)) as server:
        await server.up()
        (counts,) = counts_in(folder)
        (counts / "counter_999999.db").touch()
        (counts / "histogram_999999.db").touch()
        assert await admitted(server.url) == 0


def counts_in(folder: Path) -> set[Path]:
    """Returns the metrics folders that exist."""
    return {path for path in folder.iterdir() if path.name.startswith("coordinator-counts-")}


async def test_server_removes_only_folders_of_killed_servers(tmp_path: Path) -> None:
    (folder := tmp_path / "tmp").mkdir()
    arguments = ("serve", "--workers", "2", "--grace", "0", "--store", "sqlite:///runs.db")
    async with served(*arguments, folder=tmp_path, TMPDIR=str(folder)) as lives:
        await lives.up()
        of_living = counts_in(folder)
        async with served(*arguments, folder=tmp_path, TMPDIR=str(folder)) as killed:
            await killed.up()
            (left,) = counts_in(folder) - of_living
            workers = [*killed.workers.values()]
            killed.send(signal.SIGKILL)
            await wait_until(
                lambda: not any(map(alive, workers)), description="the workers have ended", timeout=6
            )
        assert left.exists()
        async with served(*arguments, folder=tmp_path, TMPDIR=str(folder)) as new:
            await new.up()
            assert not left.exists()
            assert len(counts_in(folder)) == 2
            assert await admitted(lives.url) == await admitted(new.url) == 0
            new.send(signal.SIGTERM)
            await new.gone()
        assert counts_in(folder) == of_living
