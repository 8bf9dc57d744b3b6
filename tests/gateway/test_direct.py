"""Frequent routes are served without FastAPI, and exactly as FastAPI serves them."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator import RunContext, RunManager, Settings
from coordinator.gateway import Gateway, GatewaySettings, create_gateway
from coordinator.gateway.caller import Role
from coordinator.gateway.direct import DirectRoutes
from coordinator.gateway.routes import frequent
from tests.support.asgi import BASE, key_for

pytestmark = pytest.mark.timeout(240)  # tests of many steps

JSON = ("content-type", "application/json")
KEYS = {Role.reader: "reader", Role.user: "user"}
SEED = 7
MIXED = 300


@dataclass(frozen=True)
class Sent:
    """A request. The path may have {thread}, {run} and {busy}, which each way replaces by its own."""

    method: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | tuple[bytes, ...] = b""
    key: Role | None = Role.user


RUN = b'{"assistant_id":"agent","input":{"q":1},"if_not_exists":"create"}'
NEW = "{new}"

LIST = Sent("GET", "/threads/{thread}/runs")
PLAIN = [
    *(
        Sent("POST", path, headers=(JSON,), body=RUN)
        for start in (f"/threads/{NEW}/runs", "/runs")
        for path in (start, f"{start}/wait", f"{start}/stream")
    ),
    LIST,
    Sent("GET", "/threads/{thread}/runs/{run}"),
    Sent("GET", "/threads/{thread}/runs/{run}/join"),
    Sent("GET", "/threads/{thread}/runs/{run}/stream"),
    Sent("POST", "/threads/{busy}/runs/{live}/cancel"),
    Sent("GET", "/runs/{run}"),
    Sent("GET", "/runs/{run}/join"),
    Sent("GET", "/runs/{run}/stream"),
    Sent("POST", "/threads/search", headers=(JSON,), body=b'{"ids":["{thread}"]}'),
]
"""The least that a client sends to each frequent route."""

QUERIES = (
    "limit=1&offset=1", "limit=0", "limit=", "limit=1&limit=2", "limit=one", "offset=99999999999",
    "status=success", "status=none", "select=run_id&select=status&select=kwargs", "select=no", "select=",
    "cancel_on_disconnect=1", "cancel_on_disconnect=maybe", "cancel_on_disconnect=1&cancel_on_disconnect=0",
    "stream_mode=values&stream_mode=updates", 'stream_mode=["values"]', "stream_mode=no", "stream_mode=",
    "stream_mode=[", "wait=1", "wait=true&action=rollback", "action=rollback", "action=no", "wait=2",
    "unknown=1", "wait=0&unknown=1", "limit=%31", "%6cimit=1", "limit=%ff", "&&", "=", "limit", "a" * 2000,
)  # fmt: skip
HEADERS = (
    (), (("content-type", "text/plain"),), (("content-type", "application/json; charset=utf-8"),),
    (("content-type", "APPLICATION/JSON"),), (("content-type", "application/vnd.x+json"),),
    (("content-type", "application/json;"),), (("content-type", ""),), (JSON, JSON),
    (JSON, ("content-type", "text/plain")), (JSON, ("idempotency-key", "{new}")),
    (JSON, ("idempotency-key", "")), (JSON, ("idempotency-key", "k" * 256)),
    (JSON, ("idempotency-key", "a"), ("idempotency-key", "b")), (JSON, ("idempotency-key", "\xe9")),
    (JSON, ("last-event-id", "0")), (JSON, ("last-event-id", "none")), (JSON, ("last-event-id", "")),
    (JSON, ("last-event-id", "1-0"), ("last-event-id", "0")), (JSON, ("x-request-id", "mine")),
    (JSON, ("accept", "text/html")), (JSON, ("accept-encoding", "gzip")),
)  # fmt: skip
BODIES: tuple[bytes | tuple[bytes, ...], ...] = (
    b"", b"null", b"[]", b"{}", b'"text"', b"1", b"{", b"\xff", b"\xef\xbb\xbf{}", b'{"input":NaN}',
    b'{"assistant_id":"agent","input":1e999}', b'{"assistant_id":"agent","input":"\\ud800"}',
    b'{"assistant_id":"agent"}', b'{"assistant_id":"unknown"}', b'{"assistant_id":null}',
    b'{"assistant_id":1}',
    b'{"assistant_id":"' + str(UUID(int=1)).encode() + b'"}', b'{"assistant_id":"agent","unknown":1}',
    b'{"assistant_id":"agent","if_not_exists":"create","config":null,"metadata":{"a":[1,{"b":null}]}}',
    b'{"assistant_id":"agent","if_not_exists":"create","stream_mode":"updates","stream_resumable":true}',
    b'{"assistant_id":"agent","if_not_exists":"create","config":{"tags":["a"],"configurable":{"x":1}}}',
    b'{"assistant_id":"agent","if_not_exists":"create","command":{"resume":1},"input":null}',
    b'{"assistant_id":"agent","if_not_exists":"create","checkpoint":{"checkpoint_id":"c"}}',
    b'{"assistant_id":"agent","if_not_exists":"create","webhook":"no url"}',
    b'{"assistant_id":"agent","if_not_exists":"create","metadata":{"a":"\\u0000"}}',
    b'{"assistant_id":"agent","if_not_exists":"create","after_seconds":"1"}',
    b'{"assistant_id":"agent","assistant_id":"other"}', b'{"assistant_id":"fails","if_not_exists":"create"}',
    b'{"assistant_id":"agent","input":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"assistant_id":"agent","input":[' + b"1," * 210_000 + b"1]}",
    b'{"assistant_id":"agent","if_not_exists":"create","input":"' + b"," * 210_000 + b'"}',
    b'{"assistant_id":"agent","input":"' + b"x" * (5 << 20) + b'"}',
    (RUN[:9], b"", RUN[9:]), (RUN[:9],), (b"", b""), b'{"ids":["{thread}"],"select":["thread_id","values"]}',
    b'{"ids":["{thread}"],"extract":{"x":"values.done"}}', b'{"limit":0}', b'{"ids":["no"]}',
)  # fmt: skip
PATHS: tuple[Callable[[str], str], ...] = (
    lambda path: path + "/",
    lambda path: path.replace("/runs", "//runs"),
    lambda path: path.replace("{", "x{", 1),
    lambda path: path.replace("{thread}", "not-a-uuid").replace("{run}", "crons"),
    lambda path: path.replace("{run}", str(UUID(int=1))).replace("{thread}", str(UUID(int=2))),
    lambda path: path.replace("{run}", "{RUN}").replace("{thread}", "{THREAD}"),
    lambda path: path.replace("{run}", "{bare_run}").replace("{thread}", "{bare_thread}"),
    lambda path: path.replace("{run}", "urn:uuid:{run}").replace("{thread}", "%7B{thread}%7D"),
    lambda path: path.replace("runs", "%72uns"),
)
METHODS = "HEAD", "OPTIONS", "PUT", "PATCH", "get", "POST", "GET"


def variants() -> Iterator[Sent]:
    """Every plain request, each of them changed in one way, and some changed in several."""
    yield from PLAIN
    for plain in PLAIN:
        yield from (replace(plain, query=query) for query in QUERIES)
        yield from (replace(plain, headers=headers) for headers in HEADERS)
        yield from (replace(plain, body=body) for body in BODIES if plain.method == "POST")
        yield from (replace(plain, path=change(plain.path)) for change in PATHS)
        yield from (replace(plain, method=method) for method in METHODS)
        yield from (replace(plain, key=key) for key in (None, Role.reader))
        yield replace(plain, key=Role.reader, query="cancel_on_disconnect=true")
    chance = random.Random(SEED)
    for _ in range(MIXED):
        plain = chance.choice(PLAIN)
        yield replace(
            plain,
            path=chance.choice([plain.path] * 8 + [change(plain.path) for change in PATHS]),
            query="&".join(chance.sample(QUERIES, chance.choice((0, 0, 1, 2)))),
            headers=chance.choice([(JSON,), *HEADERS]),
            body=chance.choice([RUN, *BODIES]) if plain.method == "POST" else b"",
            key=chance.choice([Role.user, Role.user, Role.reader, None]),
        )


async def agent(ctx: RunContext) -> dict[str, Any]:
    del ctx
    return {"done": True}


async def fails(ctx: RunContext) -> None:
    raise ValueError(ctx.run.thread_id)


async def endless(ctx: RunContext) -> None:
    await ctx.abort_event.wait()


AGENTS = {"agent": agent, "fails": fails, "endless": endless}


class Way:
    """A gateway, a client of it, and the threads and runs that its requests are about."""

    def __init__(
        self, gateway: Gateway, client: httpx.AsyncClient, keys: dict[Role | None, dict[str, str]]
    ) -> None:
        self.gateway, self._client, self._keys = gateway, client, keys
        self.ids: dict[str, str] = {}
        self.through_fastapi = 0
        self._fastapi: ASGIApp = gateway.router.app

    async def serve_by_fastapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.through_fastapi += 1
        await self._fastapi(scope, receive, send)

    async def prepare(self) -> None:
        headers = self._keys[Role.user]
        thread = (await self._client.post("/threads", json={}, headers=headers)).json()["thread_id"]
        path = f"/threads/{thread}/runs"
        for _ in range(3):
            await self._client.post(f"{path}/wait", json={"assistant_id": "agent"}, headers=headers)
        run = (await self._client.get(path, headers=headers)).json()[0]["run_id"]
        self.ids = {"thread": thread, "run": run}
        self.ids |= {name.upper(): value.upper() for name, value in self.ids.items()}
        self.ids |= {f"bare_{name}": self.ids[name].replace("-", "") for name in ("thread", "run")}
        await self.start()

    async def start(self) -> None:
        """Starts a run that lasts until it is cancelled."""
        headers = self._keys[Role.user]
        live = await self._client.post(
            f"/threads/{uuid4()}/runs",
            json={"assistant_id": "endless", "if_not_exists": "create"},
            headers=headers,
        )
        self.ids |= {"busy": live.json()["thread_id"], "live": live.json()["run_id"]}

    async def answer(self, request: Sent) -> tuple[int, Any, bytes]:
        """Returns status, headers and body, without what differs between any two requests."""
        ids = {**self.ids, "new": str(uuid4())}
        parts = request.body if isinstance(request.body, tuple) else (request.body,)
        parts = tuple(part.replace(b"{thread}", self.ids["thread"].encode()) for part in parts)

        async def chunks() -> AsyncGenerator[bytes]:
            for part in parts:
                yield part

        headers = [
            (name.encode(), _filled(value, ids).encode("latin-1"))
            for name, value in (*self._keys[request.key].items(), *request.headers)
        ]
        query = f"?{request.query}" if request.query else ""
        response = await self._client.request(
            request.method,
            _filled(request.path, ids) + query,
            headers=headers,
            content=chunks() if isinstance(request.body, tuple) else parts[0] or None,
        )
        if "/cancel" in request.path and response.status_code in (200, 202):
            await self.start()
        headers_of_response = [
            (name, _same(value.encode()))
            for name, value in response.headers.multi_items()
            if name not in ("x-request-id", "content-length")
        ]
        if "content-length" in response.headers and request.method != "HEAD":
            assert int(response.headers["content-length"]) == len(response.content)
        return response.status_code, sorted(headers_of_response), _same(response.content)


_DIFFERS = re.compile(
    rb"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}"
    rb"|\d{4}-\d\d-\d\dT[0-9:.]+"
)


def _same(text: bytes) -> bytes:
    return _DIFFERS.sub(b"*", text)


def _filled(text: str, ids: dict[str, str]) -> str:
    for name, value in ids.items():
        text = text.replace(f"{{{name}}}", value)
    return text


@asynccontextmanager
async def way(folder: Path, *, direct: bool, mounted: bool = False) -> AsyncGenerator[Way]:
    path = folder / f"keys of {direct}"
    keys: dict[Role | None, dict[str, str]] = {role: key_for(path, role, "alice") for role in KEYS}
    manager = RunManager(settings=Settings(tick=0.05, grace=0))
    settings = GatewaySettings(api_keys=path)
    gateway = create_gateway(manager, dict(AGENTS), settings=settings)
    app = Starlette(routes=[Mount("/agents", gateway)]) if mounted else gateway
    base = f"{BASE}/agents" if mounted else BASE
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with gateway.running(), httpx.AsyncClient(transport=transport, base_url=base) as client:
        one = Way(gateway, client, {**keys, None: {}})
        routes = frequent.of(gateway.routes) if direct else ()
        gateway.router.middleware_stack = DirectRoutes(one.serve_by_fastapi, routes)
        await one.prepare()
        yield one


async def test_answers_are_those_of_fastapi(tmp_path: Path) -> None:
    async with way(tmp_path, direct=True) as direct, way(tmp_path, direct=False) as fastapi:
        statuses = set[int]()
        for request in variants():
            answer = await direct.answer(request)
            assert answer == await fastapi.answer(request), request
            statuses.add(answer[0])
        assert statuses >= {200, 202, 401, 403, 404, 405, 413, 422}


@pytest.mark.parametrize("mounted", [False, True], ids=["alone", "mounted"])
async def test_plain_requests_do_not_pass_through_fastapi(tmp_path: Path, mounted: bool) -> None:
    async with way(tmp_path, direct=True, mounted=mounted) as one:
        before = one.through_fastapi
        for request in (*PLAIN, replace(LIST, query="limit=1&select=run_id")):
            status, _, _ = await one.answer(request)
            assert status in (200, 202), request
            assert one.through_fastapi == before, request
        refused = replace(PLAIN[0], body=b"{}")
        assert (await one.answer(refused))[0] == 422
        assert one.through_fastapi == before + 1


def test_plain_requests_cover_the_frequent_routes() -> None:
    gateway = create_gateway(RunManager())
    of_routes = {
        (method, re.sub(r"\{[^}]*\}", "*", route.path))
        for route in frequent.of(gateway.routes)
        for method in route.methods
    }
    assert {(request.method, re.sub(r"\{[^}]*\}", "*", request.path)) for request in PLAIN} == of_routes
    assert len(of_routes) == len(frequent.ENDPOINTS)


async def test_role_of_a_reader_is_enough_to_read_directly(tmp_path: Path) -> None:
    async with way(tmp_path, direct=True) as one:
        before = one.through_fastapi
        for request in PLAIN:
            if request.method == "GET":
                assert (await one.answer(replace(request, key=Role.reader)))[0] == 200, request
        assert one.through_fastapi == before
