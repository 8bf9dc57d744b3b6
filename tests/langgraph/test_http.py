"""The key `http` of langgraph.json: the user's app beside the API, pages, headers, disabled routes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from langgraph_sdk import Auth
from starlette.responses import JSONResponse

from coordinator import InvalidArgument, RunContext
from coordinator.gateway import GatewaySettings, create_gateway
from coordinator.gateway.exposure import check_exposure
from coordinator.gateway.extending import extended
from coordinator.langgraph.auth import AuthHandlers
from coordinator.langgraph.extension import Cors, Extension, HeaderPatterns
from coordinator.manager import RunManager
from coordinator.webhooks.policy import WebhookPolicy
from tests.support.asgi import serving

AGENT: dict[str, Any] = {"assistant_id": "agent", "input": {}}


def app_of_user() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
        app.state.log = ["begun"]
        yield {"pool": "open"}
        app.state.log.append("ended")

    app = FastAPI(lifespan=lifespan)

    @app.get("/mine/{name}")
    async def mine(name: str, request: Request) -> Any:
        user = request.scope.get("user")
        return {
            "name": name,
            "log": request.app.state.log,
            "pool": request.state.pool,
            "user": None if user is None else user.identity,
        }

    @app.get("/threads/{thread_id}")
    async def thread(thread_id: str) -> Any:
        return {"replaced": thread_id}

    @app.get("/")
    async def root() -> Any:
        return {"replaced": "root"}

    @app.get("/ok")
    async def ok() -> Any:
        return {"replaced": "ok"}

    @app.get("/fail")
    async def fail() -> None:
        raise RuntimeError("secret")

    @app.middleware("http")
    async def mark(request: Request, call_next: Any) -> Any:
        if "x-stop" in request.headers:
            return JSONResponse({"stopped": True, "log": request.app.state.log}, status_code=418)
        response = await call_next(request)
        response.headers["x-mark"] = str("caller" in request.scope["state"])
        assert request.app.state.log == ["begun"]
        return response

    return app


def named() -> AuthHandlers:
    auth = Auth()

    @auth.authenticate
    async def authenticate(authorization: str | None) -> str:
        if authorization is None:
            raise Auth.exceptions.HTTPException(status_code=401)
        return authorization

    return AuthHandlers(auth, "auth.path", 5)


@asynccontextmanager
async def client_of(**extension: Any) -> AsyncGenerator[httpx.AsyncClient]:
    async with serving(extension=Extension(**extension)) as (_, client):
        yield client


async def test_app_is_served_beside_the_api() -> None:
    app = app_of_user()
    async with client_of(app=app) as client:
        mine = await client.get("/mine/x")
        assert mine.json() == {"name": "x", "log": ["begun"], "pool": "open", "user": None}
        assert (await client.get("/threads/t")).json() == {"replaced": "t"}
        assert (await client.get("/ok")).json() == {"ok": True}
        assert (await client.post("/runs/wait", json=AGENT)).json()["log"] == ["run:1"]
        assert (await client.get("/no")).status_code == 404
        assert "/threads" in (await client.get("/openapi.json")).json()["paths"]
        failed = await client.get("/fail")
        assert (failed.status_code, "secret" in failed.text) == (500, False)
    assert app.state.log == ["begun", "ended"]


@pytest.mark.parametrize(("after", "identified"), [(False, "False"), (True, "True")])
async def test_middleware_of_the_app_gets_the_requests_of_the_api(after: bool, identified: str) -> None:
    async with client_of(app=app_of_user(), handlers=named(), app_after_authentication=after) as client:
        ann = {"authorization": "ann"}
        assert (await client.post("/threads", json={}, headers=ann)).headers["x-mark"] == "True"
        stopped = await client.post("/threads", json={}, headers={**ann, "x-stop": "1"})
        assert (stopped.status_code, stopped.json()) == (418, {"stopped": True, "log": ["begun"]})
        unknown = await client.post("/threads", json={}, headers={"x-stop": "1"})
        assert unknown.status_code == (401 if after else 418)


@pytest.mark.parametrize("needed", [False, True])
async def test_routes_of_the_app_need_a_caller_if_so_configured(needed: bool) -> None:
    async with client_of(app=app_of_user(), handlers=named(), app_needs_caller=needed) as client:
        for path in ("/mine/x", "/threads/t"):
            assert (await client.get(path)).status_code == (401 if needed else 200)
        known = await client.get("/mine/x", headers={"authorization": "ann"})
        assert known.json()["user"] == ("ann" if needed else None)
        assert (await client.post("/threads", json={})).status_code == 401


def test_other_objects_are_no_apps() -> None:
    with pytest.raises(InvalidArgument, match=r"http\.app: is of type function, not a Starlette"):
        create_gateway(RunManager(), extension=Extension(app=app_of_user))


@pytest.mark.parametrize(
    ("kind", "absent", "present"),
    [
        ("threads", [("POST", "/threads"), ("GET", "/threads/x/state")], [("POST", "/runs/wait")]),
        (
            "runs",
            [("POST", "/runs/wait"), ("POST", "/threads/x/runs"), ("POST", "/runs/crons/search")],
            [("POST", "/threads")],
        ),
        ("assistants", [("POST", "/assistants/search")], [("POST", "/threads")]),
        (
            "meta",
            [("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/info"), ("GET", "/metrics")],
            [("GET", "/ok")],
        ),
    ],
    ids=["threads", "runs", "assistants", "meta"],
)
async def test_disabled_routes_are_absent(kind: str, absent: Any, present: Any) -> None:
    async with client_of(disabled=frozenset({kind})) as client:
        for method, path in absent:
            assert (await client.request(method, path, json=AGENT)).status_code == 404, path
        for method, path in present:
            assert (await client.request(method, path, json=AGENT)).status_code == 200, path


async def test_app_has_documentation_of_its_own_if_that_of_the_api_is_disabled() -> None:
    async with client_of(app=app_of_user(), disabled=frozenset({"meta"})) as client:
        assert "/mine/{name}" in (await client.get("/openapi.json")).json()["paths"]


async def test_api_below_a_prefix() -> None:
    async with client_of(mount_prefix="/api/v1", app=app_of_user()) as client:
        assert (await client.post("/api/v1/runs/wait", json=AGENT)).status_code == 200
        assert (await client.get("/api/v1/mine/x")).json()["name"] == "x"
        for path in ("/ok", "/metrics", "/coordinator/health/ready", "/api/v1/ok"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/openapi.json", "/mine/x", "/api/v1", "/api/v12/ok", "/api/v1/api/v1/ok"):
            refused = await client.get(path)
            assert refused.status_code == 404, path
            assert refused.json()["detail"].startswith(f"no route GET '{path}' exists"), path


# -- pages


async def test_pages_of_the_file_may_call() -> None:
    cors = Cors(
        origins=("https://app.example.com",),
        origin_regex=r"https://.*\.example\.org",
        exposed=("x-mine",),
        credentials=True,
        max_age=7,
    )
    async with serving(extension=Extension(cors=cors), cors_origins=("https://b.example.com",)) as (
        _,
        client,
    ):
        for origin, allowed in (
            ("https://app.example.com", True),
            ("https://b.example.com", True),
            ("https://x.example.org", True),
            ("https://x.example.org.evil.com", False),
            ("https://c.example.com", False),
        ):
            answer = await client.get("/ok", headers={"origin": origin})
            assert answer.status_code == (200 if allowed else 403), origin
            assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
        answer = await client.get("/ok", headers={"origin": "https://app.example.com"})
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert "x-mine" in answer.headers["access-control-expose-headers"]
        preflight = {"origin": "https://app.example.com", "access-control-request-method": "DELETE"}
        assert (await client.options("/threads", headers=preflight)).headers["access-control-max-age"] == "7"


def test_pages_of_all_origins_need_authentication() -> None:
    for cors in (Cors(origins=("*",)), Cors(origin_regex=".*")):
        extension = Extension(cors=cors)
        with pytest.raises(InvalidArgument, match="keys"):
            check_exposure(extended(GatewaySettings(), extension), extension)
        guarded = Extension(cors=cors, handlers=named())
        assert "auth.path" in check_exposure(extended(GatewaySettings(host="0.0.0.0"), guarded), guarded)


def test_origin_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"http\.cors.allow_origins: 'app' is not an origin"):
        extended(GatewaySettings(), Extension(cors=Cors(origins=("app",))))


def test_keys_and_functions_together_are_refused(tmp_path: Path) -> None:
    settings = GatewaySettings(api_keys=tmp_path / "keys.json")
    with pytest.raises(InvalidArgument, match=r"auth\.path: cannot be combined with API keys"):
        create_gateway(RunManager(), settings=settings, extension=Extension(handlers=named()))


# -- headers


async def _configurable(ctx: RunContext) -> Any:
    config: Any = ctx.request.config or {}
    return config.get("configurable", {})


async def test_runs_get_the_named_headers() -> None:
    patterns = HeaderPatterns(("x-*", "Cookie"), ("x-not-*",))
    manager = RunManager()
    manager.assistants.register(_configurable, name="shown")
    async with serving(manager=manager, extension=Extension(configurable=patterns)) as (_, client):
        headers = {"X-Team": "red", "x-not-me": "1", "x-api-key": "k", "authorization": "a", "cookie": "c=1"}
        body = {"assistant_id": "shown", "config": {"configurable": {"x-team": "blue", "mine": 1}}}
        for path in ("/runs/wait", "/runs/wait?x=1"):  # the direct way, and FastAPI
            shown = (await client.post(path, json=body, headers=headers)).json()
            assert shown == {"mine": 1, "x-team": "red", "cookie": "c=1"}


@pytest.mark.parametrize(
    ("includes", "excludes", "picked"),
    [
        ((), (), []),
        (("*",), (), ["user-agent", "x-a"]),
        (("*", "authorization"), (), ["authorization", "user-agent", "x-a"]),
        (("authorization",), ("auth*",), []),
        (("X-A",), (), ["x-a"]),
        (("x.a",), (), []),
    ],
)
def test_patterns_of_headers(includes: Any, excludes: Any, picked: list[str]) -> None:
    names = (b"authorization", b"cookie", b"x-api-key", b"User-Agent", b"x-a")
    assert sorted(HeaderPatterns(includes, excludes).pick((name, b"v") for name in names)) == picked


# -- webhooks


async def test_disabled_webhooks_do_not_prevent_runs() -> None:
    body = {**AGENT, "webhook": "https://receiver.example.com/x", "on_completion": "keep"}
    async with serving(extension=Extension(webhooks=WebhookPolicy(disabled=True))) as (gateway, client):
        assert (await client.post("/runs/wait", json=body)).status_code == 200
        assert await gateway.state.services.manager.webhooks.next_due() is None
        refused = await client.post("/runs/wait", json={**body, "webhook": "http://localhost/"})
        assert refused.status_code == 422
