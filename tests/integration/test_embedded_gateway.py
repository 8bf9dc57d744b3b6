"""examples/embedded_gateway: a gateway with a registry of its own. Its tests are the same before and after
the registry was replaced, and afterwards two workers serve the same runs."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from examples.embedded_gateway.after import registry as after
from examples.embedded_gateway.before import registry as before
from examples.embedded_gateway.gateway.table import RunTable
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

EXAMPLE = Path(before.__file__).parents[1]
ENDLESS: dict[str, Any] = {"tokens": 100_000, "pause": 0.01}


@asynccontextmanager
async def clients(*apps: FastAPI) -> AsyncGenerator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        made: list[httpx.AsyncClient] = []
        for app in apps:
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app)
            client = httpx.AsyncClient(transport=transport, base_url="http://gateway")
            made.append(await stack.enter_async_context(client))
        yield made


@pytest.fixture
def table(tmp_path: Path) -> RunTable:
    return RunTable(tmp_path / "own.db")


def coordinated(table: RunTable, folder: Path) -> FastAPI:
    return after.create(table, store=f"sqlite:///{folder / 'runs.db'}", **QUICK)


@pytest.fixture(params=["before", "after"])
async def client(
    request: pytest.FixtureRequest, table: RunTable, tmp_path: Path
) -> AsyncGenerator[httpx.AsyncClient]:
    app = before.create(table) if request.param == "before" else coordinated(table, tmp_path)
    async with clients(app) as (made,):
        yield made


async def create(
    client: httpx.AsyncClient, thread: str = "t", strategy: str = "reject", **request: Any
) -> Any:
    answer = await client.post(f"/threads/{thread}/runs", json={"request": request, "strategy": strategy})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def got(client: httpx.AsyncClient, run: Any) -> Any:
    return (await client.get(f"/runs/{run['run_id']}")).json()


async def cancelled(client: httpx.AsyncClient, run: Any, action: str = "interrupt") -> httpx.Response:
    return await client.post(f"/runs/{run['run_id']}/cancel", json={"action": action})


async def streamed(client: httpx.AsyncClient, run: Any) -> list[str]:
    text = (await client.get(f"/runs/{run['run_id']}/stream")).text
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


async def is_running(client: httpx.AsyncClient, run: Any) -> None:
    async def seen() -> bool:
        return (await got(client, run))["status"] == "running"

    await wait_until(seen, description="the run is running")


# -- the tests of the gateway


async def test_run_is_created_streamed_and_listed(client: httpx.AsyncClient) -> None:
    run = await create(client)
    assert await streamed(client, run) == ["token", "token", "token", "end"]
    assert await streamed(client, run) == ["token", "token", "token", "end"]  # also afterwards
    ended = await got(client, run)
    assert (ended["status"], ended["stop_reason"], ended["error"]) == ("success", "end_turn", None)
    second = await create(client)
    assert [each["run_id"] for each in (await client.get("/threads/t/runs")).json()] == [
        second["run_id"],
        run["run_id"],
    ]
    await streamed(client, second)


async def test_failure_of_the_agent_is_the_error_of_its_run(client: httpx.AsyncClient) -> None:
    run = await create(client, fails=True)
    assert await streamed(client, run) == ["end"]
    ended = await got(client, run)
    assert (ended["status"], ended["error"]) == ("error", "ValueError: the model is away")


async def test_second_run_of_a_thread_is_refused_or_takes_its_place(client: httpx.AsyncClient) -> None:
    first = await create(client, **ENDLESS)
    refused = await client.post("/threads/t/runs", json={})
    assert refused.status_code == 409
    await is_running(client, first)
    second = await create(client, strategy="interrupt")
    assert (await streamed(client, first))[-1] == "end"
    assert (await got(client, first))["status"] == "interrupted"
    assert (await streamed(client, second))[-1] == "end"
    assert (await got(client, second))["status"] == "success"


async def test_cancelled_run_is_interrupted_and_its_stream_ends(client: httpx.AsyncClient) -> None:
    run = await create(client, **ENDLESS)
    await is_running(client, run)
    assert (await cancelled(client, run)).json()["status"] == "interrupted"
    assert (await streamed(client, run))[-1] == "end"
    assert (await cancelled(client, run)).status_code == 200
    done = await create(client)
    await streamed(client, done)
    assert (await cancelled(client, done)).status_code == 409


async def test_rolled_back_run_is_shown_as_an_error(client: httpx.AsyncClient) -> None:
    run = await create(client, **ENDLESS)
    await is_running(client, run)
    await cancelled(client, run, "rollback")
    await streamed(client, run)
    ended = await got(client, run)
    assert (ended["status"], ended["error"]) == ("error", "Rolled back by user")


async def test_queued_run_is_cancelled_before_it_starts_and_its_stream_ends(
    client: httpx.AsyncClient,
) -> None:
    first = await create(client, **ENDLESS)
    await is_running(client, first)
    queued = await create(client, strategy="enqueue")
    await cancelled(client, queued)
    assert await streamed(client, queued) == ["end"]
    assert (await got(client, queued))["status"] == "interrupted"
    assert (await got(client, first))["status"] == "running"
    await cancelled(client, first)


async def test_own_table_has_every_run(client: httpx.AsyncClient) -> None:
    await streamed(client, await create(client))
    await streamed(client, await create(client, fails=True))

    async def reported() -> bool:
        return (await client.get("/report")).json() == {"success": 1, "error": 1}

    await wait_until(reported, description="the table has both ends")


async def test_unknown_run_is_not_found(client: httpx.AsyncClient) -> None:
    assert (await client.get("/runs/unknown")).status_code == 404


# -- two workers, afterwards


async def test_other_worker_streams_cancels_and_lists(table: RunTable, tmp_path: Path) -> None:
    async with clients(coordinated(table, tmp_path), coordinated(table, tmp_path)) as (a, b):
        run = await create(a, **ENDLESS)
        await is_running(b, run)
        refused = await b.post("/threads/t/runs", json={})
        assert refused.status_code == 409
        stream = asyncio.get_running_loop().create_task(streamed(b, run))
        assert (await cancelled(b, run)).json()["status"] == "interrupted"
        async with asyncio.timeout(10):
            events = await stream
        assert (events[0], events[-1]) == ("token", "end")
        assert [each["status"] for each in (await a.get("/threads/t/runs")).json()] == ["interrupted"]
        following = await create(b, strategy="interrupt")
        assert (await streamed(a, following))[-1] == "end"

        async def reported() -> bool:
            return (await a.get("/report")).json() == {"success": 1, "interrupted": 1}

        await wait_until(reported, description="the table has the runs of both workers")


def lines_of_code(file: Path) -> int:
    """Without blank lines, comments and docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lines: set[int] = set()
    for node in ast.walk(tree):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, (ast.stmt, ast.expr, ast.arg, ast.ExceptHandler)) and not docstring:
            lines.update(
                (node.lineno,)
                if hasattr(node, "body")
                else range(node.lineno, (node.end_lineno or node.lineno) + 1)
            )
    return len(lines)


def test_glue_has_at_most_60_lines() -> None:
    assert lines_of_code(EXAMPLE / "after" / "registry.py") <= 60
