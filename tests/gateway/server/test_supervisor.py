"""`coordinator serve` with real processes: workers share a port, die, are restarted, replaced and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.postgres import Database
from tests.support.served import Served, alive, connections_of, served
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into /proc; elsewhere workers share a socket"
)


@pytest.fixture
async def three(tmp_path: Path) -> AsyncGenerator[Served]:
    async with served("serve", "--workers", "3", "--grace", "1", folder=tmp_path) as one:
        await one.up()
        yield one


async def answers(server: Served) -> bool:
    async with httpx.AsyncClient(base_url=server.url, timeout=10) as client:
        return (await client.get("/ok")).json()["ok"] is True


@linux
async def test_connections_are_distributed_and_a_killed_worker_is_restarted(three: Served) -> None:
    """With 90 connections over three sockets, the probability of fewer than 12 at one is 1 in 10,000."""
    opened = [await asyncio.open_connection("127.0.0.1", three.port) for _ in range(90)]
    try:
        await wait_until(
            lambda: connections_of([*three.workers.values()], three.port).total() == 90,
            description="all connections are accepted",
        )
        assert min(connections_of([*three.workers.values()], three.port).values()) >= 12
    finally:
        for _, writer in opened:
            writer.close()

    before = dict(three.workers)
    os.kill(before[2], signal.SIGKILL)
    await three.wait_for_line(rf"worker 2 \(pid {before[2]}\) was ended by SIGKILL; restarted")
    # Connections to the dead worker's socket wait for its successor: none is refused.
    assert all(await asyncio.gather(*(answers(three) for _ in range(12))))
    await three.wait_for_line(r"worker 2 \(pid \d+\) listens", times=2)
    assert alive(three.workers[2])
    assert three.workers[2] != before[2]
    assert {slot: three.workers[slot] for slot in (1, 3)} == {slot: before[slot] for slot in (1, 3)}


async def test_rolling_restart_replaces_all_workers_and_refuses_no_request(three: Served) -> None:
    before, done = dict(three.workers), asyncio.Event()

    async def wait_for_run() -> int:
        """Sends requests in a loop, each on a new connection."""
        count = 0
        while not done.is_set():
            assert await answers(three)
            count += 1
        return count

    requests = [asyncio.create_task(wait_for_run()) for _ in range(2)]
    three.send(signal.SIGHUP)
    await three.wait_for_line("rolling restart done")
    done.set()
    assert min(await asyncio.gather(*requests)) > 0
    assert set(three.workers) == {1, 2, 3}
    assert not set(three.workers.values()) & set(before.values())
    assert not [pid for pid in before.values() if alive(pid)]
    order = [line for line in three.lines if "listens" in line or ": stopped" in line][3:]
    assert ["listens" in line for line in order] == [True, False] * 3, (
        "each worker stops when its successor listens"
    )


async def test_sigterm_stops_all_workers_with_exit_status_0(three: Served) -> None:
    workers = [*three.workers.values()]
    three.send(signal.SIGTERM)
    took, status = await three.gone()
    assert status == 0
    assert took < 1 + 5
    assert not [pid for pid in workers if alive(pid)]


async def test_end_of_a_worker_after_a_requested_drain_is_logged_as_info(tmp_path: Path) -> None:
    async with served("serve", "--grace", "1", folder=tmp_path) as one:
        await one.up()
        before = one.workers[1]
        os.kill(before, signal.SIGTERM)
        await wait_until(lambda: one.workers[1] != before, description="its successor listens", timeout=40)
        (line,) = [line for line in one.lines if "; restarted" in line]
        assert " INFO " in line
        assert f"worker 1 (pid {before}) has drained and ended" in line


async def test_workers_end_with_their_supervisor(three: Served) -> None:
    """The embedded Redis ends as well: no process holds the port or the store."""
    workers = [*three.workers.values()]
    three.send(signal.SIGKILL)
    await wait_until(
        lambda: not any(alive(pid) for pid in workers), description="all workers are gone", timeout=1 + 5
    )
    with socket.socket() as port:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("127.0.0.1", three.port))


async def test_worker_that_cannot_start_is_restarted_with_backoff(tmp_path: Path) -> None:
    """The code of the assistants breaks while the worker serves; once it is repaired, the next start
    succeeds."""
    (tmp_path / "mine.py").write_text("from pathlib import Path\nasync def agent(ctx): ...\n")
    async with served("serve", "--assistants", "mine:agent", folder=tmp_path) as one:
        await one.up()
        (tmp_path / "mine.py").write_text("import nothing_like_it\n")
        os.kill(one.workers[1], signal.SIGKILL)
        await one.wait_for_line(
            r"worker 1 could not be started: importing .mine. raised ModuleNotFoundError.*in 1 s"
        )
        await one.wait_for_line(r"could not be started.*in 2 s")
        with pytest.raises(httpx.ConnectError):  # refused at once, without a timeout
            await answers(one)
        (tmp_path / "mine.py").write_text("async def agent(ctx): ...\n")
        await one.wait_for_line(r"worker 1 \(pid \d+\) listens", times=2)
        assert await answers(one)


async def test_server_ends_if_one_of_its_workers_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\nPath('imported').mkdir()\nasync def agent(ctx): ...\n"
    )
    async with served("serve", "--workers", "2", "--assistants", "mine:agent", folder=tmp_path) as one:
        _, status = await one.gone()
    assert status == 2
    assert "importing 'mine' raised FileExistsError" in one.lines[-1]
    assert "Traceback" not in one.output


async def test_rolling_restart_with_broken_code_keeps_the_old_workers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("async def agent(ctx): ...\n")
    async with served("serve", "--assistants", "mine:agent", folder=tmp_path) as one:
        await one.up()
        before = one.workers[1]
        (tmp_path / "mine.py").write_text("1 +")
        one.send(signal.SIGHUP)
        await one.wait_for_line("rolling restart aborted, the remaining workers keep the old code: .*mine")
        assert one.workers[1] == before
        assert await answers(one)
        assert "Traceback" not in one.output


async def test_port_in_use_prints_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with served("serve", folder=tmp_path, port=port) as one:
            _, status = await one.gone()
    assert status == 2
    (line,) = one.lines
    assert line == (
        f"coordinator: cannot listen on 127.0.0.1 port {port}: Address already in use."
        " Stop what listens there, or name another port: --port 0 takes any that is free"
    )


async def test_second_server_on_the_same_port_is_refused(tmp_path: Path) -> None:
    async with served("serve", folder=tmp_path) as first:
        await first.up()
        async with served("serve", folder=tmp_path, port=first.port) as second:
            _, status = await second.gone()
        assert status == 2
        assert "Address already in use" in second.output


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (("--host", "0.0.0.0"), "without API keys", 2),
        (("--assistants", "mine:agents"), "module 'mine' does not exist", 2),
        (("--redis", "http://x"), "not a usable Redis URL", 2),
        (("--store", "memory://", "--workers", "2"), "only within one process", 2),
        (("--lease-ttl", "2"), "lease_ttl", 2),
        (("--store", "sqlite:////nowhere/at/all.db"), "does not exist", 3),
    ],
)
async def test_invalid_option_prints_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str, status: int
) -> None:
    async with served("serve", *arguments, folder=tmp_path) as one:
        _, ended = await one.gone()
    assert ended == status
    (line,) = one.lines
    assert line.startswith("coordinator: ")
    assert message in line


async def test_an_empty_redis_url_is_none(tmp_path: Path) -> None:
    async with served("serve", "--redis", "", folder=tmp_path) as server:
        await server.up()
        match = await server.wait_for_line(r"^  redis +(.+)$")
    assert match.group(1).startswith("none: ")


@pytest.mark.parametrize(
    ("notify", "transport"), [("true", "NOTIFY of PostgreSQL"), ("false", "every 0.5 s")], ids=["on", "off"]
)
async def test_banner_names_the_transport_of_cancels_on_postgresql(
    tmp_path: Path, shared_postgres: Database, notify: str, transport: str
) -> None:
    async with (
        shared_postgres.worker() as (url, schema),
        served(
            "serve",
            *("--store", url),
            folder=tmp_path,
            COORDINATOR_POSTGRES_SCHEMA=schema,
            COORDINATOR_POSTGRES_NOTIFY=notify,
        ) as server,
    ):
        await server.up()
        match = await server.wait_for_line(r"^  redis +none: (.+)$")
    assert transport in match.group(1)


@pytest.mark.parametrize(
    ("arguments", "variables", "where"),
    [
        ((), {"COORDINATOR_TICK": "soon"}, "It comes from COORDINATOR_TICK"),
        (("--lease-ttl", "-3"), {}, "It comes from --lease-ttl, or from COORDINATOR_LEASE_TTL"),
        ((), {"COORDINATOR_LEASE_TTL": "-3"}, "It comes from --lease-ttl, or from COORDINATOR_LEASE_TTL"),
        ((), {"COORDINATOR_TICK": ""}, "Set it, or unset it: the default is 1.0"),
        ((), {"COORDINATOR_API_KEYS": ""}, "Set it, or unset it: the default is none"),
        ((), {"COORDINATOR_WEBHOOK_PORTS": "https"}, "It comes from COORDINATOR_WEBHOOK_PORTS"),
        (("--cors-origin", "nowhere"), {}, "It comes from --cors-origin, or from COORDINATOR_CORS_ORIGINS"),
    ],
    ids=[
        "a variable alone",
        "an option",
        "the variable of an option",
        "an empty variable",
        "an empty variable of a path",
        "a variable of a list",
        "an option of another name",
    ],
)
async def test_invalid_value_names_its_option_and_variable(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, Any], where: str
) -> None:
    async with served("serve", *arguments, folder=tmp_path, **variables) as one:
        _, ended = await one.gone()
    (line,) = one.lines
    assert ended == 2
    assert line.endswith(f". {where}")


async def test_violated_rule_names_option_and_variable_of_each_setting(tmp_path: Path) -> None:
    async with served("serve", "--lease-ttl", "3", folder=tmp_path) as one:
        _, ended = await one.gone()
    (line,) = one.lines
    assert ended == 2
    assert "lease_ttl - lease_margin must be greater than renew" in line
    assert line.endswith(
        ": --lease-ttl or COORDINATOR_LEASE_TTL, COORDINATOR_LEASE_MARGIN, COORDINATOR_RENEW"
    )
    assert "Value error" not in line
