"""A gateway that is mounted in another app under a prefix: lifespan, paths, callers, OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from coordinator import InvalidArgument, RunContext, RunManager, Settings, User
from coordinator.errors import Draining
from coordinator.gateway import BoundedProtocol, Gateway, GatewaySettings, create_gateway
from coordinator.gateway.caller import Caller, Role
from tests.support.gateways import clients, demo, listening
from tests.support.raw import connected, served_by

Host = Callable[[Gateway], Any]


def in_starlette(gateway: Gateway) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with gateway.running():
            yield

    return Starlette(routes=[Mount("/agents", gateway)], lifespan=lifespan)


def in_fastapi(gateway: Gateway) -> FastAPI:
    """Mounts the gateway under two prefixes, in an app with a route of its own."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with gateway.running():
            yield

    inner, host = FastAPI(), FastAPI(lifespan=lifespan)
    inner.mount("/agents", gateway)
    host.mount("/v1", inner)
    return host


HOSTS = pytest.mark.parametrize(
    ("host", "prefix"), [(in_starlette, "/agents"), (in_fastapi, "/v1/agents")], ids=["starlette", "fastapi"]
)


async def echo(ctx: RunContext) -> dict[str, Any]:
    return {"echo": ctx.run.kwargs["input"]}


@asynccontextmanager
async def embedded(
    host: Host, prefix: str, manager: RunManager, **more: Any
) -> AsyncGenerator[tuple[Any, Any]]:
    """Returns an SDK client and an HTTP client of the served app."""
    gateway = create_gateway(
        manager, {"echo": echo}, settings=GatewaySettings(heartbeat=0.2, demo_assistant=True), **more
    )
    app = host(gateway)
    async with (
        app.router.lifespan_context(app),
        listening(app, gateway) as url,
        clients(url + prefix) as (sdk, raw),
    ):
        yield sdk, raw


@HOSTS
async def test_sdk_works_under_a_prefix(host: Host, prefix: str, no_task_left: None) -> None:
    manager = RunManager(settings=Settings(grace=0))
    async with embedded(host, prefix, manager) as (sdk, _):
        thread = (await sdk.threads.create())["thread_id"]
        assert await sdk.runs.wait(thread, "echo", input={"a": 1}) == {"echo": {"a": 1}}
        events = [part.event async for part in sdk.runs.stream(thread, "agent", input=demo(steps=2))]
        assert events[:3] == ["metadata", "values", "values"]
        run = await sdk.runs.create(thread, "agent", input=demo(sleep=30))
        await sdk.runs.cancel(thread, run["run_id"], wait=True)
        assert (await sdk.runs.get(thread, run["run_id"]))["status"] == "interrupted"
    with pytest.raises(Draining):  # the lifespan of the host has closed the manager
        await manager.create_or_reject("t")


@HOSTS
async def test_location_header_works_under_a_prefix(host: Host, prefix: str) -> None:
    """Clients append the header to their base URL."""
    async with embedded(host, prefix, RunManager(settings=Settings(grace=0))) as (sdk, raw):
        thread = (await sdk.threads.create())["thread_id"]
        body = {"assistant_id": "agent", "input": demo(steps=3, sleep=0.05), "stream_resumable": True}
        async with raw.stream("POST", f"/threads/{thread}/runs/stream", json=body) as broken:
            goes_on = broken.headers["location"]
            run = broken.headers["content-location"]
        assert (await raw.get(run)).json()["status"] in {"pending", "running"}
        again = await raw.get(goes_on, headers={"last-event-id": "-1"})
        assert again.status_code == 200
        assert again.text.count("event: values") == 3


@HOSTS
async def test_openapi_document_is_correct_under_a_prefix(host: Host, prefix: str) -> None:
    async with embedded(host, prefix, RunManager()) as (_, raw):
        described = (await raw.get("/openapi.json")).json()
        assert described["servers"] == [{"url": prefix}]
        assert "/threads/{thread_id}/runs" in described["paths"]
        linked = re.findall(r'(?:href|src)="(docs/[^"]+)"', (await raw.get("/docs")).text)
        assert {(await raw.get(f"/{link}")).status_code for link in linked} == {200}
        assert (await raw.get("/ok")).json() == {"ok": True}
        assert (await raw.get("/nowhere")).status_code == 404


async def test_host_app_authenticates_callers() -> None:
    """The caller comes from the request: the app's middleware, a session, a header of a proxy."""

    async def authenticate(request: Request) -> Caller | None:
        name = request.headers.get("x-user")
        return None if name is None else Caller(name, Role.user)

    async with embedded(in_starlette, "/agents", RunManager(), authenticate=authenticate) as (_, raw):
        assert (await raw.get("/ok")).status_code == 200
        assert (await raw.post("/threads", json={})).status_code == 401
        mine = await raw.post("/threads", json={}, headers={"x-user": "ann"})
        path = f"/threads/{mine.json()['thread_id']}"
        assert (await raw.get(path, headers={"x-user": "ann"})).status_code == 200
        assert (await raw.get(path, headers={"x-user": "bob"})).status_code == 404


async def test_assistant_gets_the_permissions_that_the_host_app_found() -> None:
    async def authenticate(request: Request) -> Caller | None:
        name = request.headers.get("x-user")
        rights: dict[str, Any] = {"permissions": ("runs:write",), "attributes": {"team": "a"}}
        return None if name is None else Caller(name, Role.user, **rights)

    async def shows_user(ctx: RunContext) -> dict[str, Any]:
        assert ctx.user is not None
        return {"id": ctx.user.user_id, "may": list(ctx.user.permissions), **ctx.user.attributes}

    manager = RunManager(assistants={"agent": shows_user})
    async with embedded(in_starlette, "/agents", manager, authenticate=authenticate) as (_, raw):
        body = {"assistant_id": "agent"}
        answer = await raw.post("/runs/wait", json=body, headers={"x-user": "ann"})
        assert answer.json() == {"id": "ann", "may": ["runs:write"], "team": "a"}
    async with RunManager(assistants={"agent": shows_user}) as manager:
        run = await manager.create_or_reject("t", "agent", user_id="ann")
        with pytest.raises(InvalidArgument, match="user of the run"):
            manager.launch(run, user=User("bob"))
        manager.launch(run)
        assert await manager.wait(run.run_id) == {"id": "ann", "may": []}


async def test_trailers_do_not_authenticate() -> None:
    """Served by uvicorn with the exported protocol. A proxy strips this header only from the head."""

    async def authenticate(request: Request) -> Caller | None:
        name = request.headers.get("x-authenticated-user")
        return None if name is None else Caller(name, Role.user)

    gateway = create_gateway(RunManager(), authenticate=authenticate)
    chunked = b"Transfer-Encoding: chunked\r\nConnection: close\r\n"
    head = b"POST /threads HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + chunked
    name = b"X-Authenticated-User: ann\r\n"
    async with gateway.running(), served_by(gateway, BoundedProtocol) as port:
        for request, status in (
            (head + b"\r\n2\r\n{}\r\n0\r\n" + name + b"\r\n", b" 401 "),
            (head + name + b"\r\n2\r\n{}\r\n0\r\n\r\n", b" 200 "),
        ):
            async with connected(port) as raw:
                await raw.send(request)
                assert status in (await raw.closed()).partition(b"\r\n")[0]
