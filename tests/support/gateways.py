"""Gateways for tests: served over real sockets by this process, and the clients that drive them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from langgraph_sdk import get_client

from coordinator import RunManager, Settings, open_coordinator
from coordinator.gateway import Gateway, GatewaySettings, create_gateway
from coordinator.notifier import Connectivity
from tests.support.gateway_agents import AGENTS
from tests.support.in_process import listening_server
from tests.support.teams import EVENT_BUDGET, QUICK
from tests.support.waiting import wait_until

Sdk = Any
"""`langgraph_sdk.client.LangGraphClient`, whose types are unknown in parts."""


@dataclass(frozen=True)
class Served:
    """A gateway that listens, the SDK's client of it, and plain HTTP for what that client hides."""

    url: str
    gateway: Gateway
    manager: RunManager
    sdk: Sdk
    raw: httpx.AsyncClient


@asynccontextmanager
async def listening(app: Any, gateway: Gateway | None = None) -> AsyncGenerator[str]:
    """Where `app` is served: a gateway, or a host in which one is. The lifespan is the caller's."""
    config = uvicorn.Config(
        app, lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    async with listening_server(config) as (_, port):
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            (gateway or app).abort_streams()


@asynccontextmanager
async def served(manager: RunManager, gateway: Gateway) -> AsyncGenerator[Served]:
    async with gateway.running(), listening(gateway) as url, clients(url) as (sdk, raw):
        yield Served(url, gateway, manager, sdk, raw)


@asynccontextmanager
async def clients(url: str) -> AsyncGenerator[tuple[Sdk, httpx.AsyncClient]]:
    sdk = get_client(url=url, api_key=None)
    async with httpx.AsyncClient(base_url=url, timeout=30) as raw:
        try:
            yield sdk, raw
        finally:
            await sdk.aclose()


def gateway_settings(given: dict[str, Any]) -> GatewaySettings:
    quick: dict[str, Any] = {"heartbeat": 0.2, "cron_poll": 0.1}
    return GatewaySettings(**{**quick, **given})


@asynccontextmanager
async def one_gateway(**gateway: Any) -> AsyncGenerator[Served]:
    """A worker by itself, in memory."""
    settings = Settings(store="memory://", **QUICK)
    async with open_coordinator(settings=settings, assistants=AGENTS) as manager:
        made = create_gateway(manager, settings=gateway_settings(gateway))
        async with served(manager, made) as one:
            yield one


@asynccontextmanager
async def gateways(
    size: int,
    folder: Path,
    redis: str | None,
    namespace: str,
    *,
    settings: dict[str, Any] | None = None,
    agents: Callable[[], dict[str, Any]] = lambda: AGENTS,
    **gateway: Any,
) -> AsyncGenerator[list[Served]]:
    """Yields gateways on one SQLite file and one Redis, whose workers are subscribed to their abort channels.
    Without Redis they share the file alone. `settings` may name another store. `agents` makes the assistants
    of each worker."""
    chosen: dict[str, Any] = {
        "store": f"sqlite:///{folder / 'runs.db'}",
        **QUICK,
        "event_budget": EVENT_BUDGET,
        **(settings or {}),
    }
    given = Settings(redis=redis, namespace=namespace, **chosen)
    async with AsyncExitStack() as stack:
        team: list[Served] = []
        for _ in range(size):
            manager = await stack.enter_async_context(open_coordinator(settings=given, assistants=agents()))
            await wait_until(
                lambda manager=manager: (
                    redis is None or manager.worker.connectivity is Connectivity.connected
                ),
                description="the worker is subscribed to its abort channel",
            )
            made = create_gateway(manager, settings=gateway_settings(gateway))
            team.append(await stack.enter_async_context(served(manager, made)))
        yield team


def demo(sleep: float = 0.0, steps: int = 1, fail: bool = False, tag: str = "run") -> dict[str, Any]:
    """Returns an input of the demo assistant."""
    return {"sleep": sleep, "steps": steps, "fail": fail, "tag": tag}


async def until_read(served: Served, run: str, data: Any) -> None:
    """A worker that shares nothing but the store with the run's own has an event a moment after it."""

    async def holds() -> bool:
        return data in [getattr(event, "data", None) for event in await served.manager.events(run)]

    await wait_until(holds, description=f"{data!r} can be read there")


async def status_of(sdk: Sdk, thread: str, run: str) -> str:
    return str((await sdk.runs.get(thread, run))["status"])


async def until_status(sdk: Sdk, thread: str, run: str, *wanted: str, timeout: float = 10) -> None:
    async def holds() -> bool:
        return await status_of(sdk, thread, run) in wanted

    await wait_until(holds, description=f"the run is {wanted}", timeout=timeout)


async def until_gone(raw: httpx.AsyncClient, path: str, timeout: float = 10) -> None:
    async def holds() -> bool:
        return (await raw.get(path)).status_code == 404

    await wait_until(holds, description=f"{path} is gone", timeout=timeout)


async def thread_status(sdk: Sdk, thread: str) -> str:
    return str((await sdk.threads.get(thread))["status"])


async def log_of(sdk: Sdk, thread: str) -> list[str]:
    values: Any = (await sdk.threads.get(thread))["values"] or {}
    return list(values.get("log") or [])


async def new_thread(sdk: Sdk) -> str:
    return str((await sdk.threads.create())["thread_id"])


async def create(served: Served, thread: str, assistant: str = "agent", **options: Any) -> str:
    """Creates a background run with the input `demo(**options)` and returns its id."""
    return str((await served.sdk.runs.create(thread, assistant, input=demo(**options)))["run_id"])


async def all_closed(served: Served) -> None:
    """Wait until no stream and no long answer is open."""
    await wait_until(lambda: served.gateway.state.services.watchers.open == 0, description="all are closed")


async def start_running(sdk: Sdk, thread: str, assistant: str = "agent", **options: Any) -> str:
    """Creates a background run as `create` does, and returns its id when it is running."""
    run = await sdk.runs.create(thread, assistant, input=demo() | options)
    await until_status(sdk, thread, run["run_id"], "running")
    return str(run["run_id"])
