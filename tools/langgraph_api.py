"""Writes docs/guides/langgraph-api.md: which requests of LangGraph's client the gateway serves.

The requests are those that the methods of the installed `langgraph_sdk` send, each called once; the routes
are those of the gateway's router. Those of the JavaScript client are in `langgraph_js.json`, which
`langgraph_js.mjs` writes where node and the client are installed: `cd examples/langgraph/page && npm ci`.
`make format` writes the page again.

    python tools/langgraph_api.py [--check]
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import sys
from collections.abc import Iterator
from contextlib import aclosing, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from langgraph_sdk._async.stream import AsyncThreadStream
from langgraph_sdk.client import LangGraphClient
from starlette.routing import BaseRoute, WebSocketRoute

from coordinator import RunManager
from coordinator.gateway import create_gateway

TOOLS = Path(__file__).resolve().parent
SCRIPT, RECORDED = TOOLS / "langgraph_js.mjs", TOOLS / "langgraph_js.json"
PACKAGE = TOOLS.parent / "examples" / "langgraph" / "page"
"""The folder with the lock of the JavaScript client, and where it is installed."""
PAGE = Path(__file__).resolve().parent.parent / "docs" / "guides" / "langgraph-api.md"

GROUPS = ("assistants", "threads", "runs", "crons", "store")

IDS = ("assistant_id", "thread_id", "run_id", "cron_id")
ARGUMENTS: dict[str, Any] = {
    **{name: f"{{{name}}}" for name in IDS},
    "checkpoint_id": "{checkpoint_id}",
    "graph_id": "graph",
    "key": "key",
    "metadata": {},
    "namespace": ("a",),
    "namespace_prefix": ("a",),
    "payloads": [],
    "run_ids": ["{run_id}"],
    "schedule": "0 0 * * *",
    "thread_ids": ["{thread_id}"],
    "value": {},
    "values": {},
    "version": 1,
}
"""By name, for whatever a method cannot do without."""

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "runs.stream": ({}, {"thread_id": None}),
    "runs.create": ({}, {"thread_id": None}),
    "runs.wait": ({}, {"thread_id": None}),
    "assistants.get_subgraphs": ({}, {"namespace": "{namespace}"}),
    "threads.stream": ({"thread_id": "{thread_id}"},),
    "threads.get_state": (
        {},
        {"checkpoint_id": "{checkpoint_id}"},
        {"checkpoint": {"thread_id": "{thread_id}"}},
    ),
}
"""Further calls of methods that send more than one kind of request."""


class Request(NamedTuple):
    verb: str
    path: str

    @property
    def key(self) -> tuple[str, str]:
        """What it is matched by: names of parameters differ."""
        return self.verb, re.sub(r"\{[^}]*\}", "{}", self.path)


async def requests_of(group: str, method: str, arguments: dict[str, Any]) -> list[Request]:
    """What a call of the client's method sends. Its answers are empty, which not every method can read."""
    sent: list[Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(Request(request.method, request.url.path))
        return httpx.Response(200, json={})

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(base_url="http://gateway", transport=transport) as http:
        call = getattr(getattr(LangGraphClient(http), group), method)
        signature = inspect.signature(call)
        bound = signature.bind_partial()
        bound.arguments |= {
            name: ARGUMENTS[name] for name, one in signature.parameters.items() if one.default is one.empty
        }
        bound.arguments |= arguments
        try:
            async with asyncio.timeout(5):
                await _exhaust(call(*bound.args, **bound.kwargs))
        except Exception:
            if not sent:
                raise
    return sent


async def _exhaust(called: Any) -> None:
    if inspect.isawaitable(called):
        called = await called
    if isinstance(called, AsyncThreadStream):
        async with called as stream:
            with suppress(Exception):  # of an answer that is none
                await stream.run.start(input={})
            async for _ in stream.events:
                return
    elif hasattr(called, "__aiter__"):
        async with aclosing(called) as parts:
            async for _ in parts:
                return


def methods() -> Iterator[tuple[str, str]]:
    client = LangGraphClient(httpx.AsyncClient())
    for group in GROUPS:
        there: Any = getattr(client, group)
        for name in sorted(dir(there)):
            if not name.startswith("_") and callable(getattr(there, name)):
                yield group, name


class Row(NamedTuple):
    method: str
    requests: tuple[Request, ...]


async def rows() -> list[Row]:
    rows: list[Row] = []
    for group, name in methods():
        called = f"{group}.{name}"
        sent: dict[Request, None] = {}
        for arguments in VARIANTS.get(called, ({},)):
            sent.update(dict.fromkeys(await requests_of(group, name, arguments)))
        rows.append(Row(called, tuple(sent)))
    return rows


def routes() -> list[Request]:
    """Those of the gateway, without pages and probes."""
    requests: list[Request] = []
    for route in create_gateway(RunManager()).routes:
        path = _path(route)
        if path.startswith(("/coordinator", "/docs", "/metrics", "/openapi.json")):
            continue
        verbs = {"WEBSOCKET"} if isinstance(route, WebSocketRoute) else getattr(route, "methods", None) or ()
        requests += [Request(verb, path) for verb in sorted(verbs) if verb != "HEAD"]
    return requests


def _path(route: BaseRoute) -> str:
    return re.sub(r":\w+\}", "}", str(getattr(route, "path", "")))


HEAD = """\
# What of LangGraph's API is served

Route by route, as `langgraph_sdk` {sdk} sends its requests and as the gateway's router has its routes.
**Not served** means 404 at the gateway. This page is written by `tools/langgraph_api.py`, which calls each
method of the client; `make format` writes it again, and a test compares. Another test drives each served
method on three workers, on SQLite with Valkey and on PostgreSQL: `tests/langgraph/test_every_method.py`.
What each route does, and where it differs, is in [the HTTP API](gateway.md).

{served} of {all} requests are served.
"""


REASONS = {
    "threads.patchState": "no route of LangGraph's server either: `threads.update` changes metadata",
}
"""Why a request of the JavaScript client is not served."""

JAVASCRIPT = """\
## The JavaScript client

As `@langchain/langgraph-sdk` {version} sends its requests (`tools/langgraph_js.mjs`). `useStream` of
`@langchain/react` is made of the parts of `threads.stream`.

{served} of {all} requests are served. Generative UI (`/ui`) is not served.

| method of the client | request | |
|---|---|---|"""


def of_javascript() -> tuple[str, list[Row]]:
    """The version of the client, and what its methods send."""
    recorded = json.loads(RECORDED.read_text())
    rows = [
        Row(method, tuple(Request(*request.split(" ", 1)) for request in requests))
        for method, requests in recorded["calls"].items()
    ]
    return recorded["version"], rows


def _javascript(keys: set[tuple[str, str]]) -> list[str]:
    version, rows = of_javascript()
    known = {request.key for row in rows for request in row.requests}
    lines = [JAVASCRIPT.format(version=version, served=len(known & keys), all=len(known))]
    for row in rows:
        lines += _lines(row, keys)
    return [*lines, ""]


def page(rows: list[Row], served: list[Request]) -> str:
    keys = {route.key for route in served}
    known = {request.key for row in rows for request in row.requests}
    sent = known | {request.key for row in of_javascript()[1] for request in row.requests}
    lines: list[str] = []
    for group in GROUPS:
        lines += [f"## {group.capitalize()}", "", "| method of the client | request | |", "|---|---|---|"]
        for row in rows:
            if row.method.startswith(f"{group}."):
                lines += _lines(row, keys)
        lines.append("")
    lines += _javascript(keys)
    others = [route for route in served if route.key not in sent]
    lines += ["## Routes that no method of these clients requests", "", "| route |", "|---|"]
    lines += [
        f"| `{route.verb} {route.path}` |" for route in sorted(others, key=lambda one: (one.path, one.verb))
    ]
    head = HEAD.format(sdk=version("langgraph-sdk"), served=len(known & keys), all=len(known))
    return "\n".join([head, *lines]) + "\n"


def _lines(row: Row, served: set[tuple[str, str]]) -> Iterator[str]:
    for request in row.requests:
        verdict = "served" if request.key in served else f"**not served**{_reason(row.method)}"
        yield f"| `{row.method}` | `{request.verb} {request.path}` | {verdict} |"


def _reason(method: str) -> str:
    return f": {REASONS[method]}" if method in REASONS else ""


def written() -> str:
    return page(asyncio.run(rows()), routes())


def main(arguments: list[str]) -> int:
    text = written()
    if arguments == ["--check"]:
        return 0 if PAGE.read_text() == text else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
